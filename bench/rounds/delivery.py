"""A round of delivery: events go through, and what they cost is looked at."""

import time
from typing import Protocol

from bench import machine
from bench.contestants import Stand, open_streams
from bench.kinds import Entry, Load, Step
from bench.rounds.watch import SETTLE_S, Numbers, Watch, send, settled_upstreams


class Pace(Protocol):
    """How events come: of a whole scenario, or of one step of a growth."""

    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...


def deliver(pace: Pace, load: Load, entry: Entry, on: Stand, cores: machine.Cores) -> Numbers:
    """Connect, warm up, send and compare with what was due."""
    busy = load.connections
    open_streams(on, busy)
    streams = settled_upstreams(on)
    if isinstance(entry, Step) and entry.idle:
        # They come after the others, so the first streams upstream are those that get the events.
        open_streams(on, busy + entry.idle)
    # A step may have a long history to fill.
    warmup_rate = 0 if isinstance(entry, Step) else pace.rate
    send(on, pace.warmup, warmup_rate, feeds=load.feeds, streams=streams, clients=busy)
    time.sleep(SETTLE_S)
    watch = Watch(on, cores)
    seen = send(on, entry.events, pace.rate, feeds=load.feeds, streams=streams, clients=busy)
    cost = watch.read()
    due = entry.events * (busy - entry.stuck)
    delivered = seen["events"]
    return {
        "connections": busy,
        "upstream_streams": streams,
        "complete": seen["finished"],  # connections that had all
        "deliveries": delivered,
        "lost": max(due - delivered, seen["missing"]),
        "out_of_order": seen["repeated"],
        "ended": seen["ended"],
        "deliveries_per_s": delivered / max((seen["last_ns"] - seen["first_ns"]) / 1e9, 1e-9),
        "cpu_us_per_delivery": 1e6 * cost["cpu_s"] / max(delivered, 1),
        "cpu_us_per_event": 1e6 * cost["cpu_s"] / (entry.events * streams),
        "bytes_per_s": seen["bytes"] / cost["wall_s"],
        "p50_ms": seen["p50_ms"],
        "p99_ms": seen["p99_ms"],
        "max_ms": seen["max_ms"],
        "resident_mb": on.server.resident_bytes / 1e6,
    } | cost
