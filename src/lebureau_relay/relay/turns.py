"""Turns: who may use the loop, for how long. One flush per loop turn over the feeds that have
something new.

A turn is bounded, so that the loop can accept, read upstream and answer probes between; and each
kind of work gets at least one step of every turn, so that a flood of events starves neither
goodbyes nor replays.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lebureau_relay.relay.fanout import Fanout
    from lebureau_relay.relay.subscriber import Subscriber

# Some 800 writes at the kernel's price: long enough to be worth the turn, short enough that nobody
# sees it.
TURN_S = 0.005
# Where turns come fast, the next one begins no sooner than this after the last one began, and what
# comes meanwhile goes out together. A loop that is woken by each event pays for the waking, and for
# memory that has gone cold since the last: a fifth of a busy relay's CPU (docs/decisions/0009). An
# event that comes alone never waits; nor does a loop that has more to do, as its turns are longer.
GAP_S = 0.0005

Item = TypeVar("Item")


class Turns:
    """The work that is due on this loop, in order of urgency. `nap` holds up the whole loop for so
    many seconds.
    """

    def __init__(
        self, clock: Callable[[], float], nap: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._nap = nap
        self._turned_at_s = 0.0  # when the last turn began
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
        started_s = self._clock()
        deadline_s = started_s + TURN_S
        for fanout in list(self._dirty):
            del self._dirty[fanout]
            if not fanout.flush(deadline_s):  # its turn comes again, after the others
                self._dirty[fanout] = None
            if self._clock() > deadline_s:
                break
        if self._jobs:
            self._step(self._jobs, lambda job: not job(deadline_s), deadline_s)
        if self._replays:
            self._step(self._replays, lambda one: one.feed.fanout.pump(one), deadline_s)
        if self._chores:
            self._chores = [work for work in self._chores if not work()]
        if self._dirty or self._jobs or self._replays or self._chores:
            self._schedule()
        else:
            self._rest(started_s)
        self._turned_at_s = started_s

    def _rest(self, started_s: float) -> None:
        """Let what comes gather for a moment, where turns come fast."""
        left_s = started_s + GAP_S - self._clock()
        if left_s > 0 and started_s - self._turned_at_s < 2 * GAP_S:
            self._nap(left_s)

    def _step(self, queue: deque[Item], work: Callable[[Item], bool], deadline_s: float) -> None:
        """Work in turns until all is done or the time is up; what isn't done goes to the end."""
        while queue:
            item = queue.popleft()
            if work(item):
                queue.append(item)
            if self._clock() > deadline_s:
                return
