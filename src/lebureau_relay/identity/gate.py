"""How many credentials that nobody has vouched for may be asked about, so that their 401s stay few.

Upstream counts failed authentications by address, and all users of the relay share its one address:
ten bad keys would lock everybody out. So the gate remembers the 401s of the last minute exactly,
and lets at most as many unknown credentials upstream at once as 401s are left: each takes a place
before it is asked about, and gives it back. Twenty thousand bad keys in one millisecond then cost
upstream no more than eight do.

The memory is exact rather than a GCRA: one with a full minute's burst lets nearly twice its rate
through in the worst minute, 15 of a limit of 8, where upstream bears 10.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from lebureau_relay.identity.asking import Answer, Outcome
from lebureau_relay.relay.ports import Clock

_WINDOW_S: Final = 60.0
# A newcomer's patience: after a restart many good users queue for few places, each for one round
# trip.
WAIT_S: Final = 10.0
# How many may queue; at 50 ms a question and eight places that is about what WAIT_S can serve.
MAX_WAITING: Final = 2000
# When a place is taken back whose taker never said how it went. Longer than a stream is given to
# connect; to be early would only let one more in.
PLACE_LAPSES_S: Final = 20.0


@dataclass(slots=True)
class _Turn:
    """A place in the queue, shared by all who ask about one credential."""

    future: asyncio.Future[Answer | None]
    waiters: int = 0


class Gate:
    """The way upstream for unknown credentials, by digest. `limit` is 401s a minute, from 1."""

    __slots__ = ("_clock", "_failures", "_inside", "_limit", "_queue")

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=limit)
        self._inside: dict[bytes, asyncio.TimerHandle] = {}
        self._queue: OrderedDict[bytes, _Turn] = OrderedDict()

    @property
    def spent(self) -> bool:
        """Whether as many 401s happened within the last minute as may."""
        return self._left() <= 0

    async def enter(self, digest: bytes) -> Answer | None:
        """None with a place taken, which `leave` gives back; otherwise the answer of one who may
        not ask.

        Waits while others are being asked about, at most WAIT_S; who has a place already keeps it.
        """
        if digest in self._inside:
            return None
        if self.spent:
            return self._held_back()
        if not self._queue and self._has_room():
            self._take(digest)
            return None
        if digest not in self._queue and len(self._queue) >= MAX_WAITING:
            return Answer(Outcome.UNDECIDED, why="too many new credentials at once")
        return await self._wait(digest)

    async def _wait(self, digest: bytes) -> Answer | None:
        turn = self._queue.get(digest)
        if turn is None:
            turn = self._queue[digest] = _Turn(asyncio.get_running_loop().create_future())
        turn.waiters += 1
        try:
            async with asyncio.timeout(WAIT_S):
                return await asyncio.shield(turn.future)
        except TimeoutError:
            return Answer(Outcome.UNDECIDED, why="others were asked about for too long")
        finally:
            turn.waiters -= 1
            # Nobody wants the turn any more; if it was granted in this very moment, the place
            # lapses by itself.
            if not turn.waiters and self._queue.get(digest) is turn:
                del self._queue[digest]

    def failed(self) -> bool:
        """Count a 401 that happened upstream; True if that was the last one allowed for now."""
        had_left = not self.spent
        self._failures.append(self._clock())
        if self.spent:
            self._turn_all_away()
        return had_left and self.spent

    def leave(self, digest: bytes) -> None:
        """Give the place back, after `failed` if it failed. Harmless without a place."""
        timer = self._inside.pop(digest, None)
        if timer is not None:
            timer.cancel()
            self._admit()

    def _admit(self) -> None:
        while self._queue and self._has_room():
            digest, turn = self._queue.popitem(last=False)
            self._take(digest)
            turn.future.set_result(None)

    def _turn_all_away(self) -> None:
        while self._queue:
            self._queue.popitem()[1].future.set_result(self._held_back())

    def _take(self, digest: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._inside[digest] = loop.call_later(PLACE_LAPSES_S, self.leave, digest)

    def _has_room(self) -> bool:
        return len(self._inside) < self._left()

    def _left(self) -> int:
        """How many more 401s may happen now."""
        horizon = self._clock() - _WINDOW_S
        while self._failures and self._failures[0] <= horizon:
            self._failures.popleft()
        return self._limit - len(self._failures)

    def _held_back(self) -> Answer:
        wait_s = self._failures[0] + _WINDOW_S - self._clock()
        return Answer(Outcome.HELD_BACK, retry_after_s=max(wait_s, 1.0), limit=self._limit)
