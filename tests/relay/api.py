"""The upstream API in memory: a log, who listens, and how honest it is about cursors.

It speaks bytes through the relay's own decoder, as `upstream` does, so events without ids get the
names that they would get in production.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Event
from lebureau_relay.core.sse import Decoder
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.relay.ports import FeedKey, Take

# Small enough that a test can pass it, big enough for one frame that fills more than a write.
MAX_EVENT_BYTES = 20_000
READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class Said:
    """One event of the log. `id` is None where upstream gave none."""

    id: str | None
    data: str
    type: str = ""

    @property
    def block(self) -> bytes:
        lines = [] if self.id is None else [f"id: {self.id}"]
        lines += [f"event: {self.type}"] if self.type else []
        lines += [f"data: {line}" for line in self.data.split("\n")]
        return "\n".join([*lines, "", ""]).encode()


class Line:
    """One open subscription: chunks that are on their way, and how it ended."""

    def __init__(self, ask: "Ask", cursor: bytes) -> None:
        self.ask = ask
        self.retry_s: float | None = None
        self.idle_timeout_s = 3_600.0
        self.closed: SourceProblem | None = None  # by the relay
        self._decoder = Decoder(MAX_EVENT_BYTES, cursor)
        self._chunks: deque[bytes] = deque()
        self._failure: SourceFailure | None = None
        self._changed = asyncio.Event()
        self._reading = False

    @property
    def open(self) -> bool:
        return self.closed is None and self._failure is None

    def send(self, *chunks: bytes) -> None:
        self._chunks.extend(chunk for chunk in chunks if chunk)
        self._changed.set()

    def _take(self) -> bytes:
        """What one read of the socket returns of that which has come."""
        taken, size_bytes = [], 0
        while self._chunks and size_bytes < READ_BYTES:
            taken.append(self._chunks.popleft())
            size_bytes += len(taken[-1])
        return b"".join(taken)

    def cut(self, problem: SourceProblem = SourceProblem.CUT, **facts: float) -> None:
        """The network ends it; what was sent before arrives."""
        self._failure = SourceFailure(problem, "cut by the test", **facts)
        self._changed.set()

    async def read(self, take: Take) -> Sequence[Event]:
        assert not self._reading, "two readers on one subscription"
        self._reading = True
        try:
            while True:
                if self.closed is not None:
                    raise SourceFailure(self.closed, "closed by the relay")
                if self._chunks:
                    await asyncio.sleep(0)  # bytes come with a turn of the loop
                    if left := take(self._decoder.feed(self._take())):
                        return left
                    continue
                if self._failure is not None:
                    raise self._failure
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._reading = False

    def close(self, problem: SourceProblem = SourceProblem.REPLACED) -> None:
        if self.closed is None:
            self.closed = problem
            self._changed.set()


@dataclass(frozen=True)
class Ask:
    """One request for a subscription, as upstream saw it."""

    key: FeedKey
    credential: Credential
    cursor: str
    at_s: float


@dataclass
class Api:
    """A Source. `answers` are used up first, one per request: a failure, or None for a stream."""

    log: list[Said] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    answers: deque[SourceFailure | None] = field(default_factory=deque)
    refused: set[Credential] = field(default_factory=set)  # answered 401
    known: str = "honours"  # what a cursor is to it: honours, live (ignored), whole (ignored)
    rejects_unknown: bool = False  # answers 400 for a cursor that it doesn't know
    up: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: requests hang
    notice: Callable[[Ask], None] = field(default=lambda _: None)  # a stream is about to open

    def __post_init__(self) -> None:
        self.up.set()

    # -- relay.ports.Source

    async def open(self, key: FeedKey, credential: Credential, cursor: bytes) -> Line:
        loop = asyncio.get_running_loop()
        ask = Ask(key, credential, cursor.decode(), loop.time())
        self.asks.append(ask)
        await self.up.wait()
        answer = self.answers.popleft() if self.answers else None
        if answer is not None:
            raise answer
        if credential in self.refused:
            raise SourceFailure(SourceProblem.UNAUTHORIZED, "answered 401", status=401)
        if ask.cursor and self.rejects_unknown and self._index(ask.cursor) is None:
            raise SourceFailure(SourceProblem.CURSOR_REJECTED, "answered 400", status=400)
        self.notice(ask)
        line = Line(ask, cursor)
        line.send(*(said.block for said in self.after(ask)))
        self.lines.append(line)
        return line

    def after(self, ask: Ask) -> list[Said]:
        """What a new subscription gets at once."""
        if not ask.cursor:
            return []
        if self.known == "whole":
            return list(self.log)
        index = self._index(ask.cursor)
        if self.known == "live" or index is None:
            return []
        return self.log[index + 1 :]

    def _index(self, cursor: str) -> int | None:
        found = [index for index, said in enumerate(self.log) if said.id == cursor]
        return found[-1] if found else None

    # -- the test's side

    @property
    def listening(self) -> list[Line]:
        return [line for line in self.lines if line.open]

    @property
    def line(self) -> Line:
        """The one open subscription."""
        (line,) = self.listening
        return line

    @property
    def cursors(self) -> list[str]:
        """What each request asked for."""
        return [ask.cursor for ask in self.asks]

    def note(self, *events: Said) -> None:
        """Something happens that nobody is sent: it stands in the log."""
        self.log.extend(events)

    def emit(self, *events: Said) -> None:
        """Something happens: every open subscription gets it, in one chunk."""
        self.note(*events)
        chunk = b"".join(said.block for said in events)
        for line in self.listening:
            line.send(chunk)

    def emit_ids(self, *ids: int | str) -> None:
        """Events with these ids; each one's data is its id."""
        self.emit(*(said(one) for one in ids))

    def note_ids(self, *ids: int | str) -> None:
        self.note(*(said(one) for one in ids))

    def cut(self, problem: SourceProblem = SourceProblem.CUT, **facts: float) -> None:
        for line in self.listening:
            line.cut(problem, **facts)

    def fail(self, problem: SourceProblem, **facts: float) -> None:
        """The next request that has no answer yet gets this one."""
        self.answers.append(SourceFailure(problem, "as the test wishes", **facts))


def said(one: int | str, data: str | None = None, **facts: str) -> Said:
    """An event with this id, whose data is the id unless something else is given."""
    return Said(str(one), str(one) if data is None else data, **facts)


def unnamed(data: str) -> Said:
    """An event without an id of its own."""
    return Said(None, data)
