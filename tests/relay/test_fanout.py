"""The same bytes to everybody, in as few writes as there are clients; each goes on by its own
cursor when a flush is interrupted.
"""

import asyncio

import pytest
from tests.relay.api import said
from tests.relay.house import DESKTOPS, credential
from tests.relay.reader import Reader

from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.relay.fanout import MAX_JOIN_BYTES
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.owner import Owner
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.subscriber import State


def assert_whole(client) -> None:
    """Every single write holds whole frames, and no more than it may."""
    opening, *writes = client.wire.writes
    for write in writes:
        reader = Reader(client.reader.chunked)
        reader.feed(opening)
        reader.feed(write)
        assert not reader.cut
        assert len(write) <= MAX_JOIN_BYTES or len(reader.blocks) == 1


async def test_a_burst_is_one_write_of_the_same_bytes_to_everybody(house):
    clients = [await house.join() for _ in range(3)]
    await house.emit(*range(1, 21))
    assert [len(client.wire.writes) for client in clients] == [2, 2, 2]
    assert clients[0].wire.writes[1] is clients[1].wire.writes[1] is clients[2].wire.writes[1]
    assert clients[0].ids == [str(n) for n in range(1, 21)]
    assert house.meter.deliveries == 60
    assert house.meter.delivered_bytes == 3 * len(clients[0].wire.writes[1])


async def test_what_comes_in_one_turn_from_two_chunks_is_joined(house):
    client = await house.join()
    house.api.emit_ids(1)
    house.api.emit_ids(2)
    await house.settle()
    assert client.ids == ["1", "2"]
    assert len(client.wire.writes) <= 3


async def test_one_event_is_one_write_as_soon_as_it_comes(house):
    client = await house.join()
    for n in range(1, 6):
        await house.emit(n)
        assert client.ids[-1] == str(n)
    assert len(client.wire.writes) == 6


@pytest.mark.parametrize("chunked", [True, False])
async def test_joined_writes_hold_whole_frames_and_16_kib_at_most(house, chunked):
    client = await house.join(chunked=chunked, kernel_bytes=1 << 20)
    house.api.emit(*(said(n, "x" * (n * 37 % 900)) for n in range(1, 200)))
    await house.settle()
    assert client.ids == [str(n) for n in range(1, 200)]
    assert_whole(client)
    assert len(client.wire.writes) < 12


async def test_a_frame_that_is_longer_goes_alone(house):
    client = await house.join(kernel_bytes=1 << 20)
    house.api.emit(said(1), said(2), said(3, "x" * 19_000), said(4), said(5))
    await house.settle()
    assert client.ids == ["1", "2", "3", "4", "5"]
    assert_whole(client)
    assert len(client.wire.writes) == 4


async def test_a_replay_is_joined_as_a_flush_is(house):
    house.api.note(*(said(n, "x" * 500) for n in range(100)))
    await house.join("0", kernel_bytes=1 << 20)
    await house.settle()
    late = await house.join("40", kernel_bytes=1 << 20)
    await house.settle()
    assert late.ids == [str(n) for n in range(41, 100)]
    assert_whole(late)
    assert house.meter.replays[-1] == ("resumed", 59)


async def test_http_1_0_gets_the_same_without_chunks(house):
    new, old = await house.join(), await house.join(chunked=False)
    await house.emit(1, 2, 3)
    assert new.reader.blocks == old.reader.blocks
    assert b"".join(old.wire.writes) == (
        b"retry: 3000\n:\n" + b"".join(b"id: %d\ndata: %d\n\n" % (n, n) for n in (1, 2, 3))
    )
    late = await house.join("1", chunked=False)
    await house.settle()
    assert late.ids == ["2", "3"]


async def test_type_and_every_line_of_data_arrive(house):
    client = await house.join()
    house.api.emit(said(1, "a\nb\n\nc", type="task.completed"), said(2, ""))
    await house.settle()
    first, second = client.reader.blocks
    assert (first.type, first.data) == ("task.completed", "a\nb\n\nc")
    assert (second.type, second.data) == ("", "")


# -- a flush that takes longer than a turn


async def one_turn() -> None:
    await asyncio.sleep(0)


async def test_an_interrupted_flush_goes_on_by_each_ones_cursor(house):
    clients = [await house.join(cost_s=0.001) for _ in range(200)]
    house.api.emit_ids(1)
    while not any(len(client.wire.writes) > 1 for client in clients):
        await one_turn()
    has = [client for client in clients if client.subscriber.offset == 1]
    assert 0 < len(has) < 200, "a turn is bounded"
    house.api.emit_ids(2)
    has[0].leave()
    lacks = [client for client in clients if client.subscriber.offset == 0]
    lacks[0].leave()
    lacks[1].wire.stall()
    lacks[2].wire.protocol.pause_writing()
    fresh = await house.join()
    behind = await house.join("1")
    await house.settle()
    house.api.emit_ids(3)
    await house.settle()
    for client in set(clients) - {has[0], *lacks[:3]}:
        assert client.ids == ["1", "2", "3"]
    assert fresh.ids[-1] == "3"
    assert fresh.ids in (["3"], ["2", "3"])
    assert behind.ids == ["2", "3"]
    assert lacks[2].ids == []
    lacks[2].wire.protocol.resume_writing()
    lacks[1].wire.resume()
    await house.settle()
    assert lacks[2].ids == lacks[1].ids == ["1", "2", "3"]


async def test_others_run_between_the_turns_of_a_flush(house):
    clients = [await house.join(cost_s=0.001) for _ in range(300)]
    house.api.emit_ids(1)
    turns = 0
    while clients[-1].subscriber.offset == 0 or clients[0].subscriber.offset == 0:
        turns += 1
        await one_turn()
    assert turns > 4
    await house.settle()
    assert all(client.ids == ["1"] for client in clients)


async def test_two_feeds_share_the_turns(house):
    """A feed that floods doesn't hold up another one for longer than a turn."""
    many = [await house.join(cost_s=0.001) for _ in range(300)]
    key = FeedKey("user-2", DESKTOPS)
    few = await house.join(key=key, who=credential("bob"))
    own, other = house.api.listening
    own.send(said(1).block)
    other.send(said(1).block)
    while not few.subscriber.offset:
        await one_turn()
    assert any(client.subscriber.offset == 0 for client in many)
    await house.settle()
    assert few.ids == ["1"]
    assert all(client.ids == ["1"] for client in many)


async def test_a_flood_does_not_starve_a_replay(house):
    house.api.note(*(said(n, "x" * 5_000) for n in range(1, 60)))
    crowd = [await house.join("1", cost_s=0.001) for _ in range(100)]
    await house.settle()
    late = await house.join("1", kernel_bytes=1 << 20)
    for n in range(60, 110):  # there is something to flush in every turn
        house.api.emit_ids(n)
        await one_turn()
        await one_turn()
    assert len(late.wire.writes) > 5, "it got its step of each turn"
    await house.settle()
    wanted = [str(n) for n in range(2, 110)]
    assert late.ids == wanted
    assert all(client.ids == wanted for client in crowd)


async def test_the_delay_is_from_the_first_byte_to_the_last_client(house):
    for _ in range(10):
        await house.join(cost_s=0.01)
    await house.emit(1)
    assert house.meter.delays == [pytest.approx(0.1)]


# -- heartbeats

BEATS = StreamTimings(heartbeat_s=10.0)


async def test_silence_is_filled_by_comments(build):
    house = build(timings=BEATS)
    clients = [await house.join(), await house.join(chunked=False)]
    await house.advance(31)
    assert all(2 <= client.reader.heartbeats <= 4 for client in clients)
    assert clients[1].wire.writes[-1] == b":\n"
    assert clients[0].wire.writes[-1] == b"2\r\n:\n\r\n"
    await house.emit(1)
    assert clients[0].ids == clients[1].ids == ["1"]


async def test_no_silence_is_longer_than_the_heartbeat(build):
    house = build(timings=BEATS)
    client = await house.join()
    spoke_s, longest_s = house.loop.now_s, 0.0
    for step in range(800):
        seen = len(client.wire.writes)
        if step % 73 == 0:
            house.api.emit_ids(step)
        await house.advance(0.1)
        if len(client.wire.writes) > seen:
            longest_s = max(longest_s, house.loop.now_s - spoke_s)
            spoke_s = house.loop.now_s
    assert longest_s <= 10.1


async def test_a_silent_feed_is_seldom_visited(build, monkeypatch):
    visits = 0
    check_idle = Owner.check_idle

    def counted(owner, now_s):
        nonlocal visits
        visits += 1
        return check_idle(owner, now_s)

    monkeypatch.setattr(Owner, "check_idle", counted)
    house = build(timings=StreamTimings(heartbeat_s=15.0, linger_s=30.0))
    client = await house.join()
    await house.advance(90)
    assert visits < 30, "three for each heartbeat, and a few more"
    assert len(client.wire.writes) == 1 + 6, "and no heartbeat was missed"
    client.leave()
    await house.advance(36.5)
    assert house.hub.facts().feeds == {}, "it was let go at its time"


async def test_events_are_heartbeat_enough(build):
    house = build(timings=BEATS)
    client = await house.join()
    for n in range(1, 12):
        await house.advance(5)
        await house.emit(n)
    assert client.reader.heartbeats == 0


async def test_no_comment_goes_to_who_has_unsent_bytes(build):
    house = build(timings=BEATS)
    slow = await house.join(reading=False, kernel_bytes=1_000)
    other = await house.join()
    house.api.emit(said(1, "x" * 3_000))
    await house.settle()
    assert slow.state is State.LIVE, "within its buffer"
    seen = len(slow.wire.writes)
    await house.advance(25)
    assert len(slow.wire.writes) == seen
    assert other.reader.heartbeats >= 1
    slow.wire.resume()
    await house.advance(11)
    assert slow.ids == ["1"]
    assert slow.reader.heartbeats >= 1


async def test_a_paused_client_gets_no_comments(build):
    house = build(timings=StreamTimings(heartbeat_s=5.0, buffer_bytes=1_000))
    slow = await house.join(reading=False, kernel_bytes=1_000)
    house.api.emit(said(1, "x" * 3_000))
    await house.advance(12)
    assert slow.state is State.PAUSED
    assert slow.wire.writes[-1].endswith(b"x\n\n\r\n")


async def test_heartbeats_to_many_take_turns_too(build):
    house = build(timings=BEATS)
    clients = [await house.join(cost_s=0.001) for _ in range(200)]
    await house.advance(11)
    assert all(client.reader.heartbeats >= 1 for client in clients)


async def test_a_heartbeat_in_an_interrupted_flush_stands_between_frames(build):
    house = build(timings=StreamTimings(heartbeat_s=0.5), limits=HistoryLimits(max_events=50))
    clients = [await house.join(cost_s=0.004) for _ in range(150)]
    for n in range(1, 30):
        house.api.emit_ids(n)
        await house.advance(0.3)
    await house.advance(5)
    # The readers are strict about where a comment may stand.
    assert all(client.ids == [str(n) for n in range(1, 30)] for client in clients)
    assert all(client.reader.heartbeats for client in clients)


# -- ahead of the log


async def test_a_cursor_that_the_log_has_not_taken_yet_waits_for_it_and_costs_nothing(house):
    """A client that comes from another replica, or from upstream itself, may be ahead of us."""
    client = await house.join()
    feed, unlogged = house.feed, []
    feed.publish = unlogged.extend
    await house.emit(1, 2)
    ahead = await house.join("1")
    await house.settle()  # it raises where something is busy for ever
    assert ahead.told == client.told == []
    feed.publish = feed.accept
    feed.accept(unlogged)
    await house.emit(3)
    assert ahead.told == ["2", "3"]
    assert client.told == ["1", "2", "3"]


async def test_a_place_that_the_log_does_not_take_after_all_is_found_by_its_id(house):
    await house.join()
    feed, unlogged = house.feed, []
    feed.publish = unlogged.extend
    await house.emit(1, 2)
    house.api.up.clear()
    ahead = await house.join("1")
    await house.settle()
    feed.history.truncate(feed.shown)  # as an owner does that was replaced
    feed.publish = feed.accept
    await house.emit(3)
    house.api.up.set()
    await house.settle()
    assert ahead.told == ["2", "3"]


async def test_a_ring_that_shrinks_beyond_what_is_shown_keeps_nobody_busy(house):
    """`replay.total_bytes` knows nothing of what the log has still to take."""
    client = await house.join()
    feed, unlogged = house.feed, []
    feed.publish = unlogged.extend
    await house.emit(*range(1, 9))
    feed.history.shrink()
    feed.accept(unlogged[:2])
    await house.settle()
    assert client.told == ["relay.gap"]
    feed.accept(unlogged[2:])
    await house.settle()
    assert client.told == ["relay.gap", "5", "6", "7", "8"]
    house.hub.history_bytes = feed.history.memory_bytes
