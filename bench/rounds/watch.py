"""What every round needs: CPU and time of a stand, and events that are sent and waited for."""

import time
from typing import Any

from bench import machine
from bench.contestants import Stand
from bench.machine import BenchError

TIMEOUT_S = 120.0
# Let go of what connecting needed before memory or CPU is read.
SETTLE_S = 1.0

# How long upstream's streams must stay as many to be taken for all.
_LOOK_S = 0.2

Numbers = dict[str, Any]


class Watch:
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
        """What has been used since."""
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


def emit(on: Stand, count: int, rate: float, streams: int = 0) -> None:
    """Let upstream send so many events, over its first `streams` or all."""
    on.upstream.tell(f"go {count} {rate} {streams}")


def upstreams(on: Stand) -> int:
    """How many streams upstream serves: one per feed, if the sharing works."""
    on.upstream.tell("streams")
    return int(on.upstream.hear().split()[1])


def settled_upstreams(on: Stand) -> int:
    """The same, once it no longer changes: who asks upstream for clients may do so a moment later.

    Raises BenchError where nobody asks.
    """
    before, now = -1, upstreams(on)
    while now != before:
        time.sleep(_LOOK_S)
        before, now = now, upstreams(on)
    if not now:
        raise BenchError("upstream was asked for nothing")
    return now


def send(
    on: Stand, events: int, rate: float, *, feeds: int, streams: int, clients: int = 0
) -> Numbers:
    """Let `events` go through every feed; wait until `clients` (0: all) have them, or won't.

    Whoever has more upstream streams than there are feeds has to be sent more for the same.
    """
    on.clients.ask(f"expect {events} {TIMEOUT_S} {clients}")
    emit(on, events * streams, rate * streams / feeds, streams)
    seen = on.clients.report(TIMEOUT_S + 5)
    on.upstream.hear(TIMEOUT_S)
    return seen
