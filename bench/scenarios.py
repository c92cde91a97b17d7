"""Scenarios as data: what is sent to whom, and who takes part.

A number of events is chosen so that a contestant needs some seconds for them; a finite number is
what allows to say that none was lost. The goals are issue 5's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DESKTOPS = "/api/desktops/stream"
ACTIVITY = "/api/mission-control/activity/stream"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a scenario. `events` go through each feed while it is measured."""

    contestant: str
    events: int
    label: str = ""
    stuck: int = 0  # connections that are never read
    redis: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """How the row is called."""
        return self.label or self.contestant


@dataclass(frozen=True, slots=True)
class Load:
    """Who is connected: `users`, each with `tabs`, each tab with every path of `paths`."""

    users: int
    tabs: int
    paths: tuple[str, ...] = (DESKTOPS,)
    data_bytes: int = 200

    @property
    def feeds(self) -> int:
        """Upstream subscriptions that this needs."""
        return self.users * len(self.paths)

    @property
    def connections(self) -> int:
        """Client streams."""
        return self.feeds * self.tabs


@dataclass(frozen=True, slots=True)
class Goal:
    """What `entry` should reach: a bound on one number, or on its ratio to another contestant's."""

    metric: str
    most: float | None = None
    least: float | None = None
    against: str = ""  # the other contestant; empty: the number itself
    entry: str = "relay"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Events go through; CPU, delay and order are looked at.

    `rate` is in events a second over all feeds; 0: as fast as they are taken. Ratios are against
    `baseline`.
    """

    name: str
    title: str
    about: str
    load: Load
    rate: float
    warmup: int  # events for each feed before the measurement
    entries: tuple[Entry, ...]
    baseline: str
    columns: tuple[str, ...]  # of the table; "× name" is the ratio to the baseline
    goals: tuple[Goal, ...]
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing goes through; resident memory is looked at, at several numbers of streams."""

    name: str
    title: str
    about: str
    load: Load
    steps: tuple[int, ...]  # how many connections are open when memory is read
    entries: tuple[Entry, ...]
    baseline: str
    columns: tuple[str, ...]
    goals: tuple[Goal, ...]
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Storm:
    """All connections but the first `staying` are dropped, and come back with cursors at once."""

    name: str
    title: str
    about: str
    load: Load
    staying: int
    back: int  # events that each has to catch up with
    rate: float  # live events meanwhile, over all feeds
    warmup: int
    entries: tuple[Entry, ...]
    baseline: str
    columns: tuple[str, ...]
    goals: tuple[Goal, ...]
    rounds: int = 3


Scenario = Delivery | Idle | Storm

_ONE_FEED = Load(users=1, tabs=1000)
_CHECKED = ("lost", "out_of_order", "others_share")

SCENARIOS: tuple[Scenario, ...] = (
    Delivery(
        name="spaced",
        title="One feed, 1000 subscribers, spaced events",
        about=(
            "20 events a second with 200 bytes of data, each delivered to all before the next "
            "comes. The price of a delivery is what the kernel takes for one `send()`."
        ),
        load=_ONE_FEED,
        rate=20,
        warmup=20,
        entries=(
            Entry("sendloop", 120),
            Entry("relay", 120),
            Entry("nchan", 120),
            Entry("aiohttp-sse", 120),
        ),
        baseline="sendloop",
        columns=("cpu_us_per_delivery", "× cpu_us_per_delivery", "p50_ms", "p99_ms", *_CHECKED),
        goals=(
            Goal("cpu_us_per_delivery", most=1.15, against="sendloop"),
            Goal("cpu_us_per_delivery", most=0.75, against="nchan"),
        ),
    ),
    Delivery(
        name="burst",
        title="One feed, 1000 subscribers, events in bursts, saturated",
        about=(
            "Upstream sends as fast as it is read. What came in one turn of the relay's loop "
            "leaves in one write per client and 16 KiB. Delay is left out: it only says how much "
            "waits in buffers."
        ),
        load=_ONE_FEED,
        rate=0,
        warmup=64,
        entries=(
            Entry("sendloop", 640),
            Entry("relay", 16_000),
            Entry("nchan", 448),
            Entry("aiohttp-sse", 192),
        ),
        baseline="sendloop",
        columns=("deliveries_per_s", "× deliveries_per_s", "cpu_us_per_delivery", *_CHECKED),
        goals=(
            Goal("deliveries_per_s", least=2_000_000),
            Goal("deliveries_per_s", least=15, against="nchan"),
            Goal("lost", most=0),
            Goal("out_of_order", most=0),
        ),
    ),
    Delivery(
        name="users",
        title="1000 users × 5 tabs, both streams, 5 events/s per user",
        about=(
            "2000 feeds, 10 000 client streams, 5000 events in and 25 000 deliveries out each "
            "second."
        ),
        load=Load(users=1000, tabs=5, paths=(DESKTOPS, ACTIVITY)),
        rate=5000,
        warmup=5,
        entries=(Entry("relay", 20),),
        baseline="relay",
        columns=("cpu_share", "p50_ms", "p99_ms", "max_ms", "resident_mb", *_CHECKED),
        goals=(
            Goal("cpu_share", most=0.5),
            Goal("p50_ms", most=1),
            Goal("p99_ms", most=5),
            Goal("lost", most=0),
        ),
        rounds=3,
    ),
    Idle(
        name="idle-streams",
        title="Idle streams",
        about=(
            "Streams on one feed. Resident memory of the server process for each more, by least "
            "squares."
        ),
        load=Load(users=1, tabs=15_000),
        steps=(1000, 5000, 10_000, 15_000),
        entries=(Entry("relay", 0), Entry("nchan", 0), Entry("aiohttp-sse", 0)),
        baseline="relay",
        columns=("bytes_each", "× bytes_each", "resident_mb"),
        goals=(Goal("bytes_each", most=2500),),
    ),
    Idle(
        name="idle-feeds",
        title="Idle feeds",
        about=(
            "One stream per feed, so one upstream connection (plain HTTP) for each client. "
            "Resident memory for each more feed with an empty history, its one stream included."
        ),
        load=Load(users=8000, tabs=1),
        steps=(500, 2000, 4000, 8000),
        entries=(Entry("relay", 0),),
        baseline="relay",
        columns=("bytes_each", "resident_mb"),
        goals=(Goal("bytes_each", most=16_000),),
    ),
    Storm(
        name="storm",
        title="Connect storm",
        about=(
            "10 000 of 11 000 streams (1100 users × 5 tabs × 2 streams) are dropped at once and "
            "come back with cursors, each with 100 events to replay, while 2200 events a second go "
            "on. Delay is that of the 1000 streams that stay."
        ),
        load=Load(users=1100, tabs=5, paths=(DESKTOPS, ACTIVITY)),
        staying=1000,
        back=100,
        rate=2200,
        warmup=128,
        entries=(Entry("relay", 20),),
        baseline="relay",
        columns=(
            "live_after_s",
            "calm_p99_ms",
            "p99_ms",
            "resident_before_mb",
            "resident_peak_mb",
            *_CHECKED,
        ),
        goals=(
            Goal("live_after_s", most=4),
            Goal("p99_ms", most=100),
            Goal("returned", least=10_000),
            Goal("lost", most=0),
        ),
    ),
    Delivery(
        name="stuck",
        title="One stuck reader among 1000",
        about=(
            "20 events a second with 4 KB of data; with and without one client that never reads. "
            "It is full within the warm-up."
        ),
        load=Load(users=1, tabs=1000, data_bytes=4000),
        rate=20,
        warmup=120,
        entries=(Entry("relay", 120), Entry("relay", 120, label="relay, one stuck", stuck=1)),
        baseline="relay",
        columns=("p50_ms", "p99_ms", "× p99_ms", "cpu_us_per_delivery", *_CHECKED),
        goals=(Goal("p99_ms", most=1.05, against="relay", entry="relay, one stuck"),),
    ),
    Delivery(
        name="redis",
        title="Redis mode against memory mode",
        about=(
            "5000 events a second over 1000 feeds, one tab each, with and without Redis (Valkey, "
            "on the clients' core)."
        ),
        load=Load(users=1000, tabs=1),
        rate=5000,
        warmup=10,
        entries=(Entry("relay", 40), Entry("relay", 40, label="relay, Redis", redis=True)),
        baseline="relay",
        columns=("cpu_us_per_event", "more cpu_us_per_event", "p50_ms", "p99_ms", *_CHECKED),
        goals=(Goal("more cpu_us_per_event", most=60, entry="relay, Redis"),),
        rounds=3,
    ),
)
