"""What a day brings: everybody comes back at once, and clients that come and go for long."""

from bench.kinds import ACTIVITY, DESKTOPS, Entry, Goal, Load, Soak, Storm
from bench.scenarios.delivery import CHECKED

STORM = Storm(
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
    live_s=8,
    warmup=128,
    entries=(Entry("relay", 20),),
    columns=(
        "live_after_s",
        "returned",
        "calm_p99_ms",
        "p99_ms",
        "resident_before_mb",
        "resident_peak_mb",
        *CHECKED,
    ),
    goals=(
        Goal("live_after_s", most=4),
        Goal("p99_ms", most=100),
        Goal("returned", least=10_000),
        Goal("lost", most=0),
    ),
)
SOAK = Soak(
    name="soak",
    title="Soak",
    about=(
        "300 users × 2 tabs × 2 streams, 600 events a second, 60 connections a second dropped or "
        "opened at random. Half of the users keep one tab, so the others come back with cursors "
        "and must miss nothing; the other half come and go as they like, so their feeds open and "
        "close (`feed.linger` is 2 s). At the end all leave, and everything that counts must be "
        "back where it began. The slope of resident memory is taken after the first third, by "
        "least squares over twenty means; its noise is two standard errors. "
        "`make soak MINUTES=30`."
    ),
    load=Load(users=300, tabs=2, paths=(DESKTOPS, ACTIVITY)),
    rate=600,
    toggles_per_s=60,
    minutes=30,
    entries=(Entry("relay", settings={"FEED__LINGER": "2"}),),
    columns=(
        "minutes",
        "connects",
        "deliveries",
        "resident_mb",
        "slope_kb_per_min",
        "noise_kb_per_min",
        "left_over",
        *CHECKED,
    ),
    goals=(
        Goal("slope_over_noise", most=1),
        Goal("left_over", most=0),
        Goal("lost", most=0),
        Goal("out_of_order", most=0),
    ),
    rounds=1,
    on_request=True,
)
