"""The simulated account base without HTTP: who exists, what happens to them, and under which ids.

It stands between the pure story and the server so that every way to emit (ticker, control API,
test) is one path, on which the faults of the SOURCE kind act. Nothing here waits.
"""

import json
import time
from collections.abc import Iterator, Mapping
from types import EllipsisType
from typing import Final

from lebureau_relay.simulator.accounts import Accounts, User
from lebureau_relay.simulator.catalogue import Fault
from lebureau_relay.simulator.channel import Channel, Record
from lebureau_relay.simulator.faults import FaultBook, FaultOrder
from lebureau_relay.simulator.options import MAX_RECORDS_HELD, IdMode, SimulatorOptions, Stream
from lebureau_relay.simulator.story import Story

_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_OVERSIZE_BYTES: Final = 2 * 1024 * 1024
_SOME: Final = 3


class World:
    """Users, their stories and their channels. `faults` is the book that the server shares."""

    __slots__ = (
        "_capacity",
        "_channels",
        "_now_text",
        "_one_in",
        "_options",
        "_second",
        "_stories",
        "accounts",
        "emitted",
        "faults",
    )

    def __init__(self, options: SimulatorOptions, faults: FaultBook) -> None:
        self._options = options
        self._capacity = min(options.log_events, max(1, MAX_RECORDS_HELD // (2 * options.users)))
        self._one_in = {IdMode.ALL: 1, IdMode.SOME: _SOME, IdMode.NONE: 0}[options.ids]
        self._second, self._now_text = 0, ""
        self._channels: dict[tuple[str, Stream], Channel] = {}
        self._stories: dict[str, Story] = {}
        self.accounts = Accounts(options.seed, options.users)
        self.faults = faults
        self.emitted = 0
        for user in self.accounts.users.values():
            self._settle(user)

    def _settle(self, user: User) -> None:
        self._stories[user.id] = Story(f"{self._options.seed}:{user.id}", user.tier, self._now())
        for stream in Stream:
            self._channels[user.id, stream] = Channel(self._capacity)

    def add_user(self) -> User:
        """A new account with a story and channels of its own."""
        user = self.accounts.add_user()
        self._settle(user)
        return user

    def channel(self, user: str, stream: Stream) -> Channel:
        """One user's stream. Raises KeyError for an unknown user."""
        return self._channels[user, stream]

    def channels(
        self, user: str | None = None, stream: Stream | None = None
    ) -> Iterator[tuple[str, Stream, Channel]]:
        """All channels, or those of one user, of one stream, or both."""
        for (owner, kind), channel in self._channels.items():
            if user in {None, owner} and stream in {None, kind}:
                yield owner, kind, channel

    def desktops(self, user: str) -> list[dict[str, object]]:
        """The user's desktops for `GET /api/desktops`."""
        return self._stories[user].desktops()

    def tell(self, user: str, stream: Stream) -> Record:
        """Emit the next event of the user's story."""
        kind, payload = self._stories[user].next(stream, self._now())
        return self.emit(user, stream, kind, payload)

    def emit(
        self,
        user: str,
        stream: Stream,
        kind: str,
        payload: Mapping[str, object],
        *,
        event_id: str | EllipsisType | None = ...,
        event: str = "",
    ) -> Record:
        """Emit an event of any type.

        `event_id` is numbered unless given, None leaves it out; `event` names the SSE message.
        """
        channel = self._channels[user, stream]
        orders = self.faults.sources(user, stream) if self.faults else ()
        stamp = {"t": time.time_ns()} if self._options.stamp else {}
        body: dict[str, object] = {**stamp, "type": kind, "payload": payload}
        for order in orders:
            if order.fault is Fault.OVERSIZE:
                body["padding"] = "x" * order.number(_OVERSIZE_BYTES)
            elif order.fault in {Fault.RENUMBER, Fault.AMNESIA}:
                strike(channel, order.fault)
        name = self._next_id(channel, orders) if isinstance(event_id, EllipsisType) else event_id
        data = _to_json(body)
        self.emitted += 1
        record = channel.append(name, event, data)
        if any(each.fault is Fault.DOUBLED_IDS and each.argument for each in orders):
            self.emitted += 1
            channel.append(name, event, data)
        return record

    def emit_raw(
        self, user: str, stream: Stream, raw: bytes, event_id: str | None = None
    ) -> Record:
        """Put exact bytes on the wire, whatever they are.

        `event_id` is what a `Last-Event-ID` can name them by.
        """
        self.emitted += 1
        return self._channels[user, stream].append(event_id, "", "", raw)

    def _now(self) -> str:
        """ISO 8601 to the second, made once a second: it is the dearest part of an event."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._now_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return self._now_text

    def _next_id(self, channel: Channel, orders: list[FaultOrder] | tuple[()]) -> str | None:
        one_in = self._one_in
        channel.turn += 1
        for order in orders:
            match order.fault:
                case Fault.NO_IDS:
                    one_in = 0
                case Fault.SOME_IDS:
                    one_in = order.number(_SOME)
                case Fault.DOUBLED_IDS if not order.argument and channel.turn % 2 == 0:
                    return channel.last_id
        if not one_in or channel.turn % one_in:
            return None
        return f"evt_{channel.turn:010d}"


def strike(channel: Channel, fault: Fault) -> None:
    """Do to a channel what RENUMBER and AMNESIA say."""
    if fault is Fault.RENUMBER:
        channel.turn = 0
    else:
        channel.forget()
