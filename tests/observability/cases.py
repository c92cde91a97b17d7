"""What every alert is tried on: bad series, and those of the quiet side.

Values are written as promtool takes them: `0+60x20` begins at 0 and rises by 60 a minute, 20 times.
One sample a minute, from minute 0 on.
"""

from dataclasses import dataclass, field
from math import inf

Series = dict[str, str]
JOB = {"namespace": "prod", "job": "prod/lebureau-relay"}
PODS = {pod: {"pod": pod, "instance": f"10.0.0.{n}:9090"} for n, pod in enumerate("abc", 1)}
FAILED = "upstream_unavailable"


def of(name: str, values: str, pod: str = "a", **labels: str) -> Series:
    """One series of one replica."""
    labels = JOB | PODS[pod] | labels
    prefix = "" if name == "up" or name.startswith("process_") else "lebureau_relay_"
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {f"{prefix}{name}{{{inside}}}": values}


def all_of(*many: Series) -> Series:
    return {name: values for one in many for name, values in one.items()}


def lags(*rises: tuple[float, str]) -> Series:
    return histogram("event_loop_lag_seconds", rises)


def delays(*rises: tuple[float, str]) -> Series:
    return histogram("delivery_delay_seconds", rises, stream="desktops")


def redis_calls(*rises: tuple[float, str]) -> Series:
    return histogram("redis_call_seconds", rises, operation="pipeline")


def histogram(name: str, rises: tuple[tuple[float, str], ...], **labels: str) -> Series:
    """How each bucket rises; nothing is beyond the last."""
    each = [*rises, (inf, rises[-1][1])]
    les = (("+Inf" if le == inf else str(float(le)), rise) for le, rise in each)
    return all_of(*(of(f"{name}_bucket", rise, le=le, **labels) for le, rise in les))


def connects(accepted: str, refused: str, outcome: str = FAILED) -> Series:
    return all_of(
        of("connects_total", accepted, stream="desktops", outcome="accepted"),
        of("connects_total", refused, stream="desktops", outcome=outcome),
    )


def upstream(is_open: str, waiting: str, opening: str = "0x60") -> Series:
    states = {"open": is_open, "waiting": waiting, "opening": opening}
    return all_of(
        *(of("upstream_connections", n, stream="desktops", state=s) for s, n in states.items())
    )


def reconnects(values: str, connections: str, reason: str = "cut") -> Series:
    return all_of(
        of("upstream_reconnects_total", values, stream="desktops", reason=reason),
        of("upstream_connections", connections, stream="desktops", state="open"),
    )


def gaps(values: str, feeds: str, cause: str = "upstream") -> Series:
    return all_of(
        of("gaps_total", values, stream="desktops", cause=cause),
        of("feeds", feeds, stream="desktops", role="owner"),
        of("feeds", "0x60", stream="desktops", role="follower"),
    )


def replays(gap: str, resumed: str, fresh: str = "0x60") -> Series:
    outcomes = {"gap": gap, "resumed": resumed, "fresh": fresh}
    return all_of(
        *(of("replays_total", n, stream="desktops", outcome=o) for o, n in outcomes.items())
    )


def takeovers(values: str, owned: str, pod: str = "a") -> Series:
    return all_of(
        of("takeovers_total", values, pod), of("feeds", owned, pod, stream="desktops", role="owner")
    )


def seen(a: str, b: str, c: str, up: str = "1x60") -> Series:
    return all_of(
        *(of("replicas", count, pod) for pod, count in zip("abc", (a, b, c), strict=True)),
        *(of("redis_up", up if pod == "a" else "1x60", pod) for pod in "abc"),
    )


def revoked(closes: str, subscribers: str) -> Series:
    return all_of(
        of("closes_total", closes, stream="desktops", reason="credential_revoked"),
        of("subscribers", subscribers, stream="desktops"),
    )


def full(streams: str, limit: str = "1000x60") -> Series:
    return all_of(
        of("subscribers", streams, stream="desktops"),
        of("subscribers", "0x60", stream="activity"),
        of("subscribers_limit", limit),
    )


def descriptors(is_open: str, most: str = "1000x60", relay: str = "1x60") -> Series:
    return all_of(
        of("process_open_fds", is_open), of("process_max_fds", most), of("build_info", relay)
    )


@dataclass(frozen=True)
class Case:
    """What one alert is tried on. `on` are the labels it must carry when it fires at `at` on `bad`;
    at `before` it must not yet, on the same; on none of `quiet` at any time.
    """

    bad: Series
    at: str
    before: str
    quiet: tuple[Series, ...]
    on: dict[str, str] = field(default_factory=lambda: JOB)


ONE = JOB | PODS["a"]
STREAM = JOB | {"stream": "desktops"}
CASES = {
    "Absent": Case(
        bad=of("build_info", "1x3"),
        at="14m",  # the last sample counts for 5 minutes
        before="12m",
        quiet=(of("build_info", "1x60"),),
        on={},
    ),
    "TargetDown": Case(
        bad=of("up", "1x3 0x60"),
        at="8m",
        before="6m",
        quiet=(
            of("up", "1x60"),
            of("up", "1x3 0 0 1x60"),  # restarts within a scrape or two
            {'up{job="node",instance="10.0.0.9:9100"}': "0x60"},
        ),
        on=ONE,
    ),
    "DrainStuck": Case(
        bad=of("draining", "0x3 1x60"),
        at="10m",
        before="8m",
        quiet=(of("draining", "0x60"), of("draining", "0x3 1 1 stale")),
        on=ONE,
    ),
    "LoopLag": Case(
        # of 600 turns a minute 12 come later than 0.1 s: two in a hundred
        bad=lags((0.1, "0+588x60"), (0.25, "0+600x60")),
        at="15m",
        before="9m",
        quiet=(
            lags((0.05, "0+594x60"), (0.1, "0+594x60"), (0.25, "0+600x60")),
            # a start that takes its time, then counters from nought after a restart
            lags((0.1, "500 550 0+600x60"), (0.25, "600 650 0+600x60")),
            lags((0.1, "0x60"), (0.25, "0x60")),
        ),
        on=ONE,
    ),
    "InternalErrors": Case(
        bad=all_of(
            of("refusals_total", "0x5 1x60", code="internal_error"),
            of("closes_total", "0x60", stream="desktops", reason="internal_error"),
        ),
        at="7m",
        before="4m",
        quiet=(
            all_of(
                of("refusals_total", "0x60", code="internal_error"),
                of("closes_total", "0x60", stream="desktops", reason="internal_error"),
                of("refusals_total", "0+9x60", code="forbidden"),
            ),
            # it happened once, before anybody looked, and the restart is no rise
            all_of(
                of("refusals_total", "1x20 0x40", code="internal_error"),
                of("closes_total", "7x20 0x40", stream="desktops", reason="internal_error"),
            ),
        ),
    ),
    "DeliveryDelay": Case(
        bad=delays((1.0, "0+98x60"), (2.5, "0+100x60")),
        at="15m",
        before="9m",
        quiet=(
            delays((0.5, "0+99x60"), (1.0, "0+99x60"), (2.5, "0+100x60")),
            # one bad flush in a quiet night
            delays((1.0, "0x60"), (2.5, "0x10 1x50")),
            delays((1.0, "0x60")),
        ),
        on=STREAM,
    ),
    "Gaps": Case(
        bad=gaps("0+2x60", "1000x60"),  # 30 in 15 minutes; allowed are 20
        at="30m",
        before="10m",
        quiet=(
            gaps("0+1x60", "500x60"),  # 15 of 15
            gaps("0x10 10x50", "0x60"),  # ten at once where there is hardly a feed
            gaps("0+20x60", "10x60", cause="slow"),  # a client's own fault
            gaps("0+20x60", "10x60", cause="unknown_id"),
            gaps("90000x10 0x50", "10x60"),  # a restart
        ),
        on=STREAM | {"cause": "upstream"},
    ),
    "ResumesFail": Case(
        bad=replays("0+10x90", "0+80x90"),
        at="45m",
        before="9m",
        quiet=(
            replays("0+10x90", "0+90x90"),  # a tenth
            replays("0x10 15x80", "0x10 1x80"),  # a few at night
            replays("0x90", "0x90", fresh="0+90x90"),
        ),
        on=STREAM,
    ),
    "Refusals": Case(
        bad=connects("0+90x60", "0+10x60"),
        at="15m",
        before="9m",
        quiet=(
            connects("0+95x60", "0+5x60"),
            connects("0x60", "0+6x60"),  # one client that nobody else keeps company
            connects("0x60", "0x60"),
            connects("0+50x60", "0+50x60", outcome="invalid_credential"),
            connects("0+50x60", "0+50x60", outcome="draining"),
            connects("0x10 0+90x5 1000x60", "0x10 0+90x5 450x60"),  # five bad minutes
        ),
    ),
    "ClientsLimited": Case(
        bad=connects("0+70x60", "0+30x60", outcome="too_many_failures"),
        at="25m",
        before="14m",
        quiet=(
            connects("0+80x60", "0+20x60", outcome="rate_limited"),
            connects("0x60", "0+6x60", outcome="rate_limited"),
        ),
    ),
    "CredentialsRevoked": Case(
        bad=revoked("0x5 0+40x5 200x60", "1000x10 800x60"),
        at="12m",
        before="6m",
        quiet=(
            revoked("0x5 80x60", "800x60"),  # a tenth
            revoked("0x5 18x60", "5x60"),  # one person's tabs
            revoked("9000x10 0x60", "100x60"),
        ),
    ),
    "UpstreamDown": Case(
        bad=upstream("10x3 4x60", "0x3 3x60", "0x3 3x60"),
        at="7m",
        before="5m",
        quiet=(
            upstream("10x60", "5x60", "5x60"),  # half
            upstream("0x60", "0x60"),  # nobody is there
            upstream("10x5 0 10x60", "0x5 10 0x60"),  # a deploy of theirs
        ),
        on=STREAM,
    ),
    "UpstreamUnstable": Case(
        bad=reconnects("0+30x60", "100x60"),  # each is lost once in 3 minutes and 20 seconds
        at="30m",
        before="9m",
        quiet=(
            reconnects("0+20x60", "100x60"),  # once in five
            reconnects("0x20 100x10 200x60", "100x60"),  # two deploys of theirs
            reconnects("0+0.9x60", "1x60"),  # one user whose subscription doesn't last
            reconnects("0+30x60", "100x60", reason="replaced"),
        ),
        on=STREAM,
    ),
    "RedisDown": Case(
        bad=of("redis_up", "1x3 0x60"),
        at="7m",
        before="5m",
        quiet=(of("redis_up", "1x60"), of("redis_up", "0 1x60"), of("redis_up", "1x5 0 1x60")),
        on=ONE,
    ),
    "RedisSlow": Case(
        bad=redis_calls((0.1, "0+98x60"), (0.25, "0+100x60")),
        at="15m",
        before="9m",
        quiet=(
            redis_calls((0.025, "0+99x60"), (0.1, "0+99x60"), (0.25, "0+100x60")),
            redis_calls((0.1, "0x60")),
        ),
    ),
    "ReplicasApart": Case(
        bad=seen("3x3 2x60", "3x60", "3x60"),
        at="9m",
        before="7m",
        quiet=(
            seen("3x60", "3x60", "3x60"),
            seen("3x5 2 1 3x60", "3x5 2 1 3x60", "3x60"),  # a rollout
            seen("3x5 0x60", "3x60", "3x60", up="1x5 0x60"),  # RedisDown's affair
            seen("1x60", "_x60", "_x60"),
        ),
        on=ONE,
    ),
    "LeaseFlapping": Case(
        bad=takeovers("0+30x60", "100x60"),  # 450 in 15 minutes; three each are 300
        at="35m",
        before="9m",
        quiet=(
            takeovers("0+20x60", "100x60"),
            # three replicas are replaced, and every feed moves each time
            all_of(
                takeovers("0x10 100 100 100 100x50", "34x60"),
                takeovers("0x10 0 100 100 100x50", "33x60", "b"),
                takeovers("0x10 0 0 100 100x50", "33x60", "c"),
            ),
            takeovers("0+1x60", "1x60"),  # one feed whose tabs come and go
            takeovers("0x60", "0x60"),
        ),
    ),
    "NearCapacity": Case(
        bad=full("810x60"),
        at="11m",
        before="9m",
        quiet=(full("800x60"), full("1000x5 10x60"), full("0x60", limit="0x60")),
        on=ONE,
    ),
    "DescriptorsLow": Case(
        bad=descriptors("810x60"),
        at="11m",
        before="9m",
        quiet=(
            descriptors("800x60"),
            descriptors("810x60", relay="_x60"),  # somebody else's program
        ),
        on=ONE,
    ),
    "AtCapacity": Case(
        bad=of("refusals_total", "0+1x60", code="at_capacity"),
        at="8m",
        before="4m",
        quiet=(
            of("refusals_total", "0x60", code="at_capacity"),
            of("refusals_total", "0x10 50x50", code="at_capacity"),  # once
            of("refusals_total", "0+1x60", code="rate_limited"),
        ),
    ),
}  # fmt: skip

# A fresh replica: every series stands at nought, nobody has come yet.
START = all_of(
    of("build_info", "1x60"), of("replicas", "1x60"), of("up", "1x60"), of("draining", "0x60"),
    full("0x60"), upstream("0x60", "0x60"), connects("0x60", "0x60"),
    replays("0x60", "0x60"), gaps("0x60", "0x60"), reconnects("0x60", "0x60"),
    takeovers("0x60", "0x60"), of("redis_up", "0 1x60"),
    revoked("0x60", "0x60"), descriptors("20x60"),
    of("refusals_total", "0x60", code="at_capacity"),
    of("refusals_total", "0x60", code="internal_error"),
    of("closes_total", "0x60", stream="desktops", reason="internal_error"),
    delays((1.0, "0x60")),
    lags((0.1, "0+600x60")),
    redis_calls((0.1, "0x60")),
)  # fmt: skip
