"""A cursor that the ring lacks is asked of upstream by a request of its own, and believed only if
what that brings runs into the ring.
"""

import asyncio

import pytest
from tests.relay.api import said, unnamed
from tests.relay.house import ALICE, credential, refusal

from lebureau_relay.core import sse
from lebureau_relay.core.event import Entry
from lebureau_relay.core.history import History, HistoryLimits
from lebureau_relay.errors import RefusalCode, SourceProblem
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.ledger import Ledger
from lebureau_relay.relay.subscriber import State

BOB = credential("bob")
TIMINGS = StreamTimings(catchup_timeout_s=5.0)


async def test_an_older_cursor_after_a_newer_one_loses_nothing(house):
    house.api.note_ids(*range(1, 9))
    newer = await house.join("6")
    await house.settle()
    older = await house.join("3")
    await house.settle()
    await house.emit(9)
    assert newer.told == ["7", "8", "9"]
    assert older.told == ["4", "5", "6", "7", "8", "9"]
    assert house.api.cursors == ["6", "3"]
    assert len(house.api.listening) == 1, "the request was a short one"
    assert house.meter.catchups == ["filled"]
    assert house.meter.replays[-1] == ("caught_up", 2)


async def test_an_older_cursor_before_the_feed_has_an_event_meets_its_floor(house):
    house.api.note_ids(*range(1, 5))
    newer = await house.join("4")
    older = await house.join("2")
    await house.settle()
    assert older.told == ["3", "4"]
    await house.emit(5)
    assert (newer.told, older.told) == (["5"], ["3", "4", "5"])
    assert house.meter.catchups == ["filled"]


async def test_an_older_namesake_of_the_floor_is_not_taken_for_it(build):
    house = build(limits=HistoryLimits(max_events=1))
    await house.join()
    await house.emit(1)
    house.api.emit(said("X", "old"))
    await house.emit(2, 3)
    house.api.emit(said("X", "new"))
    await house.emit(4)
    older = await house.join("1")
    await house.settle()
    assert older.told == ["X", "2", "3", "X", "4"]
    assert house.meter.catchups == ["filled"]


async def test_a_newer_cursor_after_an_older_one_is_seen_by_the_feed_itself(house):
    house.api.note_ids(*range(1, 6))
    house.api.up.clear()
    joins = [house.joining(cursor) for cursor in ("2", "4")]
    await house.settle()
    house.api.up.set()
    older, newer = [await join for join in joins]
    await house.settle()
    assert older.told == ["3", "4", "5"]
    assert newer.told == ["5"]


async def test_an_event_that_the_feed_brings_meanwhile_ends_the_wait(house):
    house.api.note_ids(1, 2, 3)
    await house.join("3")
    house.api.up.clear()
    waiting = await house.join("5")
    await house.settle()
    assert waiting.state is State.WAITING
    await house.emit(4, 5, 6)
    house.api.up.set()
    await house.settle()
    assert waiting.told == ["6"]
    assert house.meter.catchups == ["seen"]
    assert len(house.api.listening) == 1


async def test_an_ignored_cursor_that_brings_only_what_is_live_is_found_out(house):
    house.api.note_ids(*range(1, 7))
    await house.join("5")
    await house.settle()
    house.api.known = "live"
    older = await house.join("3")
    await house.settle()
    await house.emit(7)
    assert older.told == ["relay.gap", "7"]
    assert older.gap == {"cause": "unknown_id", "lastEventId": "3"}
    assert house.meter.catchups == ["ignored"]


async def test_an_ignored_cursor_that_brings_a_later_event_than_the_oldest_is_found_out(house):
    house.api.note_ids(*range(1, 8))
    await house.join("5")
    await house.settle()
    del house.api.log[4:6]  # upstream has let 5 and 6 go; the ring still has 6
    older = await house.join("4")
    await house.emit(8)
    assert older.told == ["relay.gap", "8"]
    assert older.gap == {"cause": "unknown_id", "lastEventId": "4"}


@pytest.mark.parametrize("cursor", ["5", "9"], ids=["behind the ring", "ahead of the ring"])
async def test_a_log_that_is_said_again_in_pieces_is_found_out_before_anybody_has_it(build, cursor):
    """In pieces as a socket brings them; the cursor's own event is in the last. The ring's oldest
    comes before it where the ring itself is being told again.
    """
    house = build(timings=StreamTimings(pause_s=0.05))
    house.api.note_ids(*range(1, 7))
    newer = await house.join("6")
    await house.emit(7)
    house.api.known = "live"
    older = await house.join(cursor)
    await house.settle()
    short = house.api.listening[-1]
    assert short.ask.cursor == cursor
    for piece in (range(1, 3), range(3, 5), range(5, 8), range(8, 10)):
        short.send(*(said(n).block for n in piece))
        await house.advance(0.03)
    await house.advance(0.1)
    assert older.told == ["relay.gap"]
    assert older.gap == {"cause": "unknown_id", "lastEventId": cursor}
    await house.emit(10)
    assert (newer.told, older.told) == (["7", "10"], ["relay.gap", "10"])


async def test_an_attempt_that_gets_no_answer_is_followed_by_another(house):
    """By a kept connection that carries nothing any more: found by `road-lost-inside-an-event`
    while clients came back.
    """
    house.api.note_ids(*range(1, 7))
    await house.join("6")
    await house.emit(7)
    house.api.up.clear()
    older = await house.join("3")
    await house.advance(2.4)
    house.api.up = asyncio.Event()  # who waits by the first goes on waiting
    house.api.up.set()
    assert (older.told, house.api.cursors) == ([], ["6", "3"])
    await house.advance(1.0)
    assert (older.told, house.api.cursors) == (["4", "5", "6", "7"], ["6", "3", "3"])


async def test_what_comes_after_a_pause_is_not_waited_for(build):
    house = build(timings=StreamTimings(pause_s=0.05))
    house.api.note_ids(*range(1, 7))
    await house.join("6")
    await house.emit(7)
    house.api.known = "live"
    older = await house.join("3")
    await house.settle()
    short = house.api.listening[-1]
    short.send(said(4).block)
    await house.advance(0.04)
    assert older.told == []
    await house.advance(0.02)
    assert older.told == ["4"]
    short.send(said(5).block)  # a wait that was given up has lost nothing
    short.send(said(6).block, said(7).block)
    await house.advance(0.1)
    assert older.told == ["4", "5", "6", "7"]


async def test_an_ignored_cursor_that_brings_the_whole_log_is_found_out_at_its_own_id(house):
    house.api.note_ids(*range(1, 8))
    await house.join("6")
    await house.settle()
    house.api.known = "whole"
    older = await house.join("3")
    await house.settle()
    assert older.told == ["relay.gap"], "nobody has anything twice"
    assert older.gap == {"cause": "unknown_id", "lastEventId": "3"}
    await house.emit(8)
    assert older.told == ["relay.gap", "8"]


async def test_where_an_ignored_cursor_was_believed_the_gap_names_what_is_sure(house):
    house.api.note_ids(*range(1, 8))
    await house.join("6")
    await house.settle()
    house.api.known = "live"
    older = await house.join("3")
    await house.settle()
    own, short = house.api.listening
    short.send(said("x").block)  # live, and not what follows 3; nobody can know
    await house.settle()
    await house.emit(8)
    assert older.told == ["x", "relay.gap", "8"]
    assert older.gap == {"cause": "unknown_id", "lastEventId": "3"}
    assert own.open


async def test_live_events_that_the_catch_up_brings_first_prove_that_it_was_ignored(house):
    house.api.note_ids(1, 2, 3)
    await house.join("3")
    await house.settle()
    house.api.known = "live"
    older = await house.join("1")
    await house.settle()
    own, short = house.api.listening
    short.send(said(4).block)
    await house.settle()
    own.send(said(4).block)
    await house.settle()
    assert older.told == ["4", "relay.gap"]
    assert older.reader.gaps[0].id == "4"
    own.send(said(5).block)
    await house.settle()
    assert older.told == ["4", "relay.gap", "5"]


async def test_an_empty_ring_without_a_floor_takes_the_cursor_as_the_subscriptions_own(house):
    house.api.note_ids(1, 2, 3)
    fresh = await house.join()
    older = await house.join("1")
    await house.settle()
    assert house.api.cursors == ["", "1"]
    assert len(house.api.listening) == 1, "it took the place of the first"
    await house.emit(4)
    assert older.told == ["2", "3", "4"]
    assert fresh.told[-1] == "4"
    assert house.meter.reconnects == ["replaced"]


async def test_a_cursor_that_comes_while_upstream_is_away_and_nothing_is_known_is_asked_for(house):
    house.api.note_ids(1, 2, 3)
    await house.join()
    house.api.up.clear()
    house.api.cut()
    await house.advance(1)
    assert house.api.cursors == ["", ""]
    older = await house.join("1")
    await house.settle()
    house.api.up.set()
    await house.advance(1)
    await house.emit(4)
    assert older.told == ["2", "3", "4"]
    assert house.api.cursors == ["", "", "1"]


async def test_a_cursor_that_takes_over_the_subscription_and_is_rejected_is_told(house):
    fresh = await house.join()
    house.api.rejects_unknown = True
    stale = await house.join("stale")
    await house.settle()
    await house.emit(1)
    assert house.api.cursors == ["", "stale", ""]
    assert stale.told == ["relay.gap", "1"]
    assert fresh.told == ["relay.gap", "1"], "it too may have missed something"


async def test_a_cursor_that_comes_while_the_reconnect_waits_is_asked_for(house):
    house.api.note_ids(1, 2, 3)
    await house.join()
    house.api.cut()
    await house.settle()
    older = await house.join("1")
    await house.advance(1)
    await house.emit(4)
    assert older.told == ["2", "3", "4"]
    assert house.api.cursors == ["", "1"]


async def test_a_second_cursor_for_an_empty_ring_meets_the_first_ones_floor(house):
    house.api.note_ids(1, 2, 3)
    await house.join()
    clients = [await house.join(cursor) for cursor in ("3", "1")]
    await house.settle()
    await house.emit(4)
    assert clients[0].told == ["4"]
    assert clients[1].told == ["2", "3", "4"]


# -- derived cursors


async def test_a_cold_feed_passes_over_what_a_derived_cursor_has_seen(house):
    house.api.note(said("X"), *(unnamed(data) for data in "abcde"))
    client = await house.join("X~lbr3")
    await house.settle()
    assert house.api.cursors == ["X"]
    assert client.told == ["X~lbr4", "X~lbr5"]
    assert [block.data for block in client.reader.blocks] == ["d", "e"]


async def test_a_cold_feed_whose_upstream_names_other_events_finds_out(house):
    house.api.note(said("X"))
    client = await house.join("X~lbr3")
    house.api.emit(unnamed("a"))
    await house.settle()
    assert client.told == []
    await house.emit("Y")
    assert client.told == ["relay.gap", "X~lbr1", "Y"]
    assert client.gap == {"cause": "unknown_id", "lastEventId": "X~lbr3"}


async def test_a_cold_feed_whose_upstream_says_nothing_tells_so_in_time(build):
    house = build(timings=TIMINGS)
    house.api.note(said("X"))
    client = await house.join("X~lbr3")
    await house.advance(4.9)
    assert client.told == []
    await house.advance(0.2)
    assert client.told == ["relay.gap"]
    assert house.meter.catchups == ["timeout"]


async def test_a_derived_cursor_is_caught_up(house):
    house.api.note(said("X"), *(unnamed(data) for data in "abc"), said("Y"), said("Z"))
    await house.join("Y")
    await house.settle()
    older = await house.join("X~lbr2")
    await house.settle()
    assert house.api.cursors == ["Y", "X"]
    assert older.told == ["X~lbr3", "Y", "Z"]
    assert house.meter.catchups == ["filled"]


async def test_a_derived_cursor_whose_events_upstream_no_longer_has_is_a_gap(house):
    house.api.note(said("X"), unnamed("a"), said("Y"), said("Z"))
    await house.join("Y")
    await house.settle()
    older = await house.join("X~lbr2")
    await house.settle()
    assert older.told == ["relay.gap"]
    assert house.meter.catchups == ["ignored"]


async def test_a_derived_cursor_on_an_empty_ring_is_asked_for_and_passed_over(house):
    house.api.note(said("X"), *(unnamed(data) for data in "abc"))
    await house.join()
    older = await house.join("X~lbr1")
    await house.settle()
    assert house.api.cursors == ["", "X"]
    assert older.told == ["X~lbr2", "X~lbr3"]


# -- waiters


async def test_waiters_with_one_cursor_share_a_request(house):
    house.api.note_ids(*range(1, 8))
    await house.join("6")
    await house.settle()
    waiters = [await house.join("3") for _ in range(3)]
    await house.settle()
    assert house.api.cursors == ["6", "3"]
    assert [waiter.told for waiter in waiters] == [["4", "5", "6", "7"]] * 3


async def test_one_request_at_a_time(house):
    house.api.note_ids(*range(1, 9))
    await house.join("7")
    await house.settle()
    house.api.up.clear()
    waiters = [await house.join(str(cursor)) for cursor in (2, 4, 5)]
    await house.settle()
    assert house.api.cursors == ["7", "2"]
    house.api.up.set()
    await house.settle()
    assert house.api.cursors == ["7", "2", "4", "5"]
    assert [len(waiter.told) for waiter in waiters] == [6, 4, 3]
    assert len(house.api.listening) == 1


async def test_one_that_comes_when_others_have_been_sent_something_waits_for_a_request_of_its_own(
    build,
):
    house = build(timings=StreamTimings(buffer_bytes=1_000))
    house.api.note(*(said(n, "x" * 900) for n in range(1, 21)))
    await house.join("18", kernel_bytes=100_000)
    await house.settle()
    slow = await house.join("3", reading=False, kernel_bytes=1_000)
    await house.settle()
    late = await house.join("3", kernel_bytes=100_000)
    await house.settle()
    assert late.told == []
    slow.wire.resume()
    await house.settle()
    wanted = [str(n) for n in range(4, 21)]
    assert slow.told == wanted
    assert late.told == wanted
    assert house.api.cursors == ["18", "3", "3"]


async def test_a_slow_waiter_is_sent_no_more_than_it_takes(build):
    house = build(timings=StreamTimings(buffer_bytes=5_000))
    house.api.note(*(said(n, "x" * 900) for n in range(1, 101)))
    await house.join("99")
    await house.settle()
    slow = await house.join("1", reading=False, kernel_bytes=2_000)
    await house.settle()
    assert slow.wire.get_write_buffer_size() < 5_000 + 2_000
    assert slow.state is State.WAITING
    for _ in range(20):
        slow.wire.take(1_000)
        await house.settle()
    slow.wire.resume()
    await house.settle()
    assert slow.told == [str(n) for n in range(2, 101)]
    assert house.meter.catchups == ["filled"]


async def test_the_time_that_clients_take_is_not_upstreams(build):
    house = build(timings=StreamTimings(buffer_bytes=5_000, catchup_timeout_s=5.0))
    house.api.note(*(said(n, "x" * 900) for n in range(1, 31)))
    await house.join("29")
    await house.settle()
    slow = await house.join("1", reading=False, kernel_bytes=2_000)
    await house.advance(20)
    slow.wire.resume()
    await house.settle()
    assert slow.told == [str(n) for n in range(2, 31)]


async def test_a_waiter_that_reads_nothing_is_ended_and_the_others_go_on(build):
    house = build(timings=StreamTimings(buffer_bytes=5_000, write_timeout_s=8.0))
    house.api.note(*(said(n, "x" * 900) for n in range(1, 31)))
    await house.join("29")
    await house.settle()
    dead = await house.join("1", reading=False, kernel_bytes=2_000)
    good = await house.join("1")
    await house.settle()
    assert house.api.cursors == ["29", "1"]
    assert len(good.told) < 29
    await house.advance(10)
    assert dead.wire.aborted
    assert good.told == [str(n) for n in range(2, 31)]
    assert house.meter.ends == ["slow"]


async def test_a_waiter_that_leaves_frees_the_others(build):
    house = build(timings=StreamTimings(buffer_bytes=5_000))
    house.api.note(*(said(n, "x" * 900) for n in range(1, 31)))
    await house.join("29")
    await house.settle()
    dead = await house.join("1", reading=False, kernel_bytes=2_000)
    good = await house.join("1")
    await house.settle()
    dead.leave()
    await house.settle()
    assert good.told == [str(n) for n in range(2, 31)]


async def test_a_request_that_nobody_waits_for_any_more_ends(build):
    house = build(timings=TIMINGS)
    house.api.note_ids(*range(1, 6))
    await house.join("5")
    house.api.known = "live"
    waiter = await house.join("2")
    await house.settle()
    assert len(house.api.listening) == 2
    waiter.leave()
    await house.advance(5.1)
    assert len(house.api.listening) == 1


async def test_one_that_left_before_its_turn_costs_no_request(house):
    house.api.note_ids(*range(1, 9))
    await house.join("7")
    await house.settle()
    house.api.up.clear()
    first, second = await house.join("2"), await house.join("4")
    await house.settle()
    second.leave()
    await house.settle()
    house.api.up.set()
    await house.settle()
    assert house.api.cursors == ["7", "2"]
    assert len(first.told) == 6


async def test_a_waiter_that_is_ended_may_go_on_from_what_it_was_sent(build):
    house = build(timings=StreamTimings(buffer_bytes=5_000))
    house.api.note(*(said(n, "x" * 900) for n in range(1, 31)))
    await house.join("29")
    await house.settle()
    slow = await house.join("1", reading=False, kernel_bytes=2_000)
    await house.settle()
    house.hub.revoke(ALICE)
    slow.wire.resume()
    await house.settle()
    told = slow.told[:-1]
    assert slow.reader.closing.id == told[-1]
    assert told == [str(n) for n in range(2, 2 + len(told))]


async def test_a_waiter_hears_heartbeats(build):
    house = build(timings=StreamTimings(heartbeat_s=2.0, catchup_timeout_s=10.0))
    house.api.note_ids(1, 2)
    await house.join("2")
    house.api.up.clear()
    waiter = await house.join("1")
    await house.advance(7)
    assert waiter.reader.heartbeats >= 3
    house.api.up.set()
    await house.settle()
    assert waiter.told == ["2"]


# -- when it fails


async def test_an_upstream_that_says_nothing_is_not_waited_for_long(build):
    house = build(timings=TIMINGS)
    house.api.note_ids(*range(1, 6))
    await house.join("5")
    house.api.up.clear()
    waiter = await house.join("2")
    await house.advance(4.9)
    await house.emit(6)
    assert waiter.told == []
    await house.advance(0.2)
    assert waiter.told == ["relay.gap", "6"], "what came since it joined is surely new to it"
    assert waiter.gap == {"cause": "unknown_id", "lastEventId": "2"}
    assert house.meter.catchups == ["timeout"]
    await house.emit(7)
    assert waiter.told[-1] == "7"


async def test_with_entries_let_go_a_silent_upstream_makes_it_evicted(build):
    house = build(timings=TIMINGS, limits=HistoryLimits(max_events=2))
    house.api.note_ids(1)
    await house.join("1")
    await house.emit(2, 3, 4, 5)
    house.api.up.clear()
    waiter = await house.join("2")
    await house.advance(6)
    assert waiter.told == ["relay.gap", "4", "5"]
    assert waiter.gap == {"cause": "evicted", "lastEventId": "2"}
    assert waiter.reader.gaps[0].id == "3"


@pytest.mark.parametrize(
    "problem", [SourceProblem.UNUSABLE, SourceProblem.CURSOR_REJECTED, SourceProblem.ENDED]
)
async def test_a_request_that_is_refused_is_a_gap_and_touches_nobody_else(house, problem):
    house.api.note_ids(*range(1, 6))
    other = await house.join("4")
    await house.settle()
    house.api.fail(problem)
    waiter = await house.join("2")
    await house.emit(6)
    assert waiter.told == ["relay.gap", "6"]
    assert other.told == ["5", "6"]
    assert house.meter.catchups == ["failed"]
    assert house.meter.reconnects == []


@pytest.mark.parametrize("cursor", ["2", "2~lbr1"])
@pytest.mark.parametrize(
    "problem", [SourceProblem.UNAVAILABLE, SourceProblem.THROTTLED, SourceProblem.CUT]
)
async def test_a_request_that_fails_for_a_moment_is_made_again(build, problem, cursor):
    house = build(timings=TIMINGS)
    house.api.note_ids(1, 2)
    house.api.note(unnamed("a"), unnamed("b"))
    house.api.note_ids(3, 4)
    await house.join("4")
    await house.settle()
    house.api.fail(problem)
    house.api.fail(problem)
    waiter = await house.join(cursor)
    await house.advance(0.4)
    assert waiter.told == []
    assert house.api.cursors == ["4", "2"], "not at once"
    await house.advance(2.0)
    assert waiter.told == ["2~lbr1", "2~lbr2", "3", "4"][cursor != "2" :]
    assert house.api.cursors == ["4", "2", "2", "2"]
    assert house.meter.catchups == ["filled"]


async def test_a_request_that_breaks_before_it_has_brought_news_passes_over_all_again(build):
    house = build(timings=TIMINGS)
    house.api.note_ids(1)
    house.api.note(unnamed("a"), unnamed("b"), unnamed("c"))
    house.api.note_ids(2)
    await house.join("2")
    await house.settle()
    house.api.known = "live"
    waiter = await house.join("1~lbr2")
    await house.settle()
    short = house.api.listening[1]
    short.send(unnamed("a").block)
    short.cut()
    house.api.known = "honours"
    await house.advance(2.0)
    assert waiter.told == ["1~lbr3", "2"]
    assert house.meter.catchups == ["filled"]


async def test_a_request_that_always_fails_is_a_gap_in_time(build):
    house = build(timings=TIMINGS)
    house.api.note_ids(*range(1, 6))
    await house.join("5")
    await house.settle()
    for _ in range(100):
        house.api.fail(SourceProblem.UNAVAILABLE)
    waiter = await house.join("2")
    await house.advance(4.9)
    assert waiter.told == []
    await house.advance(0.2)
    assert waiter.told == ["relay.gap"]
    assert house.meter.catchups == ["timeout"]
    assert len(house.api.asks) < 15, "paced"


async def test_what_the_feed_brings_while_a_request_is_to_be_made_again_ends_the_wait(build):
    house = build(timings=TIMINGS)
    house.api.note_ids(1)
    await house.join("1")
    await house.settle()
    house.api.fail(SourceProblem.UNAVAILABLE)
    waiter = await house.join("2")
    await house.settle()
    await house.emit(2, 3)
    assert waiter.told == ["3"]
    assert house.meter.catchups == ["seen"]
    await house.advance(5.0)
    assert len(house.api.asks) == 2, "nobody waits any more"


@pytest.mark.parametrize("known", ["honours", "live"])
async def test_a_request_that_breaks_goes_on_after_what_it_brought(build, known):
    house = build(timings=TIMINGS)
    house.api.note_ids(*range(1, 5))
    await house.join("4")
    await house.settle()
    house.api.known = "live"
    waiter = await house.join("1")
    await house.settle()
    short = house.api.listening[1]
    short.send(said(2).block)
    short.cut()
    house.api.known = known
    await house.advance(2.0)
    assert house.api.cursors == ["4", "1", "2"]
    if known == "honours":
        assert waiter.told == ["2", "3", "4"]
        return
    await house.emit(5)  # which proves nothing: 3 and 4 are missing
    assert waiter.told == ["2", "relay.gap", "5"]
    assert waiter.gap == {"cause": "unknown_id", "lastEventId": "1"}, "2 was not proved"


async def test_401_in_a_catch_up_ends_those_with_that_credential(house):
    house.api.note_ids(*range(1, 6))
    bob = await house.join("4", who=BOB)
    await house.settle()
    house.api.refused.add(ALICE)
    alice, patient = await house.join("2", who=ALICE), await house.join("2", who=BOB)
    await house.emit(6)
    assert alice.reader.closing.payload["reason"] == "credential_revoked"
    assert alice.reader.closing.id == "2", "it may go on from where it was"
    assert patient.told == ["3", "4", "5", "6"], "asked again with a credential that is good"
    assert bob.told == ["5", "6"]
    assert ("rejected", ALICE) in house.register.verdicts


async def test_401_in_a_catch_up_ends_what_that_credential_has_open_upstream(house):
    """The feed goes on by a credential that is good."""
    house.api.note_ids(*range(1, 6))
    alice, bob = await house.join("4", who=ALICE), await house.join("4", who=BOB)
    await house.settle()
    house.api.refused.add(ALICE)
    await house.join("2", who=ALICE)
    await house.emit(6)
    assert alice.reader.closing.payload["reason"] == "credential_revoked"
    assert house.api.line.ask.credential == BOB
    assert bob.told == ["5", "6"]


@pytest.mark.parametrize("how", ["revoked", "left"])
async def test_what_comes_by_a_credential_that_nobody_holds_any_more_is_asked_for_again(house, how):
    house.api.note_ids(*range(1, 8))
    await house.join("6", who=BOB)
    await house.settle()
    house.api.known = "live"
    alice, bob = await house.join("1", who=ALICE), await house.join("1", who=BOB)
    await house.settle()
    short = house.api.listening[1]
    assert short.ask.credential == ALICE
    short.send(said(2).block)
    await house.settle()
    if how == "revoked":
        house.register.withdrawn.add(ALICE)
        house.hub.revoke(ALICE)
    else:
        alice.leave()
    await house.settle()
    house.api.known = "honours"
    short.send(said("no longer for anybody").block)
    await house.emit(8)
    assert [(ask.cursor, ask.credential) for ask in house.api.asks[1:]] == [
        ("1", ALICE),
        ("2", BOB),
    ]
    assert bob.told == [str(n) for n in range(2, 9)]
    assert house.meter.catchups == ["filled"]


async def test_a_catch_up_is_over_when_the_feed_has_brought_its_end_whoever_is_slow(build):
    house = build(timings=StreamTimings(buffer_bytes=3_000))
    house.api.note_ids(20)
    await house.join("20", kernel_bytes=100_000)
    await house.settle()
    slow = await house.join("22", reading=False, kernel_bytes=500)
    await house.settle()
    own, short = house.api.listening
    said_late = [said(n, "x" * 900).block for n in range(21, 40)]
    short.send(*said_late[2:12])
    await house.settle()
    own.send(*said_late)
    await house.settle()
    assert house.meter.catchups == ["filled"]
    assert slow.state is State.PAUSED
    assert len(house.api.listening) == 1
    assert house.feed.catchup._task is None, "whoever asks next would not be let in"
    slow.wire.resume()
    await house.settle()
    assert slow.told == [str(n) for n in range(23, 40)]


async def test_where_the_ring_goes_on_is_not_found_in_one_ring_and_gone_to_in_another(build):
    """A replica's log was rolled back while a slow client took the last that it had waited for."""
    house = build(timings=StreamTimings(buffer_bytes=2_000))
    house.api.note(said(1), said(2), said(3), said(4, "x" * 5_000))
    await house.join("4")
    slow = await house.join("1", reading=False, kernel_bytes=500)
    await house.settle()
    log = [
        Entry(n - 1, b"%d" % n, sse.chunk(sse.block(b"%d" % n, b"", b"%d" % n)), 0) for n in (2, 3)
    ]
    rolled_back = History(HistoryLimits(), "z")
    rolled_back.load(0, b"", 2, log)
    Ledger(house.feed, None, "log", None, None)._rebase(rolled_back)
    slow.wire.resume()
    await house.settle()
    assert slow.told == ["2", "3", "4"], "nothing that it has had"
    assert slow.state is State.WAITING
    assert house.api.cursors == ["4", "1", "4"]


async def test_a_wait_that_ends_while_another_is_served_does_not_end_that_one(house):
    house.api.note_ids(*range(1, 6))
    await house.join("5")
    await house.settle()
    house.api.known = "live"
    served = await house.join("2")
    await house.settle()
    own, short = house.api.listening
    queued = await house.join("6")
    own.send(said(6).block)
    await house.settle()
    assert queued.state is State.LIVE
    short.send(*(said(one).block for one in (3, 4, 5, 6)))  # it was slow, no more
    await house.settle()
    await house.emit(7)
    assert queued.told == ["7"]
    assert served.told == ["3", "4", "5", "6", "7"]


async def test_403_in_a_catch_up_ends_those_with_that_credential(house):
    house.api.note_ids(*range(1, 6))
    bob = await house.join("4", who=BOB)
    await house.settle()
    house.api.fail(SourceProblem.FORBIDDEN)
    alice, patient = await house.join("2", who=ALICE), await house.join("2", who=BOB)
    await house.emit(6)
    assert alice.reader.closing.payload["reason"] == "credential_revoked"
    assert patient.told == ["3", "4", "5", "6"]
    assert bob.told == ["5", "6"]
    assert ("rejected", ALICE) not in house.register.verdicts
    assert (await refusal(house.joining(who=ALICE))).code is RefusalCode.FORBIDDEN


async def test_the_end_of_the_feed_ends_a_catch_up(house):
    house.api.note_ids(*range(1, 6))
    await house.join("5")
    await house.settle()
    house.api.up.clear()
    waiter = await house.join("2")
    await house.settle()
    house.api.fail(SourceProblem.ENDED)
    house.api.fail(SourceProblem.ENDED)
    house.api.cut()
    house.api.up.set()
    await house.advance(2)
    assert waiter.wire.finished


async def test_an_oversize_event_in_a_catch_up_is_a_gap_in_its_place(house):
    house.api.note(said(1), said(2), said(3, "x" * 30_000), said(4), said(5))
    await house.join("4")
    await house.settle()
    older = await house.join("1")
    await house.settle()
    assert older.told == ["2", "relay.gap", "4", "5"]
    assert older.gap == {"cause": "oversize", "lastEventId": "2"}
    assert older.reader.gaps[0].id == "3"


async def test_http_1_0_is_caught_up_too(house):
    house.api.note_ids(*range(1, 6))
    await house.join("4")
    await house.settle()
    older = await house.join("1", chunked=False)
    await house.settle()
    assert older.told == ["2", "3", "4", "5"]


async def test_a_derived_cursor_in_a_burst_over_the_rings_bounds_is_seen_by_the_feed_itself(build):
    house = build(limits=HistoryLimits(max_events=12))
    house.api.note(said("X"), *(unnamed(str(n)) for n in range(1, 25)))
    house.api.note_ids(*range(1, 14))
    client = await house.join("X~lbr24")
    await house.settle()
    assert client.told == [str(n) for n in range(1, 14)]
    assert house.api.cursors == ["X"]


async def test_a_first_cursor_that_brings_more_than_the_ring_holds_loses_nothing(house):
    house.api.note(*(said(n, "x" * 200) for n in range(5_000)))
    client = await house.join("0", kernel_bytes=1 << 20)
    await house.settle()
    assert house.meter.gaps == []
    assert client.ids == [str(n) for n in range(1, 5_000)]
