"""Readers that are slow, stuck or hostile: each keeps its cursor and nothing else, and costs the
others nothing.
"""

import pytest
from tests.relay.api import said
from tests.relay.wire import Wire

from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.subscriber import MAX_INBOUND_BYTES, State

SMALL = StreamTimings(buffer_bytes=8_000, write_timeout_s=30.0)
ROOM = {"reading": False, "kernel_bytes": 4_000}


def kilobytes(*numbers):
    return [said(n, "x" * 1_000) for n in numbers]


def names(first, last):
    return [str(n) for n in range(first, last + 1)]


async def flood(house, first, last):
    """Event by event, so that each is a flush of its own."""
    for one in kilobytes(*range(first, last + 1)):
        house.api.emit(one)
        await house.settle()


async def test_a_slow_client_keeps_only_its_cursor_and_loses_nothing(build):
    house = build(timings=SMALL)
    slow, other = await house.join(**ROOM), await house.join()
    await flood(house, 1, 50)
    assert slow.state is State.PAUSED
    assert slow.wire.get_write_buffer_size() < 8_000 + 1_100
    assert 10 < slow.subscriber.offset < 14
    assert other.ids == names(1, 50)
    seen = len(slow.wire.writes)
    await flood(house, 51, 60)
    assert len(slow.wire.writes) == seen
    slow.wire.resume()
    await house.settle()
    assert slow.ids == names(1, 60)
    assert slow.state is State.LIVE
    await flood(house, 61, 62)
    assert slow.ids == names(1, 62)
    assert house.meter.gaps == []


async def test_a_client_that_reads_in_small_bites_loses_nothing(build):
    house = build(timings=SMALL)
    slow = await house.join(**ROOM)
    for n in range(1, 100):
        house.api.emit(*kilobytes(n))
        await house.settle()
        slow.wire.take(700)
        await house.settle()
    slow.wire.resume()
    await house.settle()
    assert slow.ids == names(1, 99)


async def test_the_pause_may_come_in_the_middle_of_a_flush(build):
    house = build(timings=SMALL)
    clients = [await house.join(**(ROOM if n % 3 == 0 else {})) for n in range(30)]
    house.api.emit(*kilobytes(*range(1, 60)))
    await house.settle()
    assert sum(client.state is State.PAUSED for client in clients) == 10
    for client in clients:
        client.wire.resume()
    await house.settle()
    assert all(client.ids == names(1, 59) for client in clients)


async def test_one_that_falls_off_the_ring_is_told(build):
    house = build(timings=SMALL, limits=HistoryLimits(max_events=10))
    slow, other = await house.join(**ROOM), await house.join()
    await flood(house, 1, 60)
    slow.wire.resume()
    await house.settle()
    (gap,) = slow.reader.gaps
    before = slow.told.index("relay.gap")
    assert slow.told[:before] == names(1, before)
    assert gap.payload["cause"] == "slow"
    assert gap.id == "50", "nothing at or before its id follows"
    assert slow.told[before + 1 :] == names(51, 60)
    assert other.ids == names(1, 60)
    assert house.meter.gaps == ["slow"]
    back = await house.join(gap.id)
    await house.settle()
    assert back.told == names(51, 60)


async def test_one_that_falls_off_again_and_again_is_told_each_time(build):
    house = build(timings=SMALL, limits=HistoryLimits(max_events=5))
    slow = await house.join(**ROOM)
    for round_ in range(4):
        slow.wire.stall()
        await flood(house, 100 * round_ + 1, 100 * round_ + 100)
        slow.wire.resume()
        await house.settle()
    assert [gap.payload["cause"] for gap in slow.reader.gaps] == ["slow"] * 4
    assert slow.told[-1] == "400"
    told = iter(slow.reader.blocks)
    last = 0
    for block in told:
        number = int(block.id)
        assert number > last
        assert number == last + 1 or block.type == "relay.gap"
        last = number


async def test_a_client_that_takes_nothing_is_aborted(build):
    house = build(timings=SMALL)
    dead = await house.join(**ROOM)
    await flood(house, 1, 20)
    assert dead.state is State.PAUSED
    await house.advance(29)
    assert not dead.wire.is_closing()
    await house.advance(5)
    assert dead.wire.aborted
    assert dead.wire.lost
    assert house.meter.ends == ["slow"]
    assert dead.reader.closing is None
    assert house.hub.streams == 0
    (note,) = [facts for _, event, facts in house.journal.notes if event == "stream.closed"]
    assert note == {
        "stream": "desktops",
        "identity": "user-1",
        "reason": "slow",
        "age_s": pytest.approx(33, abs=4),
    }


async def test_a_client_that_takes_a_little_now_and_then_is_kept(build):
    house = build(timings=SMALL)
    slow = await house.join(**ROOM)
    await flood(house, 1, 200)
    for _ in range(20):
        await house.advance(20)
        slow.wire.take(300)
        await house.settle()
    assert not slow.wire.is_closing()
    slow.wire.stall()
    await house.advance(35)
    assert slow.wire.aborted


async def test_nothing_ends_a_slow_client_that_has_caught_up_in_time(build):
    house = build(timings=SMALL)
    slow = await house.join(**ROOM)
    await flood(house, 1, 20)
    await house.advance(25)
    slow.wire.resume()
    await house.advance(60)
    assert not slow.wire.is_closing()
    slow.wire.stall()
    await flood(house, 21, 60)
    await house.advance(25)
    assert not slow.wire.is_closing(), "the time counts from the second pause"


async def test_many_pauses_do_not_pile_up_looks(build):
    house = build(timings=SMALL)
    slow = await house.join(**ROOM)
    for n in range(1, 60):
        slow.wire.stall()
        await flood(house, 20 * n, 20 * n + 19)
        assert slow.state is State.PAUSED
        slow.wire.resume()
        await house.settle()
    wheel = house.hub._rounds._wheel
    assert sum(len(items) for items in wheel._slots.values()) < 10


async def test_a_client_that_can_take_no_byte_at_all_from_the_start(build):
    house = build(timings=SMALL)
    house.api.note(*kilobytes(*range(1, 40)))
    dead = await house.join("1", reading=False, kernel_bytes=0)
    await flood(house, 40, 60)
    assert dead.wire.get_write_buffer_size() < 8_000 + 17_000
    await house.advance(35)
    assert dead.wire.aborted


async def test_a_replay_pauses_and_goes_on(build):
    house = build(timings=SMALL)
    house.api.note(*kilobytes(*range(1, 100)))
    await house.join("1")
    await house.settle()
    slow = await house.join("30", **ROOM)
    await house.settle()
    assert slow.state is State.PAUSED
    await flood(house, 100, 110)
    slow.wire.resume()
    await house.settle()
    assert slow.ids == names(31, 110)


async def test_resume_without_a_pause_before_it_means_nothing(house):
    client = await house.join()
    client.subscriber.resume_writing()  # as after a handoff
    await house.emit(1)
    assert client.ids == ["1"]
    assert client.state is State.LIVE


# -- hostile


async def test_what_a_client_says_is_read_and_thrown_away_up_to_a_bound(house):
    noisy, other = await house.join(), await house.join()
    for _ in range(64):
        noisy.wire.say(b"GET /next HTTP/1.1\r\n\r\n" + b"x" * 1_002)
    assert noisy.subscriber.inbound_bytes == MAX_INBOUND_BYTES
    await house.emit(1)
    assert noisy.ids == ["1"]
    noisy.wire.say(b"x")
    await house.settle()
    assert noisy.wire.aborted
    assert house.meter.ends == ["client_gone"]
    await house.emit(2)
    assert other.ids == ["1", "2"]


@pytest.mark.parametrize("leave", [Wire.half_close, Wire.hang_up, Wire.abort])
async def test_a_client_that_goes_is_forgotten(house, leave):
    client, other = await house.join(), await house.join()
    await house.emit(1)
    leave(client.wire)
    await house.emit(2)
    assert client.wire.lost
    assert house.meter.ends == ["client_gone"]
    assert house.hub.streams == 1
    assert other.ids == ["1", "2"]


async def test_one_that_goes_in_the_middle_of_everything(build):
    house = build(timings=SMALL)
    house.api.note(*kilobytes(*range(1, 60)))
    await house.join("1")
    replaying = await house.join("5")
    paused = await house.join("5", **ROOM)
    waiting = await house.join("unknown")
    paused.leave()
    replaying.leave()
    waiting.leave()
    await flood(house, 60, 62)
    assert house.meter.ends == ["client_gone"] * 3
    assert house.hub.streams == 1


async def test_a_half_open_peer_is_found_by_the_events_it_does_not_take(build):
    house = build(timings=SMALL)
    dead = await house.join(**ROOM)
    dead.wire.half_close()  # its buffer is empty: gone at once
    await house.settle()
    assert dead.wire.lost
    stuck = await house.join(**ROOM)
    await flood(house, 1, 20)
    stuck.wire.half_close()  # with bytes unsent: closing waits for a peer that does not read
    await house.settle()
    assert not stuck.wire.lost
    await house.advance(35)
    assert stuck.wire.aborted
