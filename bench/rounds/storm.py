"""A round of storm: nearly all come back at once, and those who stayed are looked at."""

import time

from bench import machine
from bench.contestants import Stand, open_streams
from bench.kinds import Storm
from bench.rounds.watch import SETTLE_S, TIMEOUT_S, Numbers, Watch, emit, send


def storm(scenario: Storm, on: Stand, cores: machine.Cores) -> Numbers:
    """Fill the histories, look at the calm, then let it break."""
    load = scenario.load
    open_streams(on, load.connections)
    send(on, scenario.warmup, 0, feeds=load.feeds, streams=load.feeds)
    calm = send(on, 2, scenario.rate, feeds=load.feeds, streams=load.feeds)
    time.sleep(SETTLE_S)
    before_bytes = on.server.resident_bytes
    on.server.forget_peak()
    watch = Watch(on, cores)
    # Live events go on for as long as the storm may take to be over.
    emit(on, int(scenario.rate * scenario.live_s), scenario.rate)
    on.clients.ask(f"storm {scenario.staying} {scenario.back} {TIMEOUT_S}")
    seen = on.clients.report(TIMEOUT_S + 5)
    cost = watch.read()
    peak_bytes = on.server.peak_bytes
    on.upstream.hear(TIMEOUT_S)
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
