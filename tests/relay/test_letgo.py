"""Which streams are given up for other replicas: old and idle ones, in good order."""

import pytest
from tests.relay.api import said
from tests.relay.house import DESKTOPS

from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.subscriber import State

OTHER = FeedKey("user-2", DESKTOPS)


@pytest.fixture
async def quiet(build):
    """Streams of any age may go; heartbeats stay out of the way."""
    return build(timings=StreamTimings(settle_s=0.0, heartbeat_s=1_000.0))


async def closed(house) -> list[int]:
    """Which of the clients were told to go, by number."""
    await house.settle()
    return [n for n, client in enumerate(house.clients) if "relay.closing" in client.told]


async def test_the_oldest_go_first(quiet):
    for _ in range(4):
        await quiet.join()
        await quiet.advance(1)
    assert quiet.hub.let_go(2) == 2
    assert await closed(quiet) == [0, 1]
    assert quiet.meter.ends == ["rebalanced", "rebalanced"]
    assert quiet.clients[0].reader.closing.payload == {"reason": "rebalanced", "retry": 3000}


async def test_idle_ones_go_before_older_ones_that_are_busy(quiet):
    await quiet.join()
    await quiet.advance(60)
    await quiet.emit(1)
    await quiet.join(key=OTHER)
    assert quiet.hub.let_go(1) == 1
    assert await closed(quiet) == [1]
    assert quiet.hub.let_go(5) == 1, "where no others are, busy ones go too"
    assert await closed(quiet) == [0, 1]


async def test_who_has_just_come_stays(build):
    house = build(timings=StreamTimings(settle_s=300.0))
    await house.join()
    await house.advance(299)
    assert house.hub.let_go(10) == 0
    await house.join()
    await house.advance(1)
    assert house.hub.let_go(10) == 1
    assert await closed(house) == [0]


async def test_who_is_behind_or_leaving_stays(build):
    house = build(timings=StreamTimings(settle_s=0.0, buffer_bytes=8_000, heartbeat_s=1_000.0))
    slow = await house.join(reading=False, kernel_bytes=4_000)
    for n in range(1, 16):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    await house.advance(10)
    assert slow.state is State.PAUSED
    assert house.hub.let_go(10) == 0
    slow.wire.resume()
    await house.settle()
    assert house.hub.let_go(10) == 1
    assert house.hub.let_go(10) == 0, "it has been told already"


async def test_nothing_is_lost_on_the_way(quiet):
    client = await quiet.join()
    await quiet.emit(1, 2)
    await quiet.advance(60)
    assert quiet.hub.let_go(1) == 1
    await quiet.emit(3)
    assert client.told == ["1", "2", "relay.closing"]
    back = await quiet.join(client.reader.closing.id)
    await quiet.settle()
    assert back.told == ["3"]
