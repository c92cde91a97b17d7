"""One user's stream as the API keeps it: a bounded log with an index by id, and who reads it.

Replay and live are one path: a subscription is a number in this log and reads on from there, so
there is no moment between the two in which an event could be lost or repeated. Nothing here waits
or writes.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """An event as it was emitted. `number` counts them without holes, also those without an id.

    `raw`, where given, is exactly what goes on the wire instead of a frame made of the rest.
    """

    number: int
    id: str | None
    event: str
    data: str
    raw: bytes | None = None

    @property
    def frame(self) -> bytes:
        """The block on the wire, with LF line ends."""
        if self.raw is not None:
            return self.raw
        head = f"id: {self.id}\n" if self.id is not None else ""
        name = f"event: {self.event}\n" if self.event else ""
        # Data is JSON on one line, but a test may emit what it likes.
        data = self.data.replace("\n", "\ndata: ") if "\n" in self.data else self.data
        return f"{head}{name}data: {data}\n\n".encode()


class Listener(Protocol):
    """Who reads a channel."""

    def wake(self) -> None:
        """There is more to read."""


class Channel:
    """The log of one user's stream. `capacity` bounds its records; the oldest go first."""

    __slots__ = (
        "_by_id",
        "_capacity",
        "_listeners",
        "_records",
        "_remembered_from",
        "last_id",
        "opened",
        "peak",
        "top",
        "turn",
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._records: deque[Record] = deque()
        self._by_id: dict[str, int] = {}
        self._remembered_from = 0
        self._listeners: list[Listener] = []
        self.top = 0  # the next record's number
        self.turn = 0  # the number in the last id
        self.last_id: str | None = None
        self.opened = 0  # subscriptions ever
        self.peak = 0  # most at one time

    def append(
        self, event_id: str | None, event: str, data: str, raw: bytes | None = None
    ) -> Record:
        """Log an event and wake who listens. Several may carry one id; it then means the newest."""
        record = Record(self.top, event_id, event, data, raw)
        self.top += 1
        self._records.append(record)
        if event_id:
            self._by_id[event_id] = record.number
            self.last_id = event_id
        if len(self._records) > self._capacity:
            self._evict()
        for listener in self._listeners:
            listener.wake()
        return record

    def _evict(self) -> None:
        gone = self._records.popleft()
        if gone.id and self._by_id.get(gone.id) == gone.number:
            del self._by_id[gone.id]

    @property
    def oldest(self) -> int:
        """The number of the oldest record still held."""
        return self.top - len(self._records)

    @property
    def records(self) -> tuple[Record, ...]:
        """What was emitted, oldest first, as far as the log goes; amnesia spares it."""
        return tuple(self._records)

    def after(self, last_event_id: str) -> int:
        """Where a client that has seen this id reads on.

        The top, so live only, if the id says nothing here: too old, forgotten, or never given.
        """
        seen = self._by_id.get(last_event_id)
        return self.top if seen is None else seen + 1

    @property
    def beginning(self) -> int:
        """Where a reader of the whole log starts."""
        return max(self.oldest, self._remembered_from)

    def read(self, start: int, most: int) -> Sequence[Record]:
        """Up to `most` records from the number `start`, which must not lie before `oldest`."""
        behind = self.top - start
        if behind == 1:  # the usual case: live
            return (self._records[-1],)
        skip = len(self._records) - behind
        return tuple(islice(self._records, skip, skip + most))

    def forget(self) -> None:
        """Amnesia: no id is known any more, and no replay goes back past now.

        Open subscriptions miss nothing.
        """
        self._by_id.clear()
        self._remembered_from = self.top

    @property
    def open(self) -> int:
        """How many subscriptions are open."""
        return len(self._listeners)

    def join(self, listener: Listener) -> None:
        """Wake this one from now on."""
        self._listeners.append(listener)
        self.opened += 1
        self.peak = max(self.peak, self.open)

    def leave(self, listener: Listener) -> None:
        """Wake it no longer."""
        self._listeners.remove(listener)
