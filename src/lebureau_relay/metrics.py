"""Metrics: the Observer on prometheus-client, and what `/metrics` and the console read.

It stands apart so that only one room knows the library. Each instance has a registry of its own.
Labels come from closed sets and stand at 0 from the start, or the first failure would be no
increase. Gauges are read from the hub when somebody looks: what is counted nowhere can't drift.
"""

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from lebureau_relay.core.event import GapCause
from lebureau_relay.errors import CloseReason, RefusalCode, SourceProblem
from lebureau_relay.relay.observer import HubFacts
from lebureau_relay.relay.ports import Clock

Log = Callable[[str, str, Mapping[str, object]], None]

_PREFIX: Final = "lebureau_relay"
_ROLES: Final = ("owner", "follower", "solo")
_UPSTREAM_STATES: Final = ("opening", "open", "waiting")
_CONNECTS: Final = ("accepted", *RefusalCode)
_CATCHUPS: Final = ("filled", "seen", "ignored", "failed", "timeout")
_REPLAYS: Final = ("fresh", "resumed", "caught_up", "gap")

# A scrape renders on the event loop, which takes some milliseconds; whoever scrapes faster than
# this gets the last one.
_CACHE_S: Final = 1.0

# From what a flush takes when nothing waits, a quarter of a millisecond, to what everybody calls
# broken. In each decade 1, 2.5 and 5, because that is where people set their targets.
_DELAY_BUCKETS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
# A stream that ends within seconds is a fault, within one or five minutes or an hour somebody's
# time-out; after a day it is a tab that was forgotten.
_AGE_BUCKETS: Final = (1, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 14_400, 43_200, 86_400)
# Below a millisecond the loop is idle; 5 ms is one bounded flush; at 100 ms connects queue up; a
# second is a stall.
_LAG_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
# A call within one network takes a fraction of a millisecond; none may wait longer than a second.
_REDIS_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1)
# 0.2 s is promised after a clean stop, one lease after a kill: 6 s by default.
_TAKEOVER_BUCKETS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 4, 6, 10, 30)


class Metrics:
    """`relay.observer.Observer` and everything that counts beside the streams.

    `streams` are the names of all streams there will ever be. `facts` is called at every scrape,
    `log` for every note. `subscribers_limit` is how many streams are taken at most.
    `redis_operations` is the closed set that `redis_call` takes; it is empty where there is no
    Redis.
    """

    def __init__(
        self,
        streams: Iterable[str],
        facts: Callable[[], HubFacts],
        log: Log,
        version: str,
        *,
        subscribers_limit: int,
        redis_operations: Sequence[str] = (),
        clock: Clock = time.monotonic,
    ) -> None:
        self._log = log
        self._clock = clock
        self._registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        names = tuple(streams)
        self._gauges = _Gauges(names, facts, version, subscribers_limit)
        registry.register(self._gauges)
        self._families = families = _Families(registry)
        self._meters = {name: Meter(name, families) for name in names}
        refusals = families.refusals
        self._refusals = {code: refusals.labels(code.value).inc for code in RefusalCode}
        calls = _histogram(registry, "redis_call_seconds", _REDIS_BUCKETS, "operation")
        self._redis_calls = {name: calls.labels(name).observe for name in redis_operations}
        self._takeovers = _counter(registry, "takeovers")
        self._takeover_s = _histogram(registry, "takeover_seconds", _TAKEOVER_BUCKETS)
        lag = _histogram(registry, "event_loop_lag_seconds", _LAG_BUCKETS)
        self.observe_lag = lag.observe
        self._shown: dict[str, Counter | Histogram] = {
            "upstream_events": families.events,
            "deliveries": families.deliveries,
            "delivered_bytes": families.delivered_bytes,
            "delivery_delay_seconds": families.delay,
            "gaps": families.gaps,
            "refusals": families.refusals,
            "closes": families.closes,
            "event_loop_lag_seconds": lag,
        }
        self._rendered: dict[bool, tuple[float, bytes]] = {}

    def stream(self, name: str) -> "Meter":
        """The meter of one stream. Raises KeyError for one that isn't among `streams`."""
        return self._meters[name]

    def refused(self, code: RefusalCode) -> None:
        """A request was refused."""
        self._refusals[code]()

    def note(self, level: str, event: str, **facts: object) -> None:
        """One log line."""
        self._log(level, event, facts)

    def redis_up(self, up: bool) -> None:  # noqa: FBT001 - it is the gauge's value
        """Whether Redis answers. Shown from the first call: without Redis, nothing is down."""
        self._gauges.redis_up = up

    def replicas(self, count: int) -> None:
        """So many replicas are seen through Redis, this one among them; 0: none, not even it."""
        self._gauges.replicas = count

    def redis_call(self, operation: str, seconds: float) -> None:
        """A call to Redis ended. Raises KeyError for an operation outside the closed set."""
        self._redis_calls[operation](seconds)

    def takeover(self, seconds: float) -> None:
        """This replica has become the owner of a feed that had none for so long."""
        self._takeovers.inc()
        self._takeover_s.observe(seconds)

    def counts(self) -> dict[str, dict[tuple[str, ...], float]]:
        """What has happened since the start, for the console: by metric, by the values of its
        labels. Of a histogram its buckets, whose last label is the upper bound.
        """
        return {name: _values(family) for name, family in self._shown.items()}

    def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their content type, as `accept` wants them: OpenMetrics where it names
        that, else the text format.

        Rendered at most once a second.
        """
        # Not the library's negotiation: it repeats whatever version and escaping the request names,
        # and fails on some.
        is_open = "application/openmetrics-text" in accept
        now = self._clock()
        rendered_at, body = self._rendered.get(is_open, (0.0, b""))
        if not body or now - rendered_at >= _CACHE_S:
            generate = openmetrics.generate_latest if is_open else generate_latest
            body = generate(_Plain(self._registry))
            self._rendered[is_open] = (now, body)
        return body, openmetrics.CONTENT_TYPE_LATEST if is_open else CONTENT_TYPE_PLAIN_0_0_4


class Meter:
    """`relay.observer.StreamMeter`: one stream's counters, each bound to its labels beforehand."""

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_catchups",
        "_closes",
        "_connects",
        "_deliveries",
        "_events",
        "_gaps",
        "_observe_age",
        "_observe_delay",
        "_reconnects",
        "_replayed",
        "_replays",
    )

    def __init__(self, name: str, families: "_Families") -> None:
        self._events = families.events.labels(name).inc
        self._bytes_in = families.bytes_in.labels(name).inc
        self._deliveries = families.deliveries.labels(name).inc
        self._bytes_out = families.delivered_bytes.labels(name).inc
        self._observe_delay = families.delay.labels(name).observe
        self._observe_age = families.age.labels(name).observe
        self._replayed = families.replayed.labels(name).inc
        self._reconnects = _bind(families.reconnects, name, SourceProblem)
        self._catchups = _bind(families.catchups, name, _CATCHUPS)
        self._connects = _bind(families.connects, name, _CONNECTS)
        self._closes = _bind(families.closes, name, CloseReason)
        self._replays = _bind(families.replays, name, _REPLAYS)
        self._gaps = _bind(families.gaps, name, GapCause)

    def received(self, events: int, size_bytes: int) -> None:
        """Upstream said something."""
        self._events(events)
        self._bytes_in(size_bytes)

    def delivered(self, deliveries: int, size_bytes: int) -> None:
        """Events were handed to transports."""
        self._deliveries(deliveries)
        self._bytes_out(size_bytes)

    def delay(self, seconds: float) -> None:
        """From upstream's byte to the last subscriber written."""
        self._observe_delay(seconds)

    def reconnect(self, reason: SourceProblem) -> None:
        """The owner will ask upstream again."""
        self._reconnects[reason]()

    def catchup(self, outcome: str) -> None:
        """A catch-up request ended."""
        self._catchups[outcome]()

    def replay(self, outcome: str, events: int, _waited_s: float) -> None:
        """A subscriber got its verdict, and so many events of the ring to read."""
        self._replays[outcome]()
        self._replayed(events)

    def gap(self, cause: GapCause) -> None:
        """A relay.gap was written."""
        self._gaps[cause]()

    def connect(self, outcome: str) -> None:
        """A request for this stream was answered."""
        self._connects[outcome]()

    def closed(self, reason: CloseReason, age_s: float) -> None:
        """A stream ended."""
        self._closes[reason]()
        self._observe_age(age_s)


class _Families:
    """The metrics that carry the stream's name, and refusals, which may have none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = _counter(registry, "upstream_events", "stream")
        self.bytes_in = _counter(registry, "upstream_bytes", "stream")
        self.reconnects = _counter(registry, "upstream_reconnects", "stream", "reason")
        self.catchups = _counter(registry, "catchups", "stream", "outcome")
        self.deliveries = _counter(registry, "deliveries", "stream")
        self.delivered_bytes = _counter(registry, "delivered_bytes", "stream")
        self.delay = _histogram(registry, "delivery_delay_seconds", _DELAY_BUCKETS, "stream")
        self.connects = _counter(registry, "connects", "stream", "outcome")
        self.refusals = _counter(registry, "refusals", "code")
        self.closes = _counter(registry, "closes", "stream", "reason")
        self.age = _histogram(registry, "stream_age_seconds", _AGE_BUCKETS, "stream")
        self.replays = _counter(registry, "replays", "stream", "outcome")
        self.replayed = _counter(registry, "replayed_events", "stream")
        self.gaps = _counter(registry, "gaps", "stream", "cause")


_HELP: Final = {
    "subscribers": "Open client streams.",
    "subscribers_limit": "Open client streams that this replica takes at most.",
    "feeds": "Feeds by what this replica is to them.",
    "upstream_connections": "Upstream subscriptions of this replica, by state.",
    "history_bytes": "Bytes of all replay histories together.",
    "draining": "1 while this replica leaves service.",
    "build_info": "Always 1; which version runs, on which Python.",
    "replicas": "Replicas seen through Redis, this one included; absent where none is configured.",
    "redis_up": "1 while Redis answers; absent where none is configured.",
    "upstream_events": "Events that upstream sent, repeats and catch-ups included.",
    "upstream_bytes": "Bytes of the streams that upstream sent, comments included.",
    "upstream_reconnects": "Upstream subscriptions that were lost or refused, by what was wrong.",
    "catchups": "Short requests for what a cursor needed and the history lacked, or for a proof.",
    "deliveries": "Events handed to client connections: events times subscribers.",
    "delivered_bytes": "Bytes handed to client connections.",
    "delivery_delay_seconds": "From upstream's first byte in to the last subscriber written.",
    "connects": "Requests for a stream by outcome: accepted, or a refusal's code.",
    "refusals": "Refused requests by code.",
    "closes": "Streams that ended, by reason.",
    "stream_age_seconds": "How old streams were when they ended.",
    "replays": "How clients' cursors were met.",
    "replayed_events": "Events that were read from history for clients.",
    "gaps": "relay.gap events that were written, by cause.",
    "redis_call_seconds": "How long calls to Redis took.",
    "takeovers": "Feeds that this replica took over from another.",
    "takeover_seconds": "How long such feeds were without an owner.",
    "event_loop_lag_seconds": "How much later than asked the event loop came round.",
}


class _Gauges(Collector):
    """What is true at the moment of the scrape, read from the hub then."""

    def __init__(
        self, streams: tuple[str, ...], facts: Callable[[], HubFacts], version: str, limit: int
    ) -> None:
        self._streams = streams
        self._facts = facts
        self._build = (version, platform.python_version())
        self._limit = limit
        self.redis_up: bool | None = None
        self.replicas: int | None = None

    def collect(self) -> Iterable[Metric]:
        facts = self._facts()
        subscribers = _gauge("subscribers", "stream")
        feeds = _gauge("feeds", "stream", "role")
        upstream = _gauge("upstream_connections", "stream", "state")
        for name in self._streams:
            subscribers.add_metric((name,), facts.streams.get(name, 0))
            for role in _ROLES:
                feeds.add_metric((name, role), facts.feeds.get((name, role), 0))
            for state in _UPSTREAM_STATES:
                upstream.add_metric((name, state), facts.upstream.get((name, state), 0))
        build = _gauge("build_info", "version", "python")
        build.add_metric(self._build, 1)
        redis_up = _gauge("redis_up")
        if self.redis_up is not None:
            redis_up.add_metric((), self.redis_up)
        replicas = _gauge("replicas")
        if self.replicas is not None:
            replicas.add_metric((), self.replicas)
        limit, history, draining = map(_gauge, ("subscribers_limit", "history_bytes", "draining"))
        limit.add_metric((), self._limit)
        history.add_metric((), facts.history_bytes)
        draining.add_metric((), facts.draining)
        gauges = (subscribers, limit, feeds, upstream, history, draining)
        return (*gauges, redis_up, replicas, build)


class _Plain(Collector):
    """A registry's metrics without the `_created` series that the library adds to each counter and
    histogram.

    They would double the answer. The library's own switch for them is global.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


def _counter(registry: CollectorRegistry, name: str, *labels: str) -> Counter:
    return Counter(name, _HELP[name], labels, namespace=_PREFIX, registry=registry)


def _histogram(
    registry: CollectorRegistry, name: str, buckets: Sequence[float], *labels: str
) -> Histogram:
    return Histogram(
        name, _HELP[name], labels, namespace=_PREFIX, registry=registry, buckets=buckets
    )


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", _HELP[name], labels=labels)


def _bind(family: Counter, stream: str, values: Iterable[str]) -> dict[str, Callable[[], None]]:
    """Increments by label value; making the child is what exports it at 0."""
    return {str(value): family.labels(stream, str(value)).inc for value in values}


def _values(family: Counter | Histogram) -> dict[tuple[str, ...], float]:
    samples = (sample for metric in family.collect() for sample in metric.samples)
    shown = (sample for sample in samples if sample.name.endswith(("_total", "_bucket")))
    return {tuple(sample.labels.values()): sample.value for sample in shown}
