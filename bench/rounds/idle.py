"""A round of waiting: more and more streams, and what they hold of memory."""

import statistics
import time

from bench import machine
from bench.contestants import Stand, open_streams
from bench.kinds import Idle
from bench.rounds.watch import SETTLE_S, Numbers, upstreams


def idle(scenario: Idle, on: Stand) -> Numbers:
    """Resident memory at each number of streams, and for each more."""
    steps = []
    for count in scenario.steps:
        open_streams(on, count)
        time.sleep(SETTLE_S)
        steps.append(
            {
                "streams": count,
                "resident_bytes": on.server.resident_bytes,
                "kernel_bytes": machine.kernel_bytes(),
            }
        )
    counts = [step["streams"] for step in steps]
    sizes = [step["resident_bytes"] for step in steps]
    slope = statistics.linear_regression(counts, sizes).slope
    kernel = [step["kernel_bytes"] for step in steps]
    return {
        "steps": steps,
        "bytes_each": slope,
        "kernel_bytes_each": statistics.linear_regression(counts, kernel).slope,
        "resident_mb": sizes[-1] / 1e6,
        "upstream_streams": upstreams(on),
        "ended": on.clients.ask("counts")["ended"],
    }
