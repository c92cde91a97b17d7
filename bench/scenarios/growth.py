"""How cost grows: one thing at a time over two decades, everything else as it was.

Rates are such that a step needs about a second of CPU, and none saturates the core.
"""

from bench.kinds import Entry, Goal, Growth, Load, Step
from bench.scenarios.delivery import CHECKED

# What a step may cost more than the first one and still be called flat: what rounds differ by.
_FLAT = 1.15
_COLUMNS = ("cpu_us_per_event", "cpu_us_per_delivery", "p50_ms", "p99_ms", *CHECKED)


def _deliveries(tabs: int, rate: float) -> Entry:
    return Step(
        "relay",
        int(rate * 4),
        label=f"{tabs:,}",
        at=tabs,
        load=Load(users=1, tabs=tabs),
        rate=rate,
        warmup=100,
    )


def _feeds(feeds: int) -> Entry:
    return Step(
        "relay",
        8000 // feeds,
        label=f"{feeds:,}",
        at=feeds,
        load=Load(users=feeds, tabs=1),
        rate=2000,
        warmup=4,
    )


def _history(events: int) -> Entry:
    return Step(
        "relay",
        800,
        label=f"{events:,}",
        at=events,
        load=Load(users=1, tabs=100),
        rate=200,
        warmup=events + 100,
        settings={
            "REPLAY__MAX_EVENTS": str(events),
            "REPLAY__MAX_BYTES": "33554432",
            "REPLAY__MAX_AGE": "3600",
        },
    )


def _idle(clients: int) -> Entry:
    return Step(
        "relay",
        800,
        label=f"{clients:,}",
        at=clients,
        load=Load(users=1, tabs=100),
        rate=200,
        warmup=100,
        idle=clients,
        settings={"STREAM__HEARTBEAT": "300"},
    )


DELIVERIES = Growth(
    name="growth-deliveries",
    title="Cost as deliveries grow",
    about="One feed with 10 to 1000 subscribers.",
    unit="subscribers of the feed",
    metric="cpu_us_per_delivery",
    entries=(_deliveries(10, 1000), _deliveries(100, 200), _deliveries(1000, 30)),
    baseline="10",
    columns=_COLUMNS,
    # linear or better: the thousandth costs no more than the tenth
    goals=(Goal("cpu_us_per_delivery", most=1, against="10", entry="1,000"),),
)
FEEDS = Growth(
    name="growth-feeds",
    title="Cost as feeds grow",
    about="2000 events a second over 10 to 1000 feeds, one subscriber each.",
    unit="feeds",
    metric="cpu_us_per_event",
    entries=tuple(map(_feeds, (10, 100, 1000))),
    baseline="10",
    columns=_COLUMNS,
)
HISTORY = Growth(
    name="growth-history",
    title="Cost as history grows",
    about="One feed, 100 subscribers, 200 events a second, with a full history of 100 to 10 000.",
    unit="events in the history",
    metric="cpu_us_per_event",
    entries=tuple(map(_history, (100, 1000, 10_000))),
    baseline="100",
    columns=_COLUMNS,
    goals=(Goal("cpu_us_per_event", most=_FLAT, against="100", entry="10,000"),),
)
IDLE_CLIENTS = Growth(
    name="growth-idle",
    title="Cost as idle clients grow",
    about=(
        "One feed with 100 subscribers and 200 events a second, beside 100 to 10 000 clients whose "
        "feeds are silent. Their heartbeats are left out (each is one write in 15 seconds)."
    ),
    unit="idle clients",
    metric="cpu_us_per_event",
    entries=tuple(map(_idle, (100, 1000, 10_000))),
    baseline="100",
    columns=_COLUMNS,
    goals=(Goal("cpu_us_per_event", most=_FLAT, against="100", entry="10,000"),),
)
