"""Which streams a replica gives up when it has too many: the oldest of those that are idle.

An idle one has had nothing to say for a while and isn't behind, so its client misses the least; the
oldest have been here longest, and who has just come back isn't sent away again. To look through ten
thousand feeds takes longer than a turn of the loop may, so it is a job for `Turns`.
"""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from itertools import islice, takewhile
from operator import attrgetter

from lebureau_relay.errors import CloseReason
from lebureau_relay.relay.feed import Feed
from lebureau_relay.relay.subscriber import State, Subscriber

# Silence after which a feed counts as idle: more than a burst's pauses.
_IDLE_S = 5.0
# Between two looks at the clock: some 0.2 ms of looking at feeds, and of goodbyes.
_FEEDS_PER_LOOK = 64
_ENDS_PER_LOOK = 8
# Of one feed, so many streams are looked at, some 0.2 µs each: only where so many of the oldest are
# behind is anybody passed over.
_MOST_OF_A_FEED = 5_000
# Who is surely not among the oldest is forgotten when so many more than needed are known.
_ROOM = 1_000

_age = attrgetter("opened_at_s")


class LetGo:
    """Ends up to `most` streams of at least `min_age_s`, those of feeds that are never silent where
    there are no others. Called with a deadline, again and again, until it says that it is done.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        most: int,
        min_age_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.done = False
        self._feeds = iter(list(feeds))  # they come and go between our turns
        self._most = most
        self._clock = clock
        self._silent_since_s = clock() - _IDLE_S
        self._born_by_s = clock() - min_age_s
        self._idle: list[Subscriber] = []
        self._busy: list[Subscriber] = []
        self._chosen: list[Subscriber] | None = None  # once all feeds have been looked at

    def __call__(self, deadline_s: float) -> bool:
        """Some of it, until the deadline."""
        while not self._step():
            if self._clock() > deadline_s:
                return False
        self.done = True
        return True

    def _step(self) -> bool:
        if self._chosen is None:
            some = list(islice(self._feeds, _FEEDS_PER_LOOK))
            for feed in some:
                self._look(feed)
            self._forget_young()
            if not some:
                self._chosen = self._choose()
                self._idle, self._busy = [], []  # nobody is kept by having been looked at
            return False
        for one in self._chosen[:_ENDS_PER_LOOK]:
            if one.state is State.LIVE:  # still
                one.feed.end(one, CloseReason.REBALANCED)
        del self._chosen[:_ENDS_PER_LOOK]
        return not self._chosen

    def _look(self, feed: Feed) -> None:
        if feed.over:
            return
        history = feed.history
        silent = not len(history) or history.entry(history.top).at_s <= self._silent_since_s
        found = self._idle if silent else self._busy
        # In order of arrival, so the first are the oldest.
        first = islice(feed.subscribers, _MOST_OF_A_FEED)
        old = takewhile(lambda one: one.opened_at_s <= self._born_by_s, first)
        found += islice((one for one in old if one.state is State.LIVE), self._most)

    def _forget_young(self) -> None:
        if len(self._idle) > 2 * self._most + _ROOM:
            self._idle = nsmallest(self._most, self._idle, key=_age)
        if len(self._busy) > 2 * self._most + _ROOM:
            self._busy = nsmallest(self._most, self._busy, key=_age)

    def _choose(self) -> list[Subscriber]:
        idle = nsmallest(self._most, self._idle, key=_age)
        return idle + nsmallest(self._most - len(idle), self._busy, key=_age)
