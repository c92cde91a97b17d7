"""A replica that was alone with upstream, and comes back to a log that has more than it."""

import asyncio

import pytest
from bench.chaos.road import Road
from tests.e2e.clients import DESKTOPS, eventually
from tests.e2e.conftest import *  # noqa: F403 - fixtures are found by their names


@pytest.fixture
async def road(valkey):
    """One replica's way to Redis."""
    road = await Road(valkey.port).start()
    yield road
    await road.end()
    await asyncio.sleep(0)  # what it has aborted is closed in the loop's next turn


@pytest.mark.server
async def test_what_the_log_brings_its_own_upstream_does_not_repeat(
    simulator, user, veneer, serve, connect, valkey, road
):
    """Its upstream has been asked already, for what the log then brings: the other replica, which
    did reach Redis, has told it and left.
    """
    shared = {"hash_secret": "any secret of some length will do here", "lease_ttl": 1}
    other = await serve(simulator.url, redis=shared | {"url": valkey.url})
    there = await connect(other)
    apart = await serve(veneer.url, redis=shared | {"url": f"redis://127.0.0.1:{road.port}"})
    here = await connect(apart)
    simulator.emit(user.id, "desktops", 3)
    await here.has(3)
    answering = asyncio.Event()

    async def late(request):
        if request.path == DESKTOPS:
            await answering.wait()

    veneer.answer = late
    asked = veneer.count(DESKTOPS)
    road.part()
    await eventually(lambda: veneer.count(DESKTOPS) > asked, 10, "it asks its own upstream")
    simulator.emit(user.id, "desktops", 5)
    await there.has(8)
    await other.stop()
    road.heal()
    await here.has(8)
    answering.set()
    simulator.emit(user.id, "desktops", 2)
    await here.has(10)
    assert here.ids == [record.id for record in simulator.log(user.id, "desktops")]
    assert here.gaps == []
