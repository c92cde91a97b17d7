"""Farewells: the log lines of streams that have ended, told when the loop has time for them.

A line costs some 50 µs. Ten thousand tabs that leave in one moment, as when a proxy in front dies,
would stop those that stay for half a second; so lines wait here and a few go with each turn. They
are counted at once: only the log is late, and only then.
"""

from collections import deque
from typing import Final

from lebureau_relay.errors import CloseReason
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.turns import Turns

# About a millisecond of a turn.
_LINES_PER_TURN: Final = 20
# Streams may end for ever as fast as they are opened; then lines are told at once, as it were
# without this room, rather than pile up. At 200 bytes each this is 4 MB.
_MAX_WAITING: Final = 20_000


class Farewells:
    """What is still to be said of streams that are gone."""

    def __init__(self, observer: Observer, turns: Turns) -> None:
        self._observer = observer
        self._turns = turns
        self._waiting: deque[tuple[FeedKey, CloseReason, float]] = deque()
        self._finished = False

    def add(self, key: FeedKey, reason: CloseReason, age_s: float) -> None:
        """A stream has ended."""
        if not self._waiting and not self._finished:
            self._turns.chore(self._some)
        self._waiting.append((key, reason, age_s))
        if self._finished or len(self._waiting) > _MAX_WAITING:
            self._say()

    def finish(self) -> None:
        """Say all that is left, and what comes at once: there may be no more turns."""
        self._finished = True
        while self._waiting:
            self._say()

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
