"""How many credentials that nobody has vouched for may be asked about, so that their 401s stay few.

Upstream counts failed authentications by address, and all users of the relay share its one address:
ten bad keys would lock everybody out. So who may cause a 401 takes a place before it is asked
about, and there are at most as many places as 401s are left of this minute, here or in the whole
deployment. Twenty thousand bad keys in one millisecond then cost upstream no more than eight do.

The places are counted elsewhere (`relay.ports.Places`); the gate is the queue in front of them.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lebureau_relay.identity.asking import Answer, Outcome
from lebureau_relay.relay.ports import Clock, Places

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
    """A stand in the queue, shared by all who ask about one credential.

    `future` ends with None when it is worth looking again, or with the answer of who may not ask.
    """

    future: asyncio.Future[Answer | None]
    waiters: int = 0


@dataclass(slots=True)
class _Place:
    """A place that a credential has. `left` is set when it has it no longer."""

    name: str
    timer: asyncio.TimerHandle
    claimed: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Gate:
    """The way upstream for unknown credentials, by digest. `limit` is that of `places`."""

    __slots__ = ("_clock", "_inside", "_limit", "_places", "_queue", "_serving", "_spent_until_s")

    def __init__(self, places: Places, limit: int, clock: Clock) -> None:
        self._places = places
        self._limit = limit
        self._clock = clock
        self._spent_until_s = 0.0
        self._inside: dict[bytes, _Place] = {}
        self._queue: OrderedDict[bytes, _Turn] = OrderedDict()
        self._serving: asyncio.Task[None] | None = None

    async def enter(
        self, digest: bytes, settled: Callable[[], bool] | None = None
    ) -> Answer | None:
        """None with a place taken, which `leave` or `failed` give back; otherwise the answer of one
        who may not ask. Waits while others are being asked about, at most WAIT_S.

        Who finds another at the same credential shares its place; or, with `settled`, waits for how
        that went, and gets None without a place once `settled` says that it is known: two requests
        with one bad key are two 401s.
        """
        try:
            async with asyncio.timeout(WAIT_S):
                while settled is None or not settled():
                    place = self._inside.get(digest)
                    if place is None:
                        answer = await self._queue_up(digest)
                        if answer is not None:
                            return answer
                    elif settled is None or not place.claimed:
                        place.claimed = True
                        return None
                    else:
                        await place.left.wait()
                return None
        except TimeoutError:
            return Answer(Outcome.UNDECIDED, why="others were asked about for too long")

    async def _queue_up(self, digest: bytes) -> Answer | None:
        """None when it is worth looking again."""
        if self._clock() < self._spent_until_s:
            return self._held_back()
        turn = self._queue.get(digest)
        if turn is None:
            if len(self._queue) >= MAX_WAITING:
                return Answer(Outcome.UNDECIDED, why="too many new credentials at once")
            turn = self._queue[digest] = _Turn(asyncio.get_running_loop().create_future())
            if self._serving is None:
                self._serving = asyncio.create_task(self._serve())
        turn.waiters += 1
        try:
            return await asyncio.shield(turn.future)
        finally:
            turn.waiters -= 1
            # Nobody wants the turn any more; if it was granted in this very moment, the place
            # lapses by itself.
            if not turn.waiters and self._queue.get(digest) is turn:
                del self._queue[digest]

    async def _serve(self) -> None:
        """Let in whom there are places for, until nobody queues."""
        try:
            while self._queue:
                room = await self._places.take(min(len(self._queue), self._limit))
                if room.spent_for_s:
                    self._spent_until_s = self._clock() + room.spent_for_s
                    self._turn_all_away()
                for name in room.places:
                    self._admit(name)
                if self._queue and not room.places:
                    await self._places.freed()
        finally:
            self._serving = None

    def _admit(self, name: str) -> None:
        if not self._queue:  # who wanted it has gone meanwhile
            self._places.give_back(name)
            return
        digest, turn = self._queue.popitem(last=False)
        timer = asyncio.get_running_loop().call_later(PLACE_LAPSES_S, self.leave, digest)
        self._inside[digest] = _Place(name, timer)
        turn.future.set_result(None)

    def _turn_all_away(self) -> None:
        while self._queue:
            self._queue.popitem()[1].future.set_result(self._held_back())

    def leave(self, digest: bytes) -> None:
        """Nothing bad came of it: give the place back. Harmless without one."""
        place = self._out(digest)
        if place is not None:
            self._places.give_back(place)

    def failed(self, digest: bytes) -> None:
        """It was a 401: that stays counted for a minute in the place's stead."""
        self._places.failed(self._out(digest))

    def _out(self, digest: bytes) -> str | None:
        """Whoever waits for this credential may look again; the place it had, if any."""
        turn = self._queue.pop(digest, None)
        if turn is not None:
            turn.future.set_result(None)
        place = self._inside.pop(digest, None)
        if place is None:
            return None
        place.timer.cancel()
        place.left.set()
        return place.name

    def _held_back(self) -> Answer:
        wait_s = self._spent_until_s - self._clock()
        return Answer(Outcome.HELD_BACK, retry_after_s=max(wait_s, 1.0), limit=self._limit)
