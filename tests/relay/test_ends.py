"""Every end has a name, says from where to go on, and leaves nothing behind."""

import asyncio
import gc

import pytest
from tests.relay.api import said
from tests.relay.house import ALICE, DESKTOPS, KEY, Client, credential, refusal

from lebureau_relay.core.backoff import Backoff
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.errors import CloseReason, RefusalCode, SourceProblem
from lebureau_relay.relay.catchup import CatchUp
from lebureau_relay.relay.fanout import Fanout
from lebureau_relay.relay.feed import FeedState
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.owner import Owner
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.subscriber import State

BOB = credential("bob")
SMALL = StreamTimings(buffer_bytes=8_000, write_timeout_s=30.0)
ROOM = {"reading": False, "kernel_bytes": 4_000}


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_deliberate_end_flushes_and_says_why_and_from_where(house, chunked):
    client = await house.join(chunked=chunked)
    await house.emit(1, 2)
    house.hub.end(None, CloseReason.OPERATOR)
    await house.settle()
    closing = client.reader.closing
    assert closing.payload == {"reason": "operator", "retry": 3000}
    assert closing.retry_ms == 3000
    assert closing.id == "2"
    assert client.told == ["1", "2", "relay.closing"]
    assert client.wire.finished
    assert client.reader.ended is chunked
    assert house.meter.ends == ["operator"]
    back = await house.join(closing.id)
    await house.emit(3)
    assert back.told == ["3"]


async def test_a_client_that_has_had_no_event_may_go_on_too(house):
    client = await house.join()
    house.hub.end(None, CloseReason.OPERATOR)
    await house.settle()
    await house.emit(1)
    back = await house.join(client.reader.closing.id)
    await house.settle()
    assert back.told == ["1"]


async def test_a_paused_client_may_go_on_from_its_cursor(build):
    house = build(timings=SMALL)
    slow = await house.join(**ROOM)
    for n in range(1, 41):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    house.hub.end("user-1", CloseReason.OPERATOR)
    slow.wire.resume()
    await house.settle()
    assert slow.reader.ended
    got = slow.ids
    assert slow.reader.closing.id == got[-1]
    back = await house.join(got[-1])
    await house.settle()
    assert got + back.ids == [str(n) for n in range(1, 41)]


async def test_who_comes_when_all_is_over_opens_nothing(house):
    await house.hub.close()
    refused = await refusal(house.joining())
    assert refused.code is RefusalCode.DRAINING
    await house.settle()
    assert house.api.asks == []


async def test_who_waits_while_all_ends_opens_nothing_anew(house):
    house.api.up.clear()
    joining = house.joining()
    await house.settle()
    await house.hub.close()
    house.api.up.set()
    refused = await refusal(joining)
    assert refused.code is RefusalCode.DRAINING
    await house.settle()
    assert house.hub.feeds() == []
    assert house.api.listening == []


async def test_only_one_identity_is_ended(house):
    one = await house.join()
    other = await house.join(key=FeedKey("user-2", DESKTOPS), who=BOB)
    assert house.hub.end("user-1", CloseReason.OPERATOR) == 1
    await house.settle()
    assert one.wire.finished
    assert not other.wire.is_closing()


async def test_a_goodbye_that_is_not_taken_is_cut_short_after_five_seconds(build):
    house = build(timings=SMALL)
    stuck = await house.join(**ROOM)
    for n in range(1, 21):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    house.hub.end(None, CloseReason.OPERATOR)
    await house.advance(4.9)
    assert stuck.state is State.ENDING
    assert not stuck.wire.aborted
    await house.advance(0.3)
    assert stuck.wire.aborted
    assert house.meter.ends == ["operator"], "the first reason stands"


async def test_ending_it_again_does_not_put_that_off(build):
    house = build(timings=SMALL)
    stuck = await house.join(**ROOM)
    for n in range(1, 21):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    for _ in range(3):
        house.hub.end(None, CloseReason.OPERATOR)
        await house.advance(1.8)
    assert stuck.wire.aborted


async def test_a_live_client_with_unsent_bytes_is_cut_short_as_well(house):
    stuck = await house.join(reading=False, kernel_bytes=500)
    house.api.emit(said(1, "x" * 1_000))
    await house.settle()
    assert stuck.state is State.LIVE
    house.hub.end(None, CloseReason.OPERATOR)
    await house.advance(5.2)
    assert stuck.wire.aborted


async def test_nothing_follows_a_goodbye(build):
    house = build(timings=SMALL)
    stuck = await house.join(**ROOM)
    for n in range(1, 21):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    house.hub.end(None, CloseReason.OPERATOR)
    await house.emit(21, 22)
    house.hub.end(None, CloseReason.MAX_AGE)
    house.hub.revoke(ALICE)
    stuck.wire.resume()
    await house.settle()
    assert stuck.reader.ended  # the reader is strict about what may follow


@pytest.mark.parametrize(("jitter", "hint_ms"), [(0.0, 3_000), (0.5, 3_750), (0.98, 4_470)])
async def test_hints_to_come_back_differ_and_are_never_too_short(build, jitter, hint_ms):
    house = build(jitter=jitter)
    client = await house.join()
    assert client.wire.writes[0]
    await house.settle()
    assert client.reader.opening_ms == hint_ms
    house.hub.end(None, CloseReason.REBALANCED)
    await house.settle()
    assert client.reader.closing.retry_ms == hint_ms
    assert client.reader.closing.payload["retry"] == hint_ms


@pytest.mark.parametrize(("jitter", "hint_ms"), [(0.0, 300_000), (0.5, 450_000)])
async def test_who_was_retired_is_to_stay_away_for_long(build, jitter, hint_ms):
    house = build(jitter=jitter)
    client = await house.join()
    house.feed.end(client.subscriber, CloseReason.RETIRED)
    await house.settle()
    assert client.reader.closing.retry_ms == hint_ms


@pytest.mark.parametrize(("jitter", "age_s"), [(0.0, 100), (0.999, 80)])
async def test_no_stream_grows_older_than_it_may(build, jitter, age_s):
    house = build(timings=StreamTimings(max_age_s=100.0), jitter=jitter)
    client, gone = await house.join(), await house.join()
    gone.leave()
    await house.advance(age_s - 1)
    assert not client.wire.is_closing()
    await house.advance(1.5)
    assert client.reader.closing.payload["reason"] == "max_age"
    assert house.meter.ends == ["client_gone", "max_age"]


async def test_a_feed_that_ended_while_the_headers_were_on_their_way_says_so(house):
    feed = await house.hub.join(KEY, ALICE, None)
    await house.advance(40)
    assert feed.state is FeedState.CLOSED
    late = Client(chunked=True, reading=True, kernel_bytes=10_000, cost_s=0)
    house.attach(feed, late, ALICE, None)
    await house.settle()
    assert late.reader.closing is not None
    assert late.reader.ended
    assert late.wire.finished


async def test_a_feed_that_is_over_holds_no_events_and_sends_latecomers_on_from_where_they_were(
    house,
):
    client = await house.join()
    await house.emit(1, 2, 3)
    client.leave()
    feed = house.feed
    await house.advance(40)
    assert feed.state is FeedState.CLOSED
    assert (len(feed.history), feed.history.memory_bytes) == (0, 0)
    assert house.hub.history_bytes == 0
    for cursor, place in ((b"1", "1"), (None, "3")):
        late = Client(chunked=True, reading=True, kernel_bytes=10_000, cost_s=0)
        house.attach(feed, late, ALICE, cursor)
        await house.settle()
        assert late.reader.closing.id == place


async def test_what_a_feed_was_made_of_is_freed_without_the_collector(house):
    def parts() -> int:
        # The feed itself is named by the tests' sockets, which name their protocols for ever.
        return sum(type(one) in (CatchUp, Fanout, Owner) for one in gc.get_objects())

    gc.collect()
    before = parts()
    client = await house.join()
    await house.join(key=FeedKey("user-2", DESKTOPS), who=BOB)
    await house.emit(1)
    assert parts() == before + 6
    gc.disable()
    try:
        client.leave()
        await house.advance(40)
        assert parts() == before + 3, "after its linger"
        draining = asyncio.ensure_future(house.hub.drain(0.0))
        await house.advance(6)
        await draining
        await house.hub.close()
        await house.advance(20)
        assert parts() == before, "after the last goodbye"
    finally:
        gc.enable()


# -- drain


async def test_drain_ends_all_evenly_spread(house):
    clients = [await house.join() for _ in range(10)]
    clients += [await house.join(key=FeedKey("user-2", DESKTOPS), who=BOB) for _ in range(10)]
    draining = asyncio.ensure_future(house.hub.drain(10.0))
    left = []
    for _ in range(10):
        await house.advance(1.0)
        left.append(house.hub.streams)
    assert left == [17, 15, 13, 11, 9, 7, 5, 3, 1, 0]
    await house.advance(0.2)
    assert draining.done()
    await draining
    assert {client.reader.closing.payload["reason"] for client in clients} == {"draining"}
    assert all(client.wire.finished for client in clients)
    assert house.hub.facts().draining


async def test_drain_without_anybody_or_without_spread_is_over_at_once(house):
    draining = asyncio.ensure_future(house.hub.drain(10.0))
    await house.settle()
    assert draining.done()
    client = await house.join()
    draining = asyncio.ensure_future(house.hub.drain(0.0))
    await house.advance(0.1)
    assert draining.done()
    assert client.wire.finished


async def test_drain_waits_for_goodbyes_and_then_no_longer(build):
    house = build(timings=SMALL)
    stuck, good = await house.join(**ROOM), await house.join()
    for n in range(1, 21):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    draining = asyncio.ensure_future(house.hub.drain(2.0))
    await house.advance(3)
    assert good.wire.finished
    assert not draining.done()
    await house.advance(4.5)
    assert draining.done()
    assert stuck.wire.aborted
    assert house.hub.streams == 0


async def test_who_leaves_or_pauses_during_a_drain_holds_nothing_up(house):
    clients = [await house.join() for _ in range(4)]
    draining = asyncio.ensure_future(house.hub.drain(4.0))
    await house.advance(0.5)
    clients[3].leave()
    clients[2].wire.stall()
    await house.emit(1)
    await house.advance(4.5)
    assert draining.done()
    assert clients[1].told == ["1", "relay.closing"]


# -- close


async def test_close_leaves_nothing_whatever_goes_on(build):
    house = build(backoff=Backoff(min_s=5.0, max_s=30.0), timings=SMALL)
    house.api.note_ids(*range(1, 9))
    await house.join("7")
    await house.settle()
    away = await house.join(key=FeedKey("user-2", DESKTOPS), who=BOB)
    house.api.lines[-1].cut()
    await house.settle()
    assert house.hub.facts().upstream[("desktops", "waiting")] == 1
    house.api.up.clear()
    waiting = await house.join("2")
    opening = house.joining(key=FeedKey("user-3", DESKTOPS))
    stuck = await house.join("7", **ROOM)
    await house.settle()
    await house.hub.close()
    assert (await refusal(opening)).code is RefusalCode.DRAINING
    assert not [task for task in house.alive() if task is not opening]
    await house.settle()
    for client in (away, waiting, stuck):
        assert client.wire.aborted
        assert client.wire.lost
    assert house.hub.facts().feeds == {}
    assert house.hub.facts().history_bytes == 0


async def test_close_ends_streams_of_feeds_that_upstream_has_ended(build):
    house = build(timings=SMALL)
    stuck = await house.join(**ROOM)
    for n in range(1, 21):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    house.api.fail(SourceProblem.ENDED)
    house.api.cut()
    await house.advance(1)
    assert stuck.state is State.ENDING
    assert house.hub.facts().feeds == {}
    assert house.hub.streams == 1
    await house.hub.close()
    await house.settle()
    assert stuck.wire.lost


async def test_close_before_anything_began(house):
    await house.hub.close()
    assert house.alive() == set()


# -- memory


async def test_over_the_bound_the_least_recently_used_histories_shrink(build):
    house = build(total_bytes=45_000)
    keys = [FeedKey(f"user-{n}", DESKTOPS) for n in range(3)]
    for key in keys:
        await house.join(key=key)
        await house.advance(1)
    feeds = [house.hub._feeds[key] for key in keys]
    for n in range(1, 20):
        house.api.emit(said(n, "x" * 1_000))  # to all three
        await house.settle()
    assert house.hub.history_bytes == sum(feed.history.memory_bytes for feed in feeds) <= 45_000
    lengths = [len(feed.history) for feed in feeds]
    assert lengths[0] < lengths[2] == 19
    assert lengths == sorted(lengths)
    for n in range(20, 400):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
        assert house.hub.history_bytes <= 45_000
    assert all(len(feed.history) for feed in feeds), "the newest entry is always held"
    assert house.hub.facts().history_bytes == sum(feed.history.memory_bytes for feed in feeds)


async def test_bytes_are_given_back_by_age_and_with_the_feed(build):
    house = build(limits=HistoryLimits(max_age_s=10.0))
    client = await house.join()
    await house.emit(*range(1, 11))
    await house.advance(8)
    await house.emit(11)
    full = house.hub.history_bytes
    await house.advance(4)
    assert house.hub.history_bytes == house.feed.history.memory_bytes < full
    assert len(house.feed.history) == 1
    client.leave()
    await house.advance(32)
    assert house.hub.history_bytes == 0


async def test_the_bytes_of_a_gap_count_too(house):
    client = await house.join()
    house.api.cut()
    await house.advance(1)
    assert client.told == ["relay.gap"]
    assert house.hub.history_bytes == house.feed.history.memory_bytes > 0
    client.leave()
    await house.advance(32)
    assert house.hub.history_bytes == 0
