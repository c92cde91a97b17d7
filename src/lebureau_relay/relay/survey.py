"""The survey: what operators may see of all feeds, counted in slices.

It stands apart from the hub because it looks at every feed, of which there may be ten thousand, on
the loop that serves the streams: a look is cut into slices with a turn of the loop between, so it
says how things stood within some dozen turns, not at one moment.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from lebureau_relay.relay.feed import Feed, FeedState
from lebureau_relay.relay.observer import (
    Counted,
    FeedFacts,
    FeedInDetail,
    Found,
    HubFacts,
    IdentityFacts,
    TabFacts,
)
from lebureau_relay.relay.share import Role
from lebureau_relay.relay.subscriber import Subscriber

if TYPE_CHECKING:
    from lebureau_relay.relay.hub import Hub

# Feeds that are looked at without a break: some 0.3 ms, a fraction of a bounded flush.
_SLICE: Final = 250
# Of one identity: what a screen can show, and how many streams are asked what they have unsent.
_MAX_TABS: Final = 50
_MAX_ASKED: Final = 1000
# Identities that one search shows whole.
_MAX_FOUND: Final = 10

Item = TypeVar("Item")


class Tally:
    """Counts over feeds, one by one."""

    def __init__(self) -> None:
        self.streams: dict[str, int] = {}
        self.feeds: dict[tuple[str, str], int] = {}
        self.upstream: dict[tuple[str, str], int] = {}

    def add(self, feed: Feed) -> None:
        """Count a feed; of one that is closed only the streams that still say goodbye."""
        name = feed.key.stream.name
        self.streams[name] = self.streams.get(name, 0) + len(feed.subscribers)
        if feed.state is FeedState.CLOSED:
            return
        role = feed.role
        self.feeds[name, role] = self.feeds.get((name, role), 0) + 1
        if role != Role.FOLLOWER:
            state = feed.owner.state
            self.upstream[name, state] = self.upstream.get((name, state), 0) + 1

    def facts(self, hub: "Hub") -> HubFacts:
        """What was counted, as facts of the hub."""
        return HubFacts(hub.draining, self.streams, self.feeds, self.upstream, hub.history_bytes)


class Survey:
    """Looks at all feeds of a hub. One look at a time: who asks meanwhile waits."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._looking = asyncio.Lock()

    async def count(self, most_feeds: int, most_identities: int) -> Counted:
        """Counts over all feeds; the feeds and the identities that have most streams."""
        async with self._looking:
            tally = Tally()
            largest: list[Feed] = []
            identities: dict[str, list[int]] = {}  # streams and feeds of each
            async for some in _slices(self._hub.feeds()):
                for feed in some:
                    tally.add(feed)
                alive = [feed for feed in some if feed.state is not FeedState.CLOSED]
                for feed in alive:
                    sums = identities.setdefault(feed.key.identity, [0, 0])
                    sums[0] += len(feed.subscribers)
                    sums[1] += 1
                largest = nlargest(most_feeds, (*largest, *alive), lambda one: len(one.subscribers))
            top: list[tuple[str, list[int]]] = []
            async for few in _slices(identities.items()):
                top = nlargest(most_identities, (*top, *few), lambda one: one[1])
            facts: list[FeedFacts] = []
            async for some in _slices(largest):
                facts += [feed.facts() for feed in some if not feed.over]
            busiest = [IdentityFacts(name, *sums) for name, sums in top]
            return Counted(tally.facts(self._hub), facts, busiest, len(identities))

    async def find(self, text: str) -> Found:
        """Whom a text may mean: the identities whose hash begins with it; where there is none,
        those that have an event whose id it is.
        """
        async with self._looking:
            start, event_id = text.lower(), text.encode("utf-8", "replace")
            names = await self._names(lambda feed: feed.key.identity.startswith(start))
            by = "hash" if names else "event"
            names = names or await self._names(lambda feed: event_id in feed.history)
            shown: dict[str, list[Feed]] = {name: [] for name in islice(names, _MAX_FOUND)}
            async for some in _slices(self._hub.feeds()):
                for feed in some:
                    if feed.key.identity in shown:
                        shown[feed.key.identity].append(feed)
            details: dict[str, list[FeedInDetail]] = {}
            for name, feeds in shown.items():
                details[name] = _in_detail(feeds)
                await asyncio.sleep(0)
            return Found(by, len(names), details)

    async def _names(self, means: Callable[[Feed], bool]) -> dict[str, None]:
        """The identities of the feeds that are meant, in the order in which they came."""
        names: dict[str, None] = {}
        async for some in _slices(self._hub.feeds()):
            names |= dict.fromkeys(feed.key.identity for feed in some if means(feed))
        return names


def _in_detail(feeds: Iterable[Feed]) -> list[FeedInDetail]:
    """The feeds of one identity, with their streams, of which so many are asked."""
    left = _MAX_ASKED
    details = []
    for feed in feeds:
        if feed.over:
            continue
        asked = list(islice(feed.subscribers, left))
        left -= len(asked)
        pending_bytes = sum(one.transport.get_write_buffer_size() for one in asked)
        slow = sum(one.paused for one in asked)
        tabs = [_tab(one) for one in asked[:_MAX_TABS]]
        details.append(FeedInDetail(feed.facts(), pending_bytes, slow, tabs))
    return details


def _tab(subscriber: Subscriber) -> TabFacts:
    feed = subscriber.feed
    return TabFacts(
        state=subscriber.state.value,
        age_s=feed.host.clock() - subscriber.opened_at_s,
        pending_bytes=subscriber.transport.get_write_buffer_size(),
        behind=max(feed.shown - subscriber.offset, 0),
        last_id=subscriber.place_id.decode("utf-8", "replace"),
    )


async def _slices(items: Iterable[Item]) -> AsyncIterator[list[Item]]:
    """So many at a time, with a turn of the loop between."""
    left = iter(items)
    while some := list(islice(left, _SLICE)):
        yield some
        await asyncio.sleep(0)
