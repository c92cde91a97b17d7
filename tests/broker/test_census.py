"""Which replicas there are, as each hears it through one real server."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

import pytest
from tests.broker.conftest import CLUSTER
from tests.broker.programs import REDIS_6, REDIS_7, VALKEY, eventually
from tests.broker.stands import RedisStand

from lebureau_relay.broker.redis import RedisBroker, RedisCensus
from lebureau_relay.config import Settings
from lebureau_relay.deployment import Deployment
from lebureau_relay.metrics import Metrics
from lebureau_relay.relay.observer import HubFacts, ReplicaFacts

pytestmark = pytest.mark.server

LEASE_S = 1.2
SOON_S = 5.0


@dataclass(eq=False)
class Replica:
    """One that says of itself what the test says, and keeps what it heard last."""

    name: str
    broker: RedisBroker
    streams: int = 0
    state: str = "ready"
    heard: list[list[ReplicaFacts]] = field(default_factory=list)
    life: "asyncio.Task[None] | None" = None

    def start(self, prefix: str) -> None:
        census = RedisCensus(
            self.broker.pipe, prefix, LEASE_S, self.own, lambda all_: self.heard.append(list(all_))
        )
        self.life = asyncio.ensure_future(census.run())

    def own(self) -> ReplicaFacts:
        return ReplicaFacts(self.name, self.streams, 2, self.state)

    async def stop(self) -> None:
        if self.life is not None:
            self.life.cancel()
            await asyncio.gather(self.life, return_exceptions=True)

    @property
    def sees(self) -> dict[str, int]:
        return {one.name: one.streams for one in self.heard[-1]} if self.heard else {}


@pytest.fixture(params=[VALKEY, REDIS_7, REDIS_6, CLUSTER])
async def meet(request, kept):
    """`meet("a", "b")`: replicas at one server that know of each other."""
    stand = RedisStand(kept(request.param).url)
    made: list[Replica] = []

    async def start(*names: str) -> list[Replica]:
        for name in names:
            made.append(Replica(name, await stand.broker()))
            made[-1].start(stand.prefix)
        await eventually(lambda: all(set(one.sees) >= set(names) for one in made), SOON_S)
        return made

    start.prefix = stand.prefix  # type: ignore[attr-defined]
    yield start
    for each in made:
        await each.stop()
    await stand.close()


async def test_each_hears_of_all_and_of_what_changes(meet):
    a, b, c = await meet("pod-a/1", "pod-b/1", "pod-c/1")
    a.streams, b.state = 7, "draining"
    await eventually(lambda: c.sees == {"pod-a/1": 7, "pod-b/1": 0, "pod-c/1": 0}, SOON_S)
    await eventually(lambda: ReplicaFacts("pod-b/1", 0, 2, "draining") in a.heard[-1], SOON_S)
    assert [one.name for one in a.heard[-1]] == ["pod-a/1", "pod-b/1", "pod-c/1"]


async def test_who_is_killed_is_forgotten_within_the_lease(meet):
    a, b = await meet("pod-a/1", "pod-b/1")
    await b.stop()
    stopped_s = time.monotonic()
    await eventually(lambda: set(a.sees) == {"pod-a/1"}, SOON_S)
    assert time.monotonic() - stopped_s < 2 * LEASE_S
    begun = len(a.heard)
    await eventually(lambda: len(a.heard) >= begun + 6, SOON_S)
    assert all({one.name for one in heard} == {"pod-a/1"} for heard in a.heard[begun:])


@pytest.mark.parametrize("host", ["relay-" + "x" * 57, "my laptop\n", "h\udcff\xe4", ""])
async def test_whatever_its_machine_is_called_a_replica_knows_itself_and_its_twin(
    kept, monkeypatch, host
):
    monkeypatch.setattr("lebureau_relay.deployment.gethostname", lambda: host)
    stand = RedisStand(kept(VALKEY).url)
    redis = {"url": stand.url, "prefix": stand.prefix, "hash_secret": "s" * 32}
    settings = Settings.model_validate({"redis": redis | {"lease_ttl": 1}})
    lives: list[asyncio.Task[None]] = []
    twins = []
    for _ in range(2):
        metrics = Metrics(
            ["desktops"],
            HubFacts,
            lambda *_: None,
            "0",
            subscribers_limit=1,
            redis_operations=("pipeline",),
        )
        twin = Deployment(
            settings, metrics, lambda _, life: lives.append(asyncio.ensure_future(life))
        )
        await twin.join()
        twin.gather(partial(ReplicaFacts, twin.name, 1, 0, "ready"), lambda _: None)
        twins.append(twin)
    names = {twin.name for twin in twins}
    assert len(names) == 2
    try:
        for twin in twins:
            await eventually(lambda twin=twin: {one.name for one in twin.replicas} == names, SOON_S)
        assert max(map(len, names)) <= 64 + len("/") + 6
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        for twin in twins:
            await twin.leave()
        await stand.close()


async def test_what_another_version_says_is_passed_over(meet, kept):
    (a,) = await meet("pod-a/1")
    arguments = (60_000, "something else altogether, in more words", "")
    await a.broker.pipe.call("census", (f"{meet.prefix}:{{replicas}}:roll",), arguments)
    for word in (b"\xff -1 x y", b"9" * 5_000 + b" 1 ready x", b"1 " + b"9" * 400 + b" ready x"):
        await a.broker.pipe.call(
            "census", (f"{meet.prefix}:{{replicas}}:roll",), (60_000, word, "")
        )
    begun = len(a.heard)
    await eventually(lambda: len(a.heard) >= begun + 3 or a.life.done(), SOON_S)
    assert not a.life.done()
    assert set(a.sees) == {"pod-a/1"}


async def test_while_the_server_is_away_nobody_is_known(program):
    server = program(VALKEY)
    stand = RedisStand(server.url)
    replica = Replica("pod-a/1", await stand.broker())
    replica.start(stand.prefix)
    try:
        await eventually(lambda: bool(replica.sees), SOON_S)
        server.kill()
        await eventually(lambda: replica.sees == {}, SOON_S)
        server.start()
        await eventually(lambda: set(replica.sees) == {"pod-a/1"}, SOON_S)
    finally:
        await replica.stop()
        await stand.close()
