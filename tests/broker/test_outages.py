"""The server away, slow, full, demoted, flushed or half there: what is told, and how fast."""

import asyncio
import random
import time
from contextlib import suppress

import pytest
from tests.broker.programs import eventually, free_port
from tests.broker.proxy import Proxy
from tests.broker.stands import LEASE_S, TICK_S, Member, begun, entries, offsets

from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.relay.ports import BrokerDown, Verdict

pytestmark = pytest.mark.server

# The most that anybody on the hot path waits (issue 3, point 7), and what timers add.
WAIT_S = 1.0 + 0.4


@pytest.fixture
async def stand(server, at):
    return at(server.url)


@pytest.fixture
async def path(server):
    """A way to the server that can be disturbed."""
    proxy = await Proxy(server.port).start()
    yield proxy
    await proxy.close()


async def down(broker) -> None:
    await eventually(lambda: not broker.is_up(), said="the server counts as away")


async def up(broker) -> None:
    await eventually(broker.is_up, 10.0, said="the server counts as there")


async def settled(broker) -> None:
    """Until it is known whether a call that failed was the server's fault."""
    await eventually(lambda: not broker._pipe._in_doubt)


async def test_a_server_that_comes_late_is_found(server, stand):
    server.kill()
    broker = await stand.broker(arrived=False)
    with pytest.raises(BrokerDown):
        await broker.take(stand.feed, wanted=False)
    assert not broker.is_up()
    server.start()
    await up(broker)
    assert await broker.take(stand.feed, wanted=False)
    assert stand.changes == [True]


async def test_a_killed_server_is_noticed_and_found_again(server, stand):
    broker = await stand.broker()
    member = Member()
    broker.enter(stand.feed, member)
    server.kill()
    await down(broker)
    assert member.changes == 1
    server.start()
    await up(broker)
    assert member.changes == 2
    assert stand.changes == [True, False, True]
    # It has come back without scripts, leases and logs.
    assert await broker.read(stand.feed, 0) is None
    assert await broker.take(stand.feed, wanted=False)


async def test_while_it_is_away_nobody_waits(server, stand):
    broker = await stand.broker()
    broker.enter(stand.feed, Member())
    server.kill()
    await down(broker)
    started_s = time.monotonic()
    for _ in range(100):
        with pytest.raises(BrokerDown):
            await broker.read(stand.feed, 0)
    assert time.monotonic() - started_s < WAIT_S, "all together less than one may wait"


async def test_nobody_waits_longer_than_a_second_for_one_that_hangs(server, stand):
    broker = await stand.broker()
    waits_s = []

    async def ask() -> None:
        started_s = time.monotonic()
        with pytest.raises(BrokerDown):
            await broker.read(stand.feed, 0)
        waits_s.append(time.monotonic() - started_s)

    server.pause()
    asking, late_s = [], 0.0
    until_s = time.monotonic() + 2.5
    while time.monotonic() < until_s:
        asking.append(asyncio.ensure_future(ask()))
        slept_s = time.monotonic()
        await asyncio.sleep(0.02)
        late_s = max(late_s, time.monotonic() - slept_s)  # a loaded machine's, not the broker's
    await asyncio.gather(*asking)
    server.resume()
    assert max(waits_s) < WAIT_S + late_s
    assert not broker.is_up()
    await up(broker)


async def test_a_short_pause_is_none(server, stand):
    owner, token = await begun(stand)
    server.pause()
    appending = asyncio.ensure_future(owner.append(stand.feed, token, "e1", 0, entries(1, 1)))
    await asyncio.sleep(0.1)
    server.resume()
    assert await appending is Verdict.TAKEN
    assert stand.changes == [True]


async def test_who_was_asleep_does_not_blame_the_server(stand):
    broker = await stand.broker()
    broker.enter(stand.feed, Member())
    asking = asyncio.ensure_future(broker.read(stand.feed, 0))
    await asyncio.sleep(0)
    time.sleep(1.2)  # noqa: ASYNC251 - this replica stands still, as if its machine did
    await asyncio.wait([asking])
    if asking.exception() is not None:
        assert isinstance(asking.exception(), BrokerDown)
    await settled(broker)
    assert await broker.read(stand.feed, 0) is None
    assert stand.changes == [True]


async def test_what_was_on_its_way_may_have_happened(server, stand, path):
    """A lost answer: the log tells what it took, and the same again is refused."""
    owner = await stand.broker(path.url)
    token = await owner.take(stand.feed, wanted=False)
    await owner.begin(stand.feed, token, "e1", 0, b"", ())
    other = await stand.broker()
    server.pause()
    appending = asyncio.ensure_future(owner.append(stand.feed, token, "e1", 0, entries(1, 2)))
    await asyncio.sleep(0.1)
    path.mute_all = True
    server.resume()
    with pytest.raises(BrokerDown):
        await appending
    await eventually(lambda: not owner.is_up(), said="its path is gone")
    page = await other.read(stand.feed, 0)
    assert offsets(page.entries) == [1, 2]
    path.mute_all = False
    path.cut()
    await up(owner)
    assert await owner.append(stand.feed, token, "e1", 0, entries(1, 2)) in (
        Verdict.MOVED,
        Verdict.FENCED,  # its lease may have run out meanwhile
    )


async def test_a_replica_cut_off_knows_and_comes_back(stand, path):
    here, there = await stand.broker(path.url), await stand.broker()
    member = Member(in_use=True)
    here.enter(stand.feed, member)
    await stand.listening(member)
    path.mute_all = True
    await down(here)
    assert there.is_up()
    path.mute_all = False
    path.cut()
    await up(here)
    token = await there.take(stand.feed, wanted=False)
    await there.begin(stand.feed, token, "e1", 0, b"", entries(1, 1))
    await eventually(lambda: ("e1", 1) in member.tops, said="it listens again")


async def test_a_broken_connection_breaks_nothing(stand, path):
    broker = await stand.broker(path.url)
    member = Member()
    broker.enter(stand.feed, member)
    await stand.listening(member)
    looks = member.looks
    path.cut()
    await eventually(lambda: member.looks > looks, said="it looks again")
    with suppress(BrokerDown):  # whether the first call was on its way nobody can say
        await broker.take(stand.feed, wanted=False)
    await settled(broker)
    assert await broker.take(stand.feed, wanted=False)
    assert stand.changes == [True]


async def test_a_lost_subscription_is_listened_to_anew(server, stand):
    owner, token = await begun(stand)
    member = Member()
    (await stand.broker()).enter(stand.feed, member)
    await stand.listening(member)
    looks = member.looks
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: member.looks > looks, said="it looks again")
    await owner.append(stand.feed, token, "e1", 0, entries(1, 1))
    await eventually(lambda: ("e1", 1) in member.tops)


async def test_a_mute_subscription_is_noticed(stand, path):
    broker, member = await stand.broker(path.url), Member()
    broker.enter(stand.feed, member)
    await stand.listening(member)
    looks = member.looks
    assert path.mute_listeners() == 1
    await eventually(lambda: member.looks > looks, said="it looks again")
    assert stand.changes == [True]


async def test_behind_a_mute_subscription_the_tick_tells(stand, path):
    owner, token = await begun(stand)
    member = Member()
    (await stand.broker(path.url)).enter(stand.feed, member)
    await stand.listening(member)
    looks = member.looks
    assert path.mute_listeners() == 1
    await owner.append(stand.feed, token, "e1", 0, entries(1, 1))
    await eventually(lambda: ("e1", 1) in member.tops, said="a tick tells")
    assert member.looks == looks, "before it is noticed"


async def test_a_flushed_server_tells_the_owner(server, stand):
    owner, token = await begun(stand, 3)
    member = Member(token=token, in_use=True)
    owner.enter(stand.feed, member)
    server.ask("FLUSHALL")
    assert await owner.append(stand.feed, token, "e1", 3, entries(4, 4)) is Verdict.FENCED
    await eventually(lambda: member.lost, said="its lease is gone")
    assert await owner.read(stand.feed, 0) is None
    again = await owner.take(stand.feed, wanted=False)
    assert again != token  # though the fence begins anew
    assert await owner.append(stand.feed, token, "e1", 3, entries(4, 4)) is Verdict.FENCED
    assert await owner.append(stand.feed, again, "e1", 3, entries(4, 4)) is Verdict.MOVED
    assert stand.changes == [True]


async def test_a_server_that_forgot_the_scripts_learns_them(server, stand):
    broker = await stand.broker()
    server.ask("SCRIPT", "FLUSH")
    with pytest.raises(BrokerDown):
        await broker.read(stand.feed, 0)
    await settled(broker)
    assert broker.why == "NoScriptError"
    assert await broker.read(stand.feed, 0) is None
    assert stand.changes == [True]


async def test_a_full_server_is_as_good_as_away(server, stand):
    broker = await stand.broker()
    broker.enter(stand.feed, Member())  # it notices without being asked
    server.ask("CONFIG", "SET", "maxmemory", "1")
    await down(broker)
    assert broker.why == "OutOfMemoryError"
    server.ask("CONFIG", "SET", "maxmemory", "0")
    await up(broker)
    assert await broker.take(stand.feed, wanted=False)


async def test_a_replica_that_was_a_master_is_as_good_as_away(server, stand):
    broker = await stand.broker()
    server.ask("REPLICAOF", "127.0.0.1", free_port())
    await down(broker)
    assert broker.why == "ReadOnlyError"
    server.ask("REPLICAOF", "NO", "ONE")
    await up(broker)
    assert await broker.take(stand.feed, wanted=False)


async def test_a_server_that_no_longer_knows_us_is_as_good_as_away(server, stand):
    broker = await stand.broker()
    server.ask("CONFIG", "SET", "requirepass", "changed")
    server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no", password="changed")
    await down(broker)
    server.ask("CONFIG", "SET", "requirepass", "", password="changed")
    await up(broker)


async def test_cancelled_calls_harm_nobody(stand):
    owner, token = await begun(stand)
    generator = random.Random(1)
    done = 0

    async def look(feed: str, expected: object) -> None:
        nonlocal done
        page = await owner.read(feed, 0)
        assert (page.epoch if page else None) == expected
        done += 1

    for _ in range(30):
        calls = [
            asyncio.ensure_future(look(*facts))
            for _ in range(10)
            for facts in ((stand.feed, "e1"), ("another", None))
        ]
        for call in generator.sample(calls, 8):
            if generator.random() < 0.5:
                await asyncio.sleep(0)
            call.cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one) for one in found} <= {type(None), asyncio.CancelledError}
    assert done >= 300
    assert await owner.append(stand.feed, token, "e1", 0, entries(1, 1)) is Verdict.TAKEN
    assert stand.changes == [True]


async def test_who_stops_leaves_nobody_waiting(server, stand):
    broker = await stand.broker()
    server.pause()
    calls = [asyncio.ensure_future(broker.read(stand.feed, 0)) for _ in range(3)]
    await asyncio.sleep(0.05)
    calls += [asyncio.ensure_future(broker.read(stand.feed, 0)) for _ in range(3)]
    await asyncio.sleep(0)
    await stand.stop(broker)
    found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 1.0)
    assert {type(one) for one in found} == {BrokerDown}
    with pytest.raises(BrokerDown):
        await broker.read(stand.feed, 0)


async def test_a_pipeline_of_everything_does_not_stand_in_the_way(server, at):
    """A flushed deployment begins all its logs anew at once, each a megabyte."""
    stand = at(server.url, HistoryLimits(max_events=1000, max_bytes=1_048_576, max_age_s=300))
    owner = await stand.broker()
    feeds = [f"feed-{n}" for n in range(40)]
    tokens = [await owner.take(feed, wanted=False) for feed in feeds]
    big = entries(1, 100, size_bytes=10_000)
    left = dict(zip(feeds, tokens, strict=True))
    started_s = time.monotonic()
    while left:
        await asyncio.gather(*(try_to_begin(owner, feed, left, big) for feed in list(left)))
        assert time.monotonic() - started_s < 10.0
    assert broker_stayed_up(stand)


async def try_to_begin(owner, feed, left, big) -> None:
    try:
        verdict = await owner.begin(feed, left[feed], "e1", 0, b"", big)
    except BrokerDown:
        return
    if verdict is Verdict.TAKEN:
        del left[feed]
    else:
        left[feed] = await owner.take(feed, wanted=False) or left[feed]


def broker_stayed_up(stand) -> bool:
    return stand.changes == [True]


async def test_every_key_runs_out(server, at):
    stand = at(server.url, HistoryLimits(max_events=9, max_bytes=9999, max_age_s=10.0))
    a, b = await stand.broker(), await stand.broker()
    token = await a.take("taken", wanted=True)
    assert await b.take("taken", wanted=True) is None
    await a.begin("taken", token, "e1", 0, b"", entries(1, 2))
    assert await a.take("only taken", wanted=False)
    member = Member(token=token)
    a.enter("taken", member)
    await asyncio.sleep(2 * TICK_S)  # renewed
    with server.client() as look:
        keys = list(look.scan_iter())
        assert len(keys) >= 5
        for key in keys:
            left_s = look.pttl(key) / 1000
            longest_s = LEASE_S if key.endswith((":lease", ":wanted")) else 10.0 + 120.0
            assert left_s == -0.002 or 0 < left_s <= longest_s, key  # -2: gone meanwhile


async def test_many_feeds_cost_few_connections_and_calls(server, stand):
    brokers = [await stand.broker() for _ in range(2)]
    members = [Member() for _ in range(300)]
    for n, member in enumerate(members):
        brokers[n % 2].enter(f"feed-{n}", member)
    for member in members:
        await stand.listening(member)
    with server.client() as look:
        assert look.info("clients")["connected_clients"] <= 2 * 2 + 1
        begun_s = time.monotonic()
        before = look.info("commandstats")["cmdstat_evalsha"]["calls"]
        await asyncio.sleep(3 * TICK_S)
        after = look.info("commandstats")["cmdstat_evalsha"]["calls"]
    ticks = (time.monotonic() - begun_s) // TICK_S + 1
    # A tick looks at fifty feeds with one call, and each replica says a word to itself.
    assert after - before <= 2 * ticks * (150 / 50 + 1)


async def test_what_many_feeds_say_in_one_turn_travels_together(server, stand):
    owner = await stand.broker()
    feeds = [f"feed-{n}" for n in range(200)]
    tokens = await asyncio.gather(*(owner.take(feed, wanted=False) for feed in feeds))
    with server.client() as look:
        before = look.info("stats")["total_reads_processed"]
        said = [
            owner.begin(feed, token, "e1", 0, b"", entries(1, 1))
            for feed, token in zip(feeds, tokens, strict=True)
        ]
        assert set(await asyncio.gather(*said)) == {Verdict.TAKEN}
        reads = look.info("stats")["total_reads_processed"] - before
    # 16 KiB at a time, and whatever is said beside.
    assert reads <= 20


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
async def test_the_eviction_policy_is_told(server, stand, policy):
    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    assert await (await stand.broker()).policies() == {policy}
    server.kill()
    assert await next(iter(stand._running)).policies() == frozenset()
