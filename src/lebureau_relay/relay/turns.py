"""Turns: who may use the loop, for how long. One flush per loop turn over the feeds that have
something new.

A turn is bounded, so that the loop can accept, read upstream and answer probes between; and each
kind of work gets at least one step of every turn, so that a flood of events starves neither
goodbyes nor replays.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lebureau_relay.relay.fanout import Fanout
    from lebureau_relay.relay.subscriber import Subscriber

# Some 800 writes at the kernel's price: long enough to be worth the turn, short enough that nobody
# sees it.
TURN_S = 0.005

Item = TypeVar("Item")


class Turns:
    """The work that is due on this loop, in order of urgency."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._dirty: dict[Fanout, None] = {}
        self._jobs: deque[Callable[[float], bool]] = deque()
        self._replays: deque[Subscriber] = deque()
        self._chores: list[Callable[[], bool]] = []
        self._scheduled = False

    def dirty(self, fanout: "Fanout") -> None:
        """There is something to flush, once, at the end of this loop turn."""
        self._dirty[fanout] = None
        self._schedule()

    def job(self, work: Callable[[float], bool]) -> None:
        """Give `work` turns, each up to a deadline, until it says that it is done."""
        self._jobs.append(work)
        self._schedule()

    def replay(self, subscriber: "Subscriber") -> None:
        """Let a subscriber read the ring: a write a turn, fairly among all who do."""
        self._replays.append(subscriber)
        self._schedule()

    def chore(self, work: Callable[[], bool]) -> None:
        """Give `work` one go a turn, after all else, until it says that it is done."""
        self._chores.append(work)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Flush what is new first, then heartbeats, replays and chores."""
        self._scheduled = False
        deadline_s = self._clock() + TURN_S
        for fanout in list(self._dirty):
            del self._dirty[fanout]
            if not fanout.flush(deadline_s):  # its turn comes again, after the others
                self._dirty[fanout] = None
            if self._clock() > deadline_s:
                break
        self._step(self._jobs, lambda job: not job(deadline_s), deadline_s)
        self._step(self._replays, lambda one: one.feed.fanout.pump(one), deadline_s)
        self._chores = [work for work in self._chores if not work()]
        if self._dirty or self._jobs or self._replays or self._chores:
            self._schedule()

    def _step(self, queue: deque[Item], work: Callable[[Item], bool], deadline_s: float) -> None:
        """Work in turns until all is done or the time is up; what isn't done goes to the end."""
        while queue:
            item = queue.popleft()
            if work(item):
                queue.append(item)
            if self._clock() > deadline_s:
                return
