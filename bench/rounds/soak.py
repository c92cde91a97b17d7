"""A soak: clients come and go for minutes, memory is sampled, and nothing may be left behind."""

import statistics
import time
import urllib.request
from collections.abc import Mapping, Sequence

from bench import machine
from bench.contestants import Stand, open_streams
from bench.kinds import Soak
from bench.machine import BenchError
from bench.rounds.watch import TIMEOUT_S, Numbers, Watch, emit

# Histories fill (for `replay.max_age`) and the allocator finds its size in this share of the time.
_WARMUP_SHARE = 1 / 2
# Single samples hang together; means of longer pieces say how much it really swings.
_PIECES = 20
_SAMPLE_S = 0.5
# Feeds linger, what was cut is noticed by a clock that ticks now and then, and connections on which
# upstream was asked about credentials are kept for half a minute.
_AFTERWARDS_S = 45.0
_GAUGES = ("subscribers", "feeds", "upstream_connections", "history_bytes")


def soak(scenario: Soak, on: Stand, cores: machine.Cores) -> Numbers:
    """Everybody connects, churns, and leaves."""
    seconds = scenario.minutes * 60
    open_streams(on, 1)
    before = _counted(on)
    open_streams(on, scenario.load.connections)
    watch = Watch(on, cores)
    emit(on, int(scenario.rate * seconds), scenario.rate)
    on.clients.ask(f"churn {seconds} {scenario.toggles_per_s}")
    samples = _sampled(on, seconds)
    seen = on.clients.report(TIMEOUT_S)
    cost = watch.read()
    on.upstream.hear(TIMEOUT_S)
    after = _counted(on, before)
    slope, noise = _slope([(at_s / 60, size / 1e3) for at_s, size in samples])
    return {
        "minutes": scenario.minutes,
        "connects": seen["connects"],
        "refused": seen["refused"],
        "ended": seen["ended"],
        "deliveries": seen["events"],
        "lost": seen["missing"],
        "out_of_order": seen["repeated"],
        "resident_mb": samples[-1][1] / 1e6,
        "slope_kb_per_min": slope,
        "noise_kb_per_min": noise,
        "slope_over_noise": slope / noise,
        "left_over": sum(max(after[name] - before[name], 0) for name in after),
        "left": {name: after[name] - before[name] for name in after},
        "samples": [{"s": round(at_s), "mb": size / 1e6} for at_s, size in _thinned(samples)],
    } | cost


def _sampled(on: Stand, seconds: float) -> list[tuple[float, int]]:
    """Resident bytes, by seconds since the start."""
    started_s = time.monotonic()
    samples = []
    while (at_s := time.monotonic() - started_s) < seconds:
        samples.append((at_s, on.server.resident_bytes))
        time.sleep(_SAMPLE_S)
    return samples


def _thinned(samples: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """As many as a plot can show."""
    return list(samples[:: max(len(samples) // 300, 1)])


def _slope(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """By least squares over the means of pieces, and two standard errors of it."""
    warm = samples[int(len(samples) * _WARMUP_SHARE) :]
    size = max(len(warm) // _PIECES, 1)
    pieces = [warm[i : i + size] for i in range(0, len(warm) - size + 1, size)]
    xs = [statistics.mean(at for at, _ in piece) for piece in pieces]
    ys = [statistics.mean(value for _, value in piece) for piece in pieces]
    slope, intercept = statistics.linear_regression(xs, ys)
    rests = [y - intercept - slope * x for x, y in zip(xs, ys, strict=True)]
    middle = statistics.mean(xs)
    spread = sum((x - middle) ** 2 for x in xs)
    error = (sum(rest**2 for rest in rests) / max(len(xs) - 2, 1) / spread) ** 0.5
    return slope, max(2 * error, 1e-9)


def _counted(on: Stand, before: Mapping[str, int] | None = None) -> dict[str, int]:
    """All clients leave; what counts something once that is back at `before`, or time is up.

    At first that is the gauges at zero, with what a process keeps open anyway.
    """
    on.clients.ask("leave")
    deadline_s = time.monotonic() + _AFTERWARDS_S
    while True:
        time.sleep(_SAMPLE_S)
        found = _gauges(on)
        idle = not any(found.values())
        time.sleep(_SAMPLE_S)  # the connection that asked is gone by then
        found |= {"descriptors": on.server.descriptors, "tasks": on.server.inside()["tasks"]}
        if before is not None:
            idle = all(found[name] <= before[name] for name in before)
        if idle or time.monotonic() > deadline_s:
            return found


def _gauges(on: Stand) -> dict[str, int]:
    """The relay's own gauges, summed over their labels."""
    url = f"http://127.0.0.1:{on.admin_port}/metrics"
    sums = dict.fromkeys(_GAUGES, 0)
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0].removeprefix("lebureau_relay_")
        if name in sums:
            sums[name] += int(float(line.rpartition(" ")[2]))
    if "lebureau_relay_subscribers" not in text:
        raise BenchError("the relay's metrics name no subscribers")
    return sums
