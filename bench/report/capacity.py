"""How much of what a replica needs, calculated from what was measured.

A replica is one core. An upstream event costs something once and something for each of its streams;
`users` gives the sum for five of these, `spaced` the second part alone, `redis` what sharing adds.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bench.results import Result
from bench.scenarios.memory import IDLE_STREAMS
from lebureau_relay.core.history import ENTRY_BYTES

# What is planned with: a core half used leaves room for bursts, herds and a replica that is gone.
SHARE: Final = 0.5
MEMORY_MB: Final = 1024
# Of the memory, what streams and feeds may take; the rest is the process, histories and herds.
_MEMORY_SHARE: Final = 0.5
_NEEDS: Final = ("idle-streams", "idle-feeds", "users", "spaced", "redis", "storm")
_TABS: Final = 2.5
_STREAMS: Final = 2  # each tab has both
_EVENTS_PER_S: Final = 1.0  # of a user, both streams together
_USERS: Final = (1_000, 5_000, 20_000, 100_000)


class Costs(NamedTuple):
    """Of one replica. Bytes with the kernel's share; seconds of CPU."""

    process_mb: float
    stream_bytes: float
    feed_bytes: float
    tls_bytes: float
    event_s: float
    delivery_s: float
    shared_s: float
    returns_per_s: float


def costs(results: Mapping[str, Result]) -> Costs | None:
    """What was measured; None where something is missing."""
    if not all(name in results and results[name].rounds.get("relay") for name in _NEEDS):
        return None

    def of(scenario: str, metric: str, row: str = "relay") -> float:
        return results[scenario].value(row, metric) or 0.0

    stream = of("idle-streams", "bytes_each")
    end = of("idle-streams", "kernel_bytes_each") / 2  # the other half is the bench's own client
    delivery_s = of("spaced", "cpu_us_per_delivery") / 1e6
    per_event = of("users", "deliveries_per_s") and (
        of("users", "cpu_us_per_event") / of("users", "cpu_us_per_delivery")
    )
    return Costs(
        process_mb=of("idle-streams", "resident_mb") - IDLE_STREAMS.load.tabs * stream / 1e6,
        stream_bytes=stream + end,
        feed_bytes=of("idle-feeds", "bytes_each") - stream + end,
        tls_bytes=of("idle-feeds", "bytes_each", "relay, TLS upstream")
        - of("idle-feeds", "bytes_each"),
        event_s=of("users", "cpu_us_per_event") / 1e6 - per_event * delivery_s,
        delivery_s=delivery_s,
        shared_s=of("redis", "more cpu_us_per_event", "relay, Redis") / 1e6,
        returns_per_s=of("storm", "returned") / of("storm", "live_after_s"),
    )


def tables(results: Mapping[str, Result]) -> Iterator[str]:
    """What things cost, and replicas for so many users."""
    found = costs(results)
    if found is None:
        return
    yield "| | memory, kernel's share included | descriptors | CPU |"
    yield "| --- | --- | --- | --- |"
    yield f"| a process with nobody in it | {found.process_mb:,.0f} MB | – | – |"
    yield (
        f"| a stream | {found.stream_bytes / 1000:.1f} KB | 1 "
        f"| {found.delivery_s * 1e6:.1f} µs for each event |"
    )
    with_tls = found.feed_bytes + found.tls_bytes
    yield (
        "| a feed: its subscription upstream, its empty history "
        f"| {found.feed_bytes / 1000:.1f} KB, with TLS {with_tls / 1000:.1f} KB | 1 "
        f"| {found.event_s * 1e6:.0f} µs for each event, with Redis "
        f"{found.shared_s * 1e6:.0f} µs more |"
    )
    yield (
        "| a history | bytes of its events, `replay.max_bytes` (1 MiB) at most, and some "
        f"{ENTRY_BYTES} for each | – | – |"
    )
    yield (
        f"| streams that come back at once | – | – | {found.returns_per_s:,.0f} a second, "
        "100 events to replay each |"
    )
    yield ""
    yield "| users | streams | feeds | events/s in, out | cores | memory | replicas |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for users in _USERS:
        yield _row(users, found)


def users_of(streams: int) -> float:
    """How many users have so many streams."""
    return streams / (_TABS * _STREAMS)


def needs(users: float, found: Costs) -> tuple[float, float]:
    """Cores, and the MB of streams and feeds."""
    streams, feeds = users * _TABS * _STREAMS, users * _STREAMS
    events_s = users * _EVENTS_PER_S
    out_s = events_s * _TABS
    cores = events_s * (found.event_s + found.shared_s) + out_s * found.delivery_s
    megabytes = (streams * found.stream_bytes + feeds * (found.feed_bytes + found.tls_bytes)) / 1e6
    return cores, megabytes


def _row(users: int, found: Costs) -> str:
    streams, feeds = int(users * _TABS * _STREAMS), users * _STREAMS
    events_s = users * _EVENTS_PER_S
    out_s = events_s * _TABS
    cores, megabytes = needs(users, found)
    busy = max(cores / SHARE, megabytes / (MEMORY_MB * _MEMORY_SHARE))
    return (
        f"| {users:,} | {streams:,} | {feeds:,} | {events_s:,.0f}, {out_s:,.0f} | {cores:.2f} "
        f"| {megabytes:,.0f} MB | {max(math.ceil(busy) + 1, 2)} |"
    )
