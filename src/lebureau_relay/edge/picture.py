"""What status and console show of the relay, as plain data that becomes JSON.

It stands apart from the listener because it knows numbers and no requests. Nothing here is a
secret: who somebody is, is a keyed hash. Ids of events are shown, which open nothing without the
credential of the one whom they were sent to; they come from outside, so whoever draws them sets
them as text.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any, Final

from lebureau_relay.relay.observer import Counted, FeedInDetail, Found, HubFacts, ReplicaFacts
from lebureau_relay.relay.ports import Clock

# Feeds and identities of one screen.
_CONSOLE_FEEDS: Final = 20
_CONSOLE_IDENTITIES: Final = 10
# Of a status: one bounded answer for programs; `feed_count` tells what is left out.
_STATUS_FEEDS: Final = 1000
# What the charts go back to when a console opens: points of a second.
PAST: Final = 300
# Delays are told over so many seconds: of one second alone the slowest hundredth is one event.
_DELAYS_OVER: Final = 60

Counts = Mapping[str, Mapping[tuple[str, ...], float]]
"""Counters by name, by the values of their labels; see `Metrics.counts`."""


@dataclass(frozen=True, slots=True)
class PictureSources:
    """Where it reads from: plain calls on the event loop.

    `ready` says whether new streams are taken, and why not. `count` looks at all feeds and gives so
    many that have most streams, and so many identities; `find` searches them. `counts` are since
    the start. `streams` is how many client streams are open, as cheaply as it can be known.
    `replica` is this one's name, `replicas` are those of the deployment, this one among them; none
    where it is alone, or Redis is away.
    """

    ready: Callable[[], tuple[bool, str]]
    count: Callable[[int, int], Awaitable[Counted]]
    find: Callable[[str], Awaitable[Found]]
    counts: Callable[[], Counts]
    streams: Callable[[], int]
    replica: str
    replicas: Callable[[], Sequence[ReplicaFacts]]


class Picture:
    """The relay as operators see it."""

    def __init__(self, version: str, sources: PictureSources, clock: Clock) -> None:
        self._version = version
        self._sources = sources
        self._clock = clock
        self._started_s = clock()
        self._point_s = self._started_s
        self._counts = sources.counts()
        self._delays = deque([_by_stream(self._counts)], maxlen=_DELAYS_OVER + 1)
        self.past: deque[list[float | None]] = deque(maxlen=PAST)

    async def status(self) -> dict[str, Any]:
        """Everything that operators may know, for programs."""
        return self._told(await self._sources.count(_STATUS_FEEDS, _CONSOLE_IDENTITIES))

    async def screen(self) -> dict[str, Any]:
        """What a console shows, with the newest point of its charts."""
        counted = await self._sources.count(_CONSOLE_FEEDS, _CONSOLE_IDENTITIES)
        return self._told(counted) | {"point": self.past[-1] if self.past else None}

    async def explain(self, text: str) -> dict[str, Any]:
        """Whom a hash, its beginning or an event's id means, and how they stand here."""
        found = await self._sources.find(text)
        identities = found.identities.items()
        shown = {name: [_detail(feed) for feed in feeds] for name, feeds in identities}
        return _row(found) | {"identities": shown}

    def mark(self) -> None:
        """Take the next point of the charts; to be called about every second."""
        now_s, earlier = self._clock(), self._counts
        self._counts = counts = self._sources.counts()
        self._delays.append(_by_stream(counts))
        took_s = max(now_s - self._point_s, 1e-3)
        self._point_s = now_s

        def since(name: str) -> float:
            return sum(counts[name].values()) - sum(earlier[name].values())

        delay = _difference(_summed(counts), _summed(earlier))
        name = "event_loop_lag_seconds"
        lag = _difference(_buckets(counts[name]), _buckets(earlier[name]))
        self.past.append(
            [
                round(now_s - self._started_s, 2),
                self._sources.streams(),
                round(since("upstream_events") / took_s, 2),
                round(since("deliveries") / took_s, 2),
                quantile(0.5, delay),
                quantile(0.99, delay),
                since("gaps"),
                since("refusals"),
                since("closes"),
                quantile(0.99, lag),
            ]
        )

    def _told(self, counted: Counted) -> dict[str, Any]:
        hub = counted.hub
        ready, why = self._sources.ready()
        counts = self._sources.counts()
        subscribers, upstream = sum(hub.streams.values()), sum(hub.upstream.values())
        return {
            "version": self._version,
            "uptime_s": round(self._clock() - self._started_s, 1),
            "ready": ready,
            "ready_reason": why,
            "draining": hub.draining,
            "subscribers": hub.streams,
            "feeds": _nested(hub.feeds),
            "upstream": _nested(hub.upstream),
            # How many client streams one upstream subscription serves: what the relay is there for.
            "sharing": round(subscribers / upstream, 2) if upstream else None,
            "history_bytes": hub.history_bytes,
            "replica": self._sources.replica,
            "replicas": [_row(facts) for facts in self._replicas(hub, why)],
            "totals": {name: int(sum(counts[name].values())) for name in _TOTALS},
            "gaps": _by_last(counts["gaps"]),
            "refusals": _by_last(counts["refusals"]),
            "closes": _by_last(counts["closes"]),
            "delays": self._recent_delays(),
            "traffic": {
                name: {kind: _of_stream(counts[kind], name) for kind in _TRAFFIC}
                for name in self._delays[-1]
            },
            "feed_count": sum(hub.feeds.values()),
            "feed_list": [_row(facts) for facts in counted.largest],
            "identity_count": counted.identity_count,
            "identities": [_row(facts) for facts in counted.identities],
        }

    def _replicas(self, hub: HubFacts, state: str) -> Sequence[ReplicaFacts]:
        """Those that are seen; this one at least."""
        owned = sum(count for (_, role), count in hub.feeds.items() if role != "follower")
        own = ReplicaFacts(self._sources.replica, sum(hub.streams.values()), owned, state)
        return self._sources.replicas() or (own,)

    def _recent_delays(self) -> dict[str, dict[str, float | None]]:
        """Of each stream half of the deliveries were faster, and all but a hundredth."""
        first, last = self._delays[0], self._delays[-1]
        lately = {name: _difference(last[name], first[name]) for name in last}
        return {
            name: {"p50_s": quantile(0.5, delay), "p99_s": quantile(0.99, delay)}
            for name, delay in lately.items()
        }


_TOTALS: Final = (
    *("upstream_events", "deliveries", "delivered_bytes"),
    *("gaps", "refusals", "closes"),
)

_TRAFFIC: Final = ("upstream_events", "deliveries", "delivered_bytes", "gaps", "closes")

Buckets = list[tuple[float, float]]
"""A histogram: upper bounds, ascending, and how many observations were not above each."""


def quantile(share: float, buckets: Buckets) -> float | None:
    """The value that a share of the observations is not above, as far as buckets tell: evenly
    spread within one, and the last bound for what is beyond all. None where nothing was observed.
    """
    wanted = share * buckets[-1][1] if buckets else 0.0
    if not wanted:
        return None
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            low += 0.0 if isinf(bound) else (bound - low) * (wanted - below) / (count - below)
            break
        low, below = bound, count
    return round(low, 6)


def _by_stream(counts: Counts) -> dict[str, Buckets]:
    """The delivery delays of each stream."""
    streams: dict[str, Buckets] = {}
    for (name, bound), count in counts["delivery_delay_seconds"].items():
        streams.setdefault(name, []).append((float(bound), count))
    return streams


def _summed(counts: Counts) -> Buckets:
    """The delivery delays of all streams together."""
    return [
        (same[0][0], sum(count for _, count in same))
        for same in zip(*_by_stream(counts).values(), strict=True)
    ]


def _buckets(samples: Mapping[tuple[str, ...], float]) -> Buckets:
    return [(float(bound), count) for (bound,), count in samples.items()]


def _difference(last: Buckets, first: Buckets) -> Buckets:
    return [
        (bound, count - before) for (bound, count), (_, before) in zip(last, first, strict=True)
    ]


def _by_last(samples: Mapping[tuple[str, ...], float]) -> dict[str, int]:
    """Counts by the value of the last label, over all others; without those that never happened."""
    sums: dict[str, int] = {}
    for labels, count in samples.items():
        if count:
            sums[labels[-1]] = sums.get(labels[-1], 0) + int(count)
    return sums


def _of_stream(samples: Mapping[tuple[str, ...], float], stream: str) -> int:
    return int(sum(count for labels, count in samples.items() if labels[0] == stream))


def _row(facts: Any) -> dict[str, Any]:
    """The fields of facts. `asdict` would copy each value, too: a status of a thousand feeds held
    the loop up for ten milliseconds.
    """
    return {name: getattr(facts, name) for name in facts.__slots__}


def _detail(feed: FeedInDetail) -> dict[str, Any]:
    return _row(feed) | {"facts": _row(feed.facts), "tabs": [_row(tab) for tab in feed.tabs]}


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (stream, kind), count in counts.items():
        nested.setdefault(stream, {})[kind] = count
    return nested
