"""What a delivery costs: one feed with many subscribers, many feeds, a stuck reader, Redis."""

from bench.kinds import ACTIVITY, DESKTOPS, Delivery, Entry, Goal, Load

CHECKED = ("lost", "out_of_order", "others_share")

_ONE_FEED = Load(users=1, tabs=1000)
_NO_LD_RELAY = (
    "no part: relays LaunchDarkly's flags, in frames it makes of its own model, not events as they "
    "come; v8.11.0 did not build either, the Go proxy lacks one of its dependencies"
)

SPACED = Delivery(
    name="spaced",
    title="One feed, 1000 subscribers, spaced events",
    about=(
        "20 events a second with 200 bytes of data, each delivered to all before the next "
        "comes. The price of a delivery is what the kernel takes for one `send()`. "
        "`nginx-proxy` has 1000 upstream streams instead of one."
    ),
    load=_ONE_FEED,
    rate=20,
    warmup=20,
    entries=(
        Entry("sendloop", 120),
        Entry("relay", 120),
        Entry("nchan", 120),
        Entry("pushpin", 120),
        Entry("nginx-proxy", 120),
        Entry("mercure", 120),
        Entry("centrifugo", 120),
        Entry("aiohttp-sse", 120),
        Entry("sse-starlette", 120),
        Entry("ld-relay", cannot=_NO_LD_RELAY),
    ),
    baseline="sendloop",
    plot="cpu_us_per_delivery",
    columns=("cpu_us_per_delivery", "× cpu_us_per_delivery", "p50_ms", "p99_ms", *CHECKED),
    goals=(
        Goal("cpu_us_per_delivery", most=1.15, against="sendloop"),
        Goal("cpu_us_per_delivery", most=0.75, against="nchan"),
    ),
    rounds=5,
)
BURST = Delivery(
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
        Entry("pushpin", 192),
        Entry("nginx-proxy", 320),
        Entry("mercure", 192),
        Entry("centrifugo", 448),
        Entry("aiohttp-sse", 192),
        Entry("sse-starlette", 128),
        Entry("ld-relay", cannot=_NO_LD_RELAY),
    ),
    baseline="sendloop",
    plot="deliveries_per_s",
    columns=("deliveries_per_s", "× deliveries_per_s", "cpu_us_per_delivery", *CHECKED),
    goals=(
        Goal("deliveries_per_s", least=2_000_000),
        Goal("deliveries_per_s", least=15, against="nchan"),
        Goal("lost", most=0),
        Goal("out_of_order", most=0),
    ),
    rounds=5,
)
USERS = Delivery(
    name="users",
    title="1000 users × 5 tabs, both streams, 5 events/s per user",
    about=(
        "2000 feeds, 10 000 client streams, 5000 events in and 25 000 deliveries out each second."
    ),
    load=Load(users=1000, tabs=5, paths=(DESKTOPS, ACTIVITY)),
    rate=5000,
    warmup=5,
    entries=(Entry("relay", 20),),
    columns=("cpu_share", "p50_ms", "p99_ms", "max_ms", "resident_mb", *CHECKED),
    goals=(
        Goal("cpu_share", most=0.5),
        Goal("p50_ms", most=1),
        Goal("p99_ms", most=5),
        Goal("lost", most=0),
    ),
)
STUCK = Delivery(
    name="stuck",
    title="One stuck reader among 1000",
    about=(
        "20 events a second with 4 KB of data; with and without one client that never reads. "
        "It is full within the warm-up. Delay is that of the others."
    ),
    load=Load(users=1, tabs=1000, data_bytes=4000),
    rate=20,
    warmup=120,
    entries=(Entry("relay", 120), Entry("relay", 120, label="relay, one stuck", stuck=1)),
    columns=("p50_ms", "p99_ms", "× p99_ms", "cpu_us_per_delivery", *CHECKED),
    goals=(
        Goal("p99_ms", most=1.05, against="relay", entry="relay, one stuck"),
        Goal("lost", most=0, entry="relay, one stuck"),
    ),
    rounds=5,
)

_REDIS_COLUMNS = (
    *("cpu_us_per_event", "more cpu_us_per_event"),
    *("p50_ms", "more p50_ms", "p99_ms"),
    *CHECKED,
)
_REDIS_GOALS = (
    Goal("more cpu_us_per_event", most=60, entry="relay, Redis"),
    Goal("more p50_ms", most=2, entry="relay, Redis"),
    Goal("lost", most=0, entry="relay, Redis"),
)
REDIS = Delivery(
    name="redis",
    title="Redis mode against memory mode, 1000 feeds",
    about=(
        "5000 events a second over 1000 feeds, one tab each, with and without Redis (Valkey, "
        "on the clients' core)."
    ),
    load=Load(users=1000, tabs=1),
    rate=5000,
    warmup=10,
    entries=(Entry("relay", 40), Entry("relay", 40, label="relay, Redis", redis=True)),
    columns=_REDIS_COLUMNS,
    goals=_REDIS_GOALS,
)
REDIS_ONE = Delivery(
    name="redis-one",
    title="Redis mode against memory mode, one feed",
    about="The same 5000 events a second, all through one feed with one tab.",
    load=Load(users=1, tabs=1),
    rate=5000,
    warmup=2000,
    entries=(Entry("relay", 30_000), Entry("relay", 30_000, label="relay, Redis", redis=True)),
    columns=_REDIS_COLUMNS,
    goals=_REDIS_GOALS,
)
