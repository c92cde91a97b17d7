"""Budgets of a deployment: replicas at one real server count together, whatever happens to one of
them or to the server.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from redis import Redis
from tests.broker.conftest import CLUSTER
from tests.broker.programs import REDIS_6, REDIS_7, VALKEY, Program, eventually
from tests.broker.stands import RedisStand

from lebureau_relay.broker.redis import BudgetKeys, RedisBroker, RedisBudgets, RedisPlaces
from lebureau_relay.errors import Refusal
from lebureau_relay.identity.asking import Answer, Outcome
from lebureau_relay.identity.gate import Gate
from lebureau_relay.relay.budgets import BudgetLimits, LocalBudgets, OnExcess

pytestmark = pytest.mark.server

HASH_KEY = b"a key that replicas share"
ADDRESS = "203.0.113.77"
# Seats run out after this, and are stated every third of it; three statements fit into a slow turn.
LEASE_S = 1.2
# Time for what is told in the background to arrive.
SOON_S = 5.0


@dataclass(eq=False)
class Replica:
    """One replica's budgets, and the streams that it was told to end."""

    broker: RedisBroker
    budgets: RedisBudgets
    places: RedisPlaces
    local: LocalBudgets
    retired: list[str] = field(default_factory=list)
    parts: list[asyncio.Task[None]] = field(default_factory=list)

    async def sit(self, identity: str = "anna", stream: str = "") -> str:
        return await self.budgets.sit(identity, lambda: self.retired.append(stream))

    async def refused(self, identity: str = "anna") -> Refusal:
        with pytest.raises(Refusal) as caught:
            await self.sit(identity)
        return caught.value

    async def code(self) -> str:
        """`seated`, or why not."""
        try:
            await self.sit()
        except Refusal as refusal:
            return refusal.code.value
        return "seated"

    async def stop(self) -> None:
        for part in self.parts:
            part.cancel()
        await asyncio.gather(*self.parts, return_exceptions=True)


class Deployment:
    """Replicas with one prefix at one server."""

    def __init__(self, url: str) -> None:
        self.stand = RedisStand(url)
        self.replicas: list[Replica] = []

    async def replica(
        self, limits: BudgetLimits, upstream_401s: int, lapse_s: float = 20.0
    ) -> Replica:
        broker = await self.stand.broker()
        clustered = "cluster" in self.stand.url
        prefix, clock = self.stand.prefix, time.monotonic
        local = LocalBudgets(limits, clock)
        keys = BudgetKeys(prefix, HASH_KEY, clustered)
        budgets = RedisBudgets(broker.pipe, keys, LEASE_S, local)
        places = RedisPlaces(broker.pipe, prefix, LEASE_S, upstream_401s, lapse_s, clock)
        made = Replica(broker, budgets, places, local)
        made.parts = [asyncio.ensure_future(part.run()) for part in (budgets, places)]
        self.replicas.append(made)
        return made

    async def kill(self, replica: Replica) -> None:
        """Away without a word."""
        await replica.stop()
        await self.stand.stop(replica.broker)

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.stop()
        await self.stand.close()


Deploy = Callable[..., Awaitable[list[Replica]]]


@pytest.fixture(params=[VALKEY, REDIS_7, REDIS_6, CLUSTER])
async def deployment(request, kept):
    made = Deployment(kept(request.param).url)
    yield made
    await made.close()


@pytest.fixture
def deploy(deployment) -> Deploy:
    """`deploy(3, streams_per_user=2)`: replicas with such limits."""

    async def start(
        size: int, *, upstream_401s: int = 8, lapse_s: float = 20.0, **limits
    ) -> list[Replica]:
        chosen = BudgetLimits(**({"connects_per_minute": 0} | limits))
        return [await deployment.replica(chosen, upstream_401s, lapse_s) for _ in range(size)]

    return start


@pytest.fixture
async def own(program):
    """A server of the test's own and replicas at it: `own(2, streams_per_user=2)`."""
    server = program(VALKEY)
    made = Deployment(server.url)

    async def start(size: int, *, upstream_401s: int = 8, **limits):
        chosen = BudgetLimits(**({"connects_per_minute": 0} | limits))
        return server, [await made.replica(chosen, upstream_401s) for _ in range(size)]

    yield start
    await made.close()


async def until(true: Callable[[], Awaitable[object]], timeout_s: float = SOON_S) -> None:
    """`eventually`, of what has to be asked for."""
    async with asyncio.timeout(timeout_s):
        while not await true():  # noqa: ASYNC110 - the answer is another process's
            await asyncio.sleep(0.02)


async def unhindered(for_s: float) -> None:
    """So long, in one piece, as this process has run whenever it wanted: one that is kept from it
    for longer than its seats bear has rightly lost them, until it states them again.
    """
    since_s = time.monotonic()
    while (now_s := time.monotonic()) - since_s < for_s:
        await asyncio.sleep(0.02)
        if time.monotonic() - now_s > LEASE_S / 6:
            since_s = time.monotonic()


# -- seats


async def test_streams_of_an_identity_are_counted_together(deploy):
    a, b, c = await deploy(3, streams_per_user=2)
    seat = await a.sit()
    await b.sit()
    for each in (a, b, c):
        refusal = await each.refused()
        assert (refusal.code.value, refusal.limit) == ("too_many_streams", 2)
    await c.sit("bert")
    a.budgets.stand("anna", seat)
    await until(lambda: is_seated(c))
    assert await a.code() == "too_many_streams"


async def is_seated(replica: Replica) -> bool:
    return await replica.code() == "seated"


async def test_never_more_than_allowed_whoever_comes_first(deploy):
    replicas = await deploy(3, streams_per_user=10)
    codes = await asyncio.gather(*(each.code() for each in replicas for _ in range(10)))
    assert codes.count("seated") == 10
    assert codes.count("too_many_streams") == 20


async def test_who_leaves_may_come_back_at_once(deploy):
    (a,) = await deploy(1, streams_per_user=1)
    for _ in range(20):
        a.budgets.stand("anna", await a.sit())
    assert a.local.seats == {}


async def test_a_seat_is_given_back_once(deploy):
    a, b = await deploy(2, streams_per_user=2)
    seat, _ = await a.sit(), await b.sit()
    for _ in range(3):
        a.budgets.stand("anna", seat)
    await until(lambda: is_seated(b))
    assert await b.code() == "too_many_streams"


async def test_a_killed_replicas_streams_stop_counting(deploy, deployment):
    a, b = await deploy(2, streams_per_user=4)
    for each in (a, b, a, b):
        await each.sit()
    await deployment.kill(a)
    killed_s = refused_s = time.monotonic()
    assert await b.code() == "too_many_streams"
    while (asked_s := time.monotonic()) - killed_s < SOON_S and not await is_seated(b):
        refused_s = asked_s
        await asyncio.sleep(0.02)
    assert refused_s - killed_s < LEASE_S + 1, "who asks later than this is not refused"
    assert await b.code() == "seated"


async def test_a_living_replicas_streams_go_on_counting(deploy):
    a, b = await deploy(2, streams_per_user=150)
    await asyncio.gather(*(a.sit() for _ in range(150)))
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < 2 * LEASE_S:
        assert await b.code() == "too_many_streams"
        await asyncio.sleep(0.05)


async def test_many_identities_are_stated(deploy):
    a, b = await deploy(2, streams_per_user=1)
    names = [f"user-{n}" for n in range(230)]
    await asyncio.gather(*(a.sit(name) for name in names))
    await unhindered(1.5 * LEASE_S)  # unless they are stated, they have run out by now
    refusals = await asyncio.gather(*(b.refused(name) for name in names))
    assert {refusal.code.value for refusal in refusals} == {"too_many_streams"}


# -- the oldest goes


async def test_the_oldest_is_retired_wherever_it_is(deploy):
    a, b, c = await deploy(3, streams_per_user=2, on_excess=OnExcess.RETIRE_OLDEST)
    await a.sit(stream="first")
    await asyncio.sleep(0.005)  # ages are told apart by the millisecond
    await b.sit(stream="second")
    await asyncio.sleep(0.005)
    await c.sit(stream="third")
    await eventually(lambda: a.retired == ["first"], SOON_S)
    assert (b.retired, c.retired) == ([], [])
    await asyncio.sleep(0.005)
    await b.sit(stream="fourth")
    assert b.retired == ["second"]  # its own: at once
    await asyncio.sleep(LEASE_S)
    assert (a.retired, b.retired, c.retired) == (["first"], ["second"], [])


async def test_who_is_retired_leaves_the_count_at_once(deploy):
    a, b = await deploy(2, streams_per_user=3, on_excess=OnExcess.RETIRE_OLDEST)
    for n in range(3):
        await a.sit(stream=f"old-{n}")
        await asyncio.sleep(0.005)
    for n in range(3):
        await b.sit(stream=f"new-{n}")
    await eventually(lambda: a.retired == ["old-0", "old-1", "old-2"], SOON_S)
    await asyncio.sleep(LEASE_S)  # neither come back into it, nor is anybody retired in their place
    assert b.retired == []
    assert a.local.seats["anna"] == {}


async def test_who_is_rate_limited_retires_nobody(deploy):
    a, b = await deploy(
        2, streams_per_user=1, connects_per_minute=1, on_excess=OnExcess.RETIRE_OLDEST
    )
    await a.sit()
    assert (await b.refused()).code.value == "rate_limited"
    await asyncio.sleep(LEASE_S)
    assert a.retired == []


# -- rates


async def test_connects_are_counted_together(deploy):
    a, b, c = await deploy(3, connects_per_minute=6)
    for each in (a, b, c):
        for _ in range(2):
            each.budgets.stand("anna", await each.sit())
    for each in (a, b, c):
        refusal = await each.refused()
        assert (refusal.code.value, refusal.limit) == ("rate_limited", 6)
        assert refusal.retry_after_s == pytest.approx(10, abs=2)
    await a.sit("bert")


async def test_they_grow_back_evenly(deploy):
    a, b = await deploy(2, connects_per_minute=60)
    codes = [await a.code() for _ in range(60)]
    assert set(codes) == {"seated"}
    await until(lambda: is_seated(b), 3)


async def test_refused_attempts_spend_nothing(deploy):
    a, b = await deploy(2, connects_per_minute=2, streams_per_user=1)
    seat = await a.sit()
    for _ in range(10):
        assert (await b.refused()).code.value == "too_many_streams"
    a.budgets.stand("anna", seat)
    await until(lambda: is_seated(b))
    a.budgets.stand("anna", "nobody's")
    assert (await b.refused()).code.value == "too_many_streams"


async def test_what_an_address_may_fail(deploy):
    a, b, c = await deploy(3, failed_auth_per_minute=5)
    for each in (a, a, b, c, c):
        assert (await each.budgets.peek(ADDRESS)).allowed
        await each.budgets.spend(ADDRESS)
    for each in (a, b, c):
        decision = await each.budgets.peek(ADDRESS)
        assert (decision.allowed, decision.limit) == (False, 5)
        assert decision.retry_after_s == pytest.approx(12, abs=2)
    assert (await a.budgets.peek("198.51.100.1")).remaining == 5


async def test_failures_under_way_together_cost_a_minute_at_most(deploy):
    a, b = await deploy(2, failed_auth_per_minute=5)
    await asyncio.gather(*(a.budgets.spend(ADDRESS) for _ in range(300)))
    assert (await b.budgets.peek(ADDRESS)).reset_s <= 60


# -- 401s upstream


async def test_places_are_counted_together(deploy):
    a, b, c = await deploy(3, upstream_401s=4)
    rooms = await asyncio.gather(*(each.places.take(3) for each in (a, b, c)))
    taken = [place for room in rooms for place in room.places]
    assert len(taken) == len(set(taken)) == 4
    assert {room.spent_for_s for room in rooms} == {0}
    assert (await b.places.take(1)).places == ()
    first = next(room for room in rooms if room.places)
    (a, b, c)[rooms.index(first)].places.give_back(first.places[0])
    await until(lambda: takes_one(b))
    assert (await c.places.take(1)).places == ()


async def takes_one(replica: Replica) -> bool:
    return len((await replica.places.take(1)).places) == 1


async def test_a_401_counts_for_a_minute_everywhere(deploy):
    a, b = await deploy(2, upstream_401s=2)
    for place in (await a.places.take(2)).places:
        a.places.failed(place)
    await until(lambda: is_spent(b))
    room = await b.places.take(1)
    assert room.places == ()
    assert room.spent_for_s == pytest.approx(60, abs=3)


async def test_a_401_takes_the_place_of_who_caused_it(deploy):
    a, b = await deploy(2, upstream_401s=3)
    a.places.failed((await a.places.take(1)).places[0])
    taken = 0
    async with asyncio.timeout(SOON_S):
        while taken < 2:
            taken += len((await b.places.take(1)).places)
    assert (await b.places.take(1)).places == ()


async def test_it_is_spent_until_the_newest_allow_one_more(deploy):
    a, b = await deploy(2, upstream_401s=2)
    for _ in range(2):
        failed_s = time.monotonic()
        a.places.failed(None)
        a.places.failed(None)
        await until(lambda: is_spent(b))
        await asyncio.sleep(1.0)
    spent_for_s = (await b.places.take(1)).spent_for_s
    assert spent_for_s > 60 - (time.monotonic() - failed_s) - 0.5


async def is_spent(replica: Replica) -> bool:
    return (await replica.places.take(0)).spent_for_s > 0


async def test_a_401_of_who_was_good_once_counts_too(deploy):
    a, b = await deploy(2, upstream_401s=2)
    for _ in range(5):
        a.places.failed(None)
    await until(lambda: is_spent(b))


async def test_a_killed_replicas_places_lapse(deploy, deployment):
    a, b = await deploy(2, upstream_401s=2, lapse_s=0.5)
    assert len((await a.places.take(2)).places) == 2
    await deployment.kill(a)
    assert not await takes_one(b)
    await until(lambda: takes_one(b))


class Upstream:
    """Refuses what it doesn't know, and counts how many it was asked about and has refused."""

    def __init__(self, known: set[bytes]) -> None:
        self.known = known
        self.inside = self.most = self.refused = self.accepted = 0

    async def ask(self, gate: Gate, digest: bytes) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside + self.refused)
        await asyncio.sleep(0.01)
        self.inside -= 1
        if digest in self.known:
            self.accepted += 1
            gate.leave(digest)
        else:
            self.refused += 1
            gate.failed(digest)


async def knock(gate: Gate, upstream: Upstream, digest: bytes) -> Answer | None:
    answer = await gate.enter(digest)
    if answer is None:
        await upstream.ask(gate, digest)
    return answer


async def test_bad_keys_at_all_doors_cost_upstream_no_more_than_the_limit(deploy):
    replicas = await deploy(3)
    upstream = Upstream(set())
    gates = [Gate(each.places, 8, time.monotonic) for each in replicas]
    answers = await asyncio.gather(
        *(knock(gate, upstream, secrets.token_bytes(8)) for gate in gates for _ in range(300))
    )
    assert (upstream.refused, upstream.most) == (8, 8)
    outcomes = [answer.outcome for answer in answers if answer is not None]
    assert outcomes == [Outcome.HELD_BACK] * 892
    late = await knock(gates[0], upstream, b"late")
    assert late is not None
    assert late.limit == 8
    assert late.retry_after_s == pytest.approx(60, abs=5)


async def test_good_ones_pass_at_all_doors(deploy):
    replicas = await deploy(3)
    digests = [secrets.token_bytes(8) for _ in range(240)]
    upstream = Upstream(set(digests))
    gates = [Gate(each.places, 8, time.monotonic) for each in replicas]
    answers = await asyncio.gather(
        *(knock(gates[n % 3], upstream, digest) for n, digest in enumerate(digests))
    )
    assert set(answers) == {None}
    assert upstream.accepted == 240
    assert upstream.most <= 8


# -- the server is lost


async def test_a_flushed_server_learns_it_all_again(own):
    server, (a, b) = await own(2, streams_per_user=2, upstream_401s=2)
    await a.sit()
    await a.sit()
    places = (await a.places.take(2)).places
    a.places.failed(places[0])
    with server.client() as client:
        await until(lambda: are_there(client, ":failures"))
        client.flushall()
        await until(lambda: are_there(client, ":failures", ":places", ":seats"))
    assert await b.code() == "too_many_streams"
    assert (await b.places.take(1)).places == ()
    a.places.failed(places[1])
    await until(lambda: is_spent(b))


async def are_there(client: Redis, *ends: str) -> bool:
    return all(any(key.endswith(end) for key in client.keys("*")) for end in ends)


async def finds_nobody(replica: Replica) -> bool:
    await replica.budgets.peek("somebody")  # who asks nothing notices nothing
    return not replica.broker.is_up()


async def test_without_a_server_each_replica_has_its_own(own):
    server, (a, b) = await own(
        2, streams_per_user=2, upstream_401s=2, connects_per_minute=100, failed_auth_per_minute=2
    )
    await a.sit()
    server.kill()
    for each in (a, b):
        await until(lambda each=each: finds_nobody(each))
    assert [await a.code() for _ in range(2)] == ["seated", "too_many_streams"]
    assert [await b.code() for _ in range(3)] == ["seated", "seated", "too_many_streams"]
    for _ in range(2):
        assert (await a.budgets.peek(ADDRESS)).allowed
        await a.budgets.spend(ADDRESS)
    assert not (await a.budgets.peek(ADDRESS)).allowed
    assert (await b.budgets.peek(ADDRESS)).allowed
    assert len((await a.places.take(5)).places) == 2
    assert len((await b.places.take(5)).places) == 2


async def test_what_happened_meanwhile_counts_when_it_is_back(own):
    server, (a, b) = await own(2, streams_per_user=3, upstream_401s=3)
    server.kill()
    for each in (a, b):
        await until(lambda each=each: finds_nobody(each))
    for each in (a, b):
        await each.sit()
        await each.sit()
        each.places.failed(None)
        each.places.failed(None)
    server.start()
    await eventually(lambda: a.broker.is_up() and b.broker.is_up(), 20)
    await until(lambda: is_spent(a))
    await until(lambda: are_stated(server, 4))
    for each in (a, b):
        assert await each.code() == "too_many_streams"


async def are_stated(server: Program, seats: int) -> bool:
    with server.client() as client:
        return sum(client.zcard(key) for key in client.keys("*:seats")) == seats


async def test_a_hanging_server_holds_nobody_up(own):
    server, (a, b) = await own(2, streams_per_user=4)
    server.pause()
    try:
        for _ in range(4):
            begun_s = time.monotonic()
            await a.sit()
            assert time.monotonic() - begun_s < 1.5
        await until(lambda: finds_nobody(a))
        begun_s = time.monotonic()
        assert await a.code() == "too_many_streams"
        assert time.monotonic() - begun_s < 0.1
    finally:
        server.resume()
    await eventually(lambda: a.broker.is_up() and b.broker.is_up(), 20)
    await until(lambda: are_stated(server, 4))
    # What it was asked before it hung it does when it wakes: that is the same seat, not one more.
    assert await b.code() == "too_many_streams"
    seats = a.local.seats["anna"]
    for seat in list(seats):
        a.budgets.stand("anna", seat)
    await until(lambda: are_stated(server, 0), LEASE_S + SOON_S)


# -- what the server gets to know


async def test_names_are_keyed_hashes_and_everything_expires(own):
    server, (a, b) = await own(
        2, streams_per_user=1, connects_per_minute=60, on_excess=OnExcess.RETIRE_OLDEST
    )
    await a.sit()
    await b.sit()
    await a.budgets.spend(ADDRESS)
    places = (await a.places.take(2)).places
    a.places.failed(places[0])
    with server.client() as client:
        parts = (":seats", ":retired", ":connects", ":strikes", ":failures", ":places")
        await until(lambda: are_there(client, *parts))
        for key in client.keys("*"):
            assert key.endswith(parts), key
            assert 0 < client.pttl(key) <= 60_000
            assert ADDRESS not in key
            held = client.zrange(key, 0, -1) if client.type(key) == "zset" else client.get(key)
            assert ADDRESS not in str(held)
    one, other = (BudgetKeys("p", key).address(ADDRESS) for key in (HASH_KEY, b"another"))
    assert one != other
    assert "key" not in repr(BudgetKeys("p", HASH_KEY))
