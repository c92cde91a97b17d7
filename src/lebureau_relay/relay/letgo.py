"""Which streams a replica gives up when it has too many: the oldest of those that are idle.

An idle one has had nothing to say for a while and isn't behind, so its client misses the least; the
oldest have been here longest, and who has just come back isn't sent away again.
"""

from collections.abc import Iterable
from heapq import nsmallest
from operator import attrgetter

from lebureau_relay.relay.feed import Feed
from lebureau_relay.relay.subscriber import State, Subscriber

# Silence after which a feed counts as idle: more than a burst's pauses.
_IDLE_S = 5.0
# Streams that are looked at in one go, some 0.2 µs each: no turn of the loop may be longer.
_MOST_LOOKS = 20_000


def oldest_idle(
    feeds: Iterable[Feed], most: int, now_s: float, min_age_s: float
) -> list[Subscriber]:
    """Up to so many streams of at least that age; of feeds that are never silent where there are no
    others.
    """
    idle: list[Subscriber] = []
    busy: list[Subscriber] = []
    for feed in feeds:  # in order of their opening: who is passed over by the bound is young
        if feed.over:
            continue
        history = feed.history
        silent = not len(history) or history.entry(history.top).at_s <= now_s - _IDLE_S
        found = idle if silent else busy
        found += (
            one
            for one in feed.subscribers
            if one.state is State.LIVE and one.opened_at_s <= now_s - min_age_s
        )
        if len(idle) + len(busy) >= _MOST_LOOKS:
            break
    age = attrgetter("opened_at_s")
    chosen = nsmallest(most, idle, key=age)
    return chosen + nsmallest(most - len(chosen), busy, key=age)
