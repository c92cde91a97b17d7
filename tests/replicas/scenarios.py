"""The faults of a deployment, one function each: what happens, and until when.

Each is played on a stage where clients stream and upstream speaks all the time; `play` judges what
became of it.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.chaos.judge import Judgement
from redis import Redis
from tests.replicas.stage import Size, Stage

CI = Size(feeds=20, tabs=100, rate=5.0, lease_s=2.0, pause_s=4.0)
FULL = Size(feeds=200, tabs=1000, rate=1.0, lease_s=6.0, pause_s=20.0, spread_s=5.0)
# Between two faults of one scenario, and after the last: time to see what comes of it.
_BREATH_S = 1.0


async def owner_killed(stage: Stage) -> None:
    """kill -9"""
    (relay, feeds), at_s = await stage.busiest(), time.monotonic()
    relay.signal(signal.SIGKILL)
    await relay.exit()
    await stage.settled()
    longest_s = max(stage.without_upstream(at_s), default=0.0)
    stage.told.append(f"{feeds} feeds taken over, the last after {longest_s:.2f} s")
    assert longest_s < stage.size.lease_s, "taken over within the lease"
    await stage.start(relay)


async def owner_paused(stage: Stage) -> None:
    """SIGSTOP past the lease, and resume"""
    relay, feeds = await stage.busiest()
    stage.told.append(f"{feeds} feeds were its own")
    relay.signal(signal.SIGSTOP)
    await asyncio.sleep(max(stage.size.pause_s, 2 * stage.size.lease_s))
    relay.signal(signal.SIGCONT)


async def owner_drained(stage: Stage) -> None:
    """SIGTERM"""
    (relay, feeds), at_s = await stage.busiest(), time.monotonic()
    relay.signal(signal.SIGTERM)
    assert await relay.exit() == 0
    await stage.settled()
    lengths_s = stage.without_upstream(at_s)
    longest_s = max(lengths_s, default=0.0)
    stage.told.append(f"{feeds} feeds handed over, each within {1000 * longest_s:.0f} ms")
    assert longest_s < 0.2, "handed over within 200 ms"
    await stage.start(relay)


async def rolling_restart(stage: Stage) -> None:
    """every replica in turn, by SIGTERM"""
    for relay in stage.relays:
        relay.signal(signal.SIGTERM)
        assert await relay.exit() == 0
        await stage.start(relay)
        await asyncio.sleep(_BREATH_S)


async def redis_killed(stage: Stage) -> None:
    """kill -9, and started again, empty"""
    server = stage.servers[0]
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(stage.size.pause_s)
    await asyncio.to_thread(server.start)


async def redis_paused(stage: Stage) -> None:
    """SIGSTOP, and resume"""
    server = stage.servers[0]
    server.pause()
    await asyncio.sleep(stage.size.pause_s)
    server.resume()


async def redis_stumbles(stage: Stage) -> None:
    """SIGSTOP for less than a lease, three times"""
    server = stage.servers[0]
    for _ in range(3):
        server.pause()
        await asyncio.sleep(stage.size.lease_s * 0.4)
        server.resume()
        await asyncio.sleep(_BREATH_S)


async def redis_flushed(stage: Stage) -> None:
    """FLUSHALL, three times"""
    for _ in range(3):
        await stage.on_server("FLUSHALL")
        await asyncio.sleep(stage.size.lease_s)


async def redis_rolled_back(stage: Stage) -> None:
    """logs of a moment ago come back, as after a failover that lost writes, three times"""
    for _ in range(3):
        await asyncio.to_thread(_roll_back, stage.servers[0].port)
        await asyncio.sleep(stage.size.lease_s)


def _roll_back(port: int) -> None:
    with Redis("127.0.0.1", port) as server:
        keys = [key for key in server.scan_iter() if key.endswith((b":meta", b":log"))]
        look = server.pipeline(transaction=True)
        for key in keys:
            look.dump(key)
        held = dict(zip(keys, look.execute(), strict=True))
        time.sleep(_BREATH_S)
        write = server.pipeline(transaction=True)
        for key, value in held.items():
            write.restore(key, 60_000, value, replace=True)
        write.execute()


async def failover(stage: Stage) -> None:
    """the master is killed, Sentinel promotes the other"""
    await asyncio.to_thread(stage.servers[0].kill)
    promoted = stage.servers[1]

    async def is_master() -> bool:
        return (await asyncio.to_thread(promoted.ask, "ROLE"))[0] == "master"

    await stage.wait_for(is_master, "the other is promoted")


async def partition(stage: Stage) -> None:
    """one replica and Redis don't reach each other"""
    relay, feeds = await stage.busiest()
    stage.told.append(f"{feeds} feeds were its own")
    road = stage.roads[relay.number]
    road.part()
    await asyncio.sleep(max(stage.size.pause_s, 2 * stage.size.lease_s))
    road.heal()


Fault = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, and what it is played on. `overlaps`: a feed may have more than one upstream for a
    while, since a replica sleeps or goes on alone.
    """

    fault: Fault
    roads: bool = False
    sentinel: bool = False
    overlaps: bool = False

    @property
    def name(self) -> str:
        return self.fault.__name__


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(owner_killed),
        Scenario(owner_paused, overlaps=True),
        Scenario(owner_drained),
        Scenario(rolling_restart),
        Scenario(redis_killed, overlaps=True),
        Scenario(redis_paused, overlaps=True),
        Scenario(redis_stumbles, overlaps=True),
        Scenario(redis_flushed),
        Scenario(redis_rolled_back),
        Scenario(failover, sentinel=True, overlaps=True),
        Scenario(partition, roads=True, overlaps=True),
    )
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to."""

    name: str
    judgement: Judgement
    most_upstreams: int  # of one feed at one time
    twice_s: float  # the longest that a feed had more than one
    most_owners: int  # that say so of one feed at one time
    appends: int
    violations: tuple[str, ...]  # appends under an old fence that were taken
    told: tuple[str, ...]
    took_s: float

    def __str__(self) -> str:
        judged = self.judgement
        first = (
            f"{self.name}: lost {judged.lost}, repeated {judged.repeated}, reordered "
            f"{judged.reordered}, gaps told {judged.gaps}; longest silence "
            f"{judged.longest_silence_s:.2f} s (median client {judged.median_silence_s:.2f} s); "
            f"{judged.deliveries} deliveries to {judged.clients} clients on "
            f"{judged.connections} connections; upstreams of a feed at most "
            f"{self.most_upstreams} (more than one for {self.twice_s:.2f} s), {self.appends} "
            f"appends, {len(self.violations)} under an old fence; {self.took_s:.0f} s"
        )
        return "\n    ".join((first, *self.told, *judged.examples, *self.violations[:5]))


async def play(scenario: Scenario, size: Size) -> Outcome:
    """Play it, from one upstream per feed to one upstream per feed."""
    begun_s = time.monotonic()
    async with Stage(size, roads=scenario.roads, sentinel=scenario.sentinel) as stage:
        await stage.settled()
        await asyncio.sleep(_BREATH_S)
        await scenario.fault(stage)
        await stage.settled()
        await asyncio.sleep(_BREATH_S)
        await stage.finished()
        await stage.settled()
        return Outcome(
            name=scenario.name,
            judgement=stage.judge(),
            most_upstreams=max(stage.watch.peaks),
            twice_s=stage.watch.twice_s,
            most_owners=stage.most_owners,
            appends=stage.appends,
            violations=tuple(stage.violations),
            told=tuple(stage.told),
            took_s=time.monotonic() - begun_s,
        )
