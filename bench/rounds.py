"""Rounds: one measurement of one contestant in one scenario.

What comes back is plain numbers, ready for JSON. A round says how busy the machine was besides: the
share of the server's core that others took is measured, not hoped for.
"""

import os
import statistics
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestants import Stand, open_streams, stand
from bench.scenarios import Delivery, Entry, Idle, Scenario, Storm

_TIMEOUT_S = 120.0
# Let go of what connecting needed before memory or CPU is read.
_SETTLE_S = 1.0
# How long live events go on in a storm: longer than it lasts.
_STORM_S = 8.0

Numbers = dict[str, Any]


class _Watch:
    """CPU and time of a stand, from when it is made to `read`."""

    def __init__(self, on: Stand, cores: machine.Cores) -> None:
        self._stand = on
        self._cores = cores
        self._before = self._now()

    def _now(self) -> tuple[float, ...]:
        on, server = self._stand, self._cores.server
        all_s = sum(map(machine.busy_s, self._cores.all))
        return (
            time.monotonic(),
            machine.busy_s(server),
            all_s,
            on.server.cpu_s,
            on.clients.cpu_s,
            on.upstream.cpu_s,
            sum(helper.cpu_s for helper in on.helpers),
        )

    def read(self) -> Numbers:
        pairs = zip(self._before, self._now(), strict=True)
        differences = (after - before for before, after in pairs)
        wall_s, busy_s, all_s, server_s, clients_s, upstream_s, helpers_s = differences
        ours_s = server_s + clients_s + upstream_s + helpers_s
        return {
            "wall_s": wall_s,
            "cpu_s": server_s,
            "cpu_share": server_s / wall_s,
            "clients_share": clients_s / wall_s,
            "upstream_share": upstream_s / wall_s,
            "helpers_share": helpers_s / wall_s,
            "others_share": max(busy_s - server_s, 0.0) / wall_s,
            "others_in_all": max(all_s - ours_s, 0.0) / wall_s,
        }


def run(scenario: Scenario, entry: Entry, built: dict[str, Path], cores: machine.Cores) -> Numbers:
    """One round. Raises BenchError if it can't be run."""
    load_average = os.getloadavg()[0]
    with stand(built, cores, scenario.load, entry) as on:
        return {"load_average": load_average} | _measured(scenario, entry, on, cores)


def _measured(scenario: Scenario, entry: Entry, on: Stand, cores: machine.Cores) -> Numbers:
    match scenario:
        case Delivery():
            return _deliver(scenario, entry, on, cores)
        case Idle():
            return _idle(scenario, on)
        case Storm():
            return _storm(scenario, on, cores)


def _emit(on: Stand, count: int, rate: float) -> None:
    on.upstream.tell(f"go {count} {rate}")


def _upstreams(on: Stand) -> int:
    """How many streams upstream serves: one per feed, if the sharing works."""
    on.upstream.tell("streams")
    return int(on.upstream.hear().split()[1])


def _send(on: Stand, events: int, rate: float) -> Numbers:
    """Let `events` go through every feed, and wait until all clients have had them, or won't."""
    on.clients.ask(f"expect {events} {_TIMEOUT_S}")
    _emit(on, events * _upstreams(on), rate)
    seen = on.clients.report(_TIMEOUT_S + 5)
    on.upstream.hear(_TIMEOUT_S)
    return seen


def _deliver(scenario: Delivery, entry: Entry, on: Stand, cores: machine.Cores) -> Numbers:
    connections = scenario.load.connections
    open_streams(on, connections)
    _send(on, scenario.warmup, scenario.rate)
    time.sleep(_SETTLE_S)
    watch = _Watch(on, cores)
    seen = _send(on, entry.events, scenario.rate)
    cost = watch.read()
    due = entry.events * (connections - entry.stuck)
    delivered = seen["events"]
    return {
        "connections": connections,
        "upstream_streams": _upstreams(on),
        "deliveries": delivered,
        "lost": max(due - delivered, seen["missing"]),
        "out_of_order": seen["repeated"],
        "ended": seen["ended"],
        "deliveries_per_s": delivered / max((seen["last_ns"] - seen["first_ns"]) / 1e9, 1e-9),
        "cpu_us_per_delivery": 1e6 * cost["cpu_s"] / max(delivered, 1),
        "cpu_us_per_event": 1e6 * cost["cpu_s"] / (entry.events * _upstreams(on)),
        "bytes_per_s": seen["bytes"] / cost["wall_s"],
        "p50_ms": seen["p50_ms"],
        "p99_ms": seen["p99_ms"],
        "max_ms": seen["max_ms"],
        "resident_mb": on.server.resident_bytes / 1e6,
    } | cost


def _idle(scenario: Idle, on: Stand) -> Numbers:
    steps = []
    for count in scenario.steps:
        open_streams(on, count)
        time.sleep(_SETTLE_S)
        steps.append({"streams": count, "resident_bytes": on.server.resident_bytes})
    counts = [step["streams"] for step in steps]
    sizes = [step["resident_bytes"] for step in steps]
    slope = statistics.linear_regression(counts, sizes).slope
    return {
        "steps": steps,
        "bytes_each": slope,
        "resident_mb": sizes[-1] / 1e6,
        "upstream_streams": _upstreams(on),
        "ended": on.clients.ask("counts")["ended"],
    }


def _storm(scenario: Storm, on: Stand, cores: machine.Cores) -> Numbers:
    load = scenario.load
    open_streams(on, load.connections)
    _send(on, scenario.warmup, 0)
    calm = _send(on, 2, scenario.rate)
    time.sleep(_SETTLE_S)
    before_bytes = on.server.resident_bytes
    on.server.forget_peak()
    watch = _Watch(on, cores)
    # Live events go on for as long as the storm may take to be over.
    _emit(on, int(scenario.rate * _STORM_S), scenario.rate)
    on.clients.ask(f"storm {scenario.staying} {scenario.back} {_TIMEOUT_S}")
    seen = on.clients.report(_TIMEOUT_S + 5)
    cost = watch.read()
    peak_bytes = on.server.peak_bytes
    on.upstream.hear(_TIMEOUT_S)
    return {
        "connections": load.connections,
        "returned": seen["finished"],
        "refused": seen["refused"],
        "lost": seen["missing"],
        "out_of_order": seen["repeated"],
        "live_after_s": seen["seconds"],
        "p50_ms": seen["p50_ms"],
        "p99_ms": seen["p99_ms"],
        "max_ms": seen["max_ms"],
        "calm_p99_ms": calm["p99_ms"],
        "resident_before_mb": before_bytes / 1e6,
        "resident_peak_mb": peak_bytes / 1e6,
    } | cost
