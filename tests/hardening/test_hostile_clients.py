"""Clients that mean harm, in numbers, against a relay that is a process of its own: it takes a
bounded part of the machine, and those who mean no harm get their events as promptly as before.
"""

import asyncio
import gc
import resource

import pytest
from tests.e2e.clients import SseClient, ask, eventually, head
from tests.hardening.siege import Stand, Timed

# What a few thousand connections and their heads may take beside what a relay takes anyway.
ROOM_BYTES = 64 * 1024 * 1024
HEALTHY = 8

# Whoever holds a head back is ended after edge.server.HEAD_TIMEOUT_S, counted from the connection.
HEAD_TIMEOUT_S = 15.0


@pytest.fixture
async def stand(simulate, program):
    """Stands: `stand(SECTION__NAME=value)`."""
    made = []

    async def start(**settings) -> Stand:
        simulator = await simulate(stamp=True, failed_auth_per_minute=10)
        settings = {
            "LIMITS__CONNECTS_PER_MINUTE": 0,
            "LIMITS__STREAMS_PER_USER": 5000,
            "STREAM__HEARTBEAT": 1,
        } | settings
        relay = await (await program(simulator.url, settings=settings)).started()
        key = simulator.user(1).key
        clients = [await Timed.connect(relay.public_url, key=key) for _ in range(HEALTHY)]
        for client in clients:
            await client.opened()
        made.append(Stand(relay, simulator, clients))
        return await made[-1].start()

    yield start
    for one in made:
        await one.stop()
        for client in one.clients:
            client.close()


async def newcomer(stand: Stand) -> None:
    """One who means no harm and comes just now."""
    client = await Timed.connect(stand.url, key=stand.simulator.user(1).key)
    await client.opened()
    await client.has(1)
    client.close()


@pytest.mark.timeout(90)
async def test_thousands_that_say_nothing_or_never_finish_are_ended_in_time(stand):
    one = await stand()
    before, rss_bytes = one.descriptors, one.rss_bytes
    async with one.attack("idle", 3000) as idle, one.attack("loris", 300) as loris:
        assert one.descriptors >= before + 3000, "they are all let in, as honest ones would be"
        assert one.rss_bytes - rss_bytes < ROOM_BYTES
        await newcomer(one)
        cpu_s = one.cpu_s
        await eventually(lambda: one.descriptors <= before + 2, HEAD_TIMEOUT_S + 10)
        assert one.cpu_s - cpu_s < HEAD_TIMEOUT_S / 2, "silence must be cheap"
    assert (idle["held"], idle["ended"]) == (3000, 3000)
    # It learns of its end by its next byte; who waits to send that when all is over never does.
    assert loris["held"] == 300
    assert loris["ended"] > 290
    assert max(idle["longest_s"], loris["longest_s"]) < HEAD_TIMEOUT_S + 5
    await newcomer(one)


async def test_who_says_nothing_makes_room_for_who_does(stand, scrape):
    one = await stand()
    limit = 1200
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (limit, limit))
    before = one.descriptors
    async with one.attack("idle", 2000) as told:
        assert one.descriptors < limit - 256, "the rest is for upstream, Redis and the like"
        for _ in range(10):
            await newcomer(one)
        assert (await ask(one.program.admin_url, "/readyz")).status == 200
    assert told["held"] > 1000
    assert told["ended"] >= told["held"] - (limit - 512)
    assert (await scrape(one.program))("refusals_total", code="at_capacity") >= 1000
    (line,) = one.program.said("connections.full")
    assert line["most"] < limit
    assert not one.program.said("descriptors.exhausted")
    await one.as_before(before)


async def test_without_descriptors_streams_go_on_and_it_comes_back(stand):
    one = await stand()
    before = one.descriptors
    limit = before + 30  # fewer than the lobby's least
    old = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (limit, old[1]))
    async with one.attack("idle", 300):
        await eventually(lambda: one.program.said("descriptors.exhausted"))
        cpu_s = one.cpu_s
        await one.listen(1.5)
        assert one.cpu_s - cpu_s < 1.0, "it doesn't run in circles"
    await one.as_before(before)
    await eventually(lambda: one.program.said("descriptors.back"))
    await newcomer(one)
    assert len(one.program.said("descriptors.exhausted")) == 1
    assert "Traceback" not in one.program.stderr


async def test_a_flood_of_connections_from_everywhere(stand):
    one = await stand()
    before, rss_bytes = one.descriptors, one.rss_bytes
    async with one.attack("flood", 64) as told:
        await asyncio.sleep(1)
        await newcomer(one)
    assert told["done"] > 200
    assert one.rss_bytes - rss_bytes < ROOM_BYTES
    await one.as_before(before)


async def test_pipelined_requests_whose_answers_nobody_reads(stand):
    one = await stand()
    before, rss_bytes = one.descriptors, one.rss_bytes
    async with one.attack("mutes", 40) as told:
        await newcomer(one)
        await one.as_before(before)
        assert one.rss_bytes - rss_bytes < ROOM_BYTES
    assert told == {"held": 40, "ended": 40}


async def test_heads_that_grow_within_every_limit(stand):
    """Ninety lines of 8 KiB each on a few hundred connections were once a gigabyte."""
    one = await stand()
    before, rss_bytes = one.descriptors, one.rss_bytes
    async with one.attack("fat", 500) as told:
        await newcomer(one)
        await one.as_before(before)
        assert one.rss_bytes - rss_bytes < ROOM_BYTES
    assert told["held"] == 500
    assert {"HeadTooBig"} == {line["error"] for line in one.program.said("request.refused")}


async def test_heads_past_all_measure(stand):
    one = await stand()
    before, rss_bytes = one.descriptors, one.rss_bytes
    async with one.attack("monsters", 16) as told:
        await asyncio.sleep(1)
        await newcomer(one)
    assert told["400"] > 30
    assert set(told) <= {"400", "401", "404", "429", "ConnectionResetError"}
    assert one.rss_bytes - rss_bytes < ROOM_BYTES
    assert "Traceback" not in one.program.stderr
    await one.as_before(before)


async def test_streams_whose_clients_never_stop_talking(stand):
    one = await stand()
    before, rss_bytes = one.descriptors, one.rss_bytes
    async with one.attack("talkers", 32, one.simulator.user(1).key) as told:
        await asyncio.sleep(1)
        await newcomer(one)
    assert sum(told.values()) > 32
    assert set(told) <= {"BrokenPipeError", "ConnectionResetError", "ConnectionAbortedError"}
    assert one.simulator.subscriptions_opened(one.simulator.user(1).id, "activity") == 0
    assert one.rss_bytes - rss_bytes < ROOM_BYTES
    await one.as_before(before)


async def test_what_cannot_be_parsed_leaves_nothing_to_the_collector(relay, user):
    """A ring of objects around 256 KiB each, and a hundred such requests between two collections,
    once made a relay four times as big.
    """
    gc.collect()
    gc.disable()
    try:
        for n in range(5):
            client = await SseClient.connect(relay.public_url, key=user.key if n else "")
            client.transport.write(b"x" * 65_536 + head())
            await client.ended()
        del client
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        rings = [one for one in gc.garbage if type(one).__module__.startswith("lebureau_relay")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not rings


async def test_cursors_of_every_kind(stand):
    one = await stand()
    before, rss_bytes = one.descriptors, one.rss_bytes
    async with one.attack("cursors", 16, one.simulator.user(1).key) as told:
        await asyncio.sleep(1)
        await newcomer(one)
    assert told["200"] > 50
    assert set(told) <= {"200", "400"}
    assert one.rss_bytes - rss_bytes < ROOM_BYTES
    user = one.simulator.user(1)
    # A catch-up at a time beside the subscription; upstream sees the end of one a moment late.
    assert one.simulator.subscriptions_peak(user.id, "desktops") <= 4
    await one.as_before(before)


@pytest.mark.timeout(120)
async def test_twenty_thousand_keys_that_are_none(stand):
    """From as many addresses as keys: no budget by address stops them."""
    one = await stand(PROXY__TRUSTED='["127.0.0.1/32"]')
    rss_bytes = one.rss_bytes
    async with one.attack("keys", 20_000) as told:
        await newcomer(one)
    assert sum(told.values()) == 20_000
    assert set(told) == {"401", "429"}
    refused = [seen for seen in one.simulator.requests if seen.status == 401]
    assert 0 < len(refused) <= 8, "what the deployment lets happen in a minute"
    assert one.rss_bytes - rss_bytes < ROOM_BYTES
    await newcomer(one)
