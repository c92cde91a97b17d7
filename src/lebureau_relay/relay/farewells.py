"""Farewells: what remains to be done for clients that have gone, when the loop has time for it.

To close a socket costs some 10 µs and a line in the log some 50. Ten thousand tabs that leave in
one moment, as when a proxy in front dies, would stop those that stay for more than half a second;
so sockets and lines wait here and a few go with each turn. Nothing is sent to who has gone.
"""

import asyncio
from collections import deque
from typing import Final

from lebureau_relay.errors import CloseReason
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.turns import Turns

# About a millisecond of a turn, each.
_LINES_PER_TURN: Final = 20
_SOCKETS_PER_TURN: Final = 64
# Streams may end for ever as fast as they are opened; then lines are told at once, as it were
# without this room, rather than pile up. At 200 bytes each this is 4 MB.
_MAX_WAITING: Final = 20_000


class Farewells:
    """What is still to be said of streams that are gone."""

    def __init__(self, observer: Observer, turns: Turns) -> None:
        self._observer = observer
        self._turns = turns
        self._waiting: deque[tuple[FeedKey, CloseReason, float]] = deque()
        self._open: deque[asyncio.Transport] = deque()  # as many as there are streams, at most
        self._finished = False

    def add(self, key: FeedKey, reason: CloseReason, age_s: float) -> None:
        """A stream has ended."""
        if not self._waiting and not self._finished:
            self._turns.chore(self._some)
        self._waiting.append((key, reason, age_s))
        if self._finished or len(self._waiting) > _MAX_WAITING:
            self._say()

    def close(self, transport: asyncio.Transport) -> None:
        """The client has closed its side; what is unsent may still reach it."""
        if not self._open:
            self._turns.chore(self._close_some)
        self._open.append(transport)

    def finish(self) -> None:
        """Say all that is left, and what comes at once: there may be no more turns."""
        self._finished = True
        while self._waiting:
            self._say()

    def _close_some(self) -> bool:
        for _ in range(min(_SOCKETS_PER_TURN, len(self._open))):
            self._open.popleft().close()
        return not self._open

    def _some(self) -> bool:
        for _ in range(min(_LINES_PER_TURN, len(self._waiting))):
            self._say()
        return not self._waiting

    def _say(self) -> None:
        key, reason, age_s = self._waiting.popleft()
        self._observer.note(
            "info",
            "stream.closed",
            stream=key.stream.name,
            identity=key.identity,
            reason=reason.value,
            age_s=round(age_s, 3),
        )
