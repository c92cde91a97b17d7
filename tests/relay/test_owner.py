"""One subscription is kept alive: resumed with proof, with the credential of whoever is there, and
no sooner than upstream wants. The clients stay through all of it.
"""

import itertools

import pytest
from tests.relay.api import said, unnamed
from tests.relay.house import ALICE, DESKTOPS, KEY, Client, credential, refusal

from lebureau_relay.core.backoff import Backoff
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.errors import RefusalCode, SourceProblem
from lebureau_relay.relay.ports import FeedKey, StreamSpec

BOB = credential("bob")
CAROL = credential("carol")
ACTIVITY = StreamSpec("activity", "/api/mission-control/activity/stream")


async def test_it_resumes_from_the_second_newest_id_and_drops_the_proof(house):
    client = await house.join()
    await house.emit(1, 2, 3)
    house.api.cut()
    house.api.note_ids(4)
    await house.advance(1)
    await house.emit(5)
    assert house.api.cursors == ["", "2"]
    assert client.told == ["1", "2", "3", "4", "5"]
    assert house.meter.reconnects == ["cut"]
    assert house.meter.gaps == []


async def test_with_one_known_id_it_resumes_from_that(house):
    client = await house.join()
    await house.emit(1)
    house.api.cut()
    house.api.note_ids(2)
    await house.advance(1)
    assert house.api.cursors == ["", "1"]
    assert client.told == ["1", "2"]


async def test_the_first_cursor_is_the_second_newest_id_of_a_feed_with_one_event(house):
    house.api.note_ids(1)
    client = await house.join("1")
    await house.emit(2)
    house.api.cut()
    house.api.note_ids(3)
    await house.advance(1)
    assert house.api.cursors == ["1", "1"]
    assert client.told == ["2", "3"]


async def test_without_any_id_what_happened_meanwhile_is_told_as_a_gap(house):
    client = await house.join()
    house.api.emit(unnamed("a"))
    await house.settle()
    house.api.cut()
    house.api.note(unnamed("lost"))
    await house.advance(1)
    house.api.emit(unnamed("b"))
    await house.settle()
    assert house.api.cursors == ["", ""]
    assert client.told == ["~lbre1-1", "relay.gap", "~lbre1-3"]
    assert client.gap == {"cause": "upstream", "lastEventId": "~lbre1-1"}
    assert house.meter.gaps == ["upstream"]


async def test_events_without_ids_after_one_are_named_by_it_and_prove_as_well(house):
    client = await house.join()
    house.api.emit(said("X"), unnamed("a"), unnamed("b"))
    await house.settle()
    house.api.cut()
    house.api.note(unnamed("c"))
    await house.advance(1)
    assert house.api.cursors == ["", "X"]
    assert client.told == ["X", "X~lbr1", "X~lbr2", "X~lbr3"]
    assert [block.data for block in client.reader.blocks] == ["X", "a", "b", "c"]


@pytest.mark.parametrize("known", ["live", "whole"])
async def test_an_upstream_that_ignores_the_cursor_is_found_out(house, known):
    client = await house.join()
    await house.emit(1, 2, 3)
    house.api.known = known
    house.api.cut()
    house.api.note_ids(4)
    await house.advance(1)
    await house.emit(5)
    repeated = ["1", "2", "3", "4"] if known == "whole" else []
    assert client.told == ["1", "2", "3", "relay.gap", *repeated, "5"]
    assert client.gap == {"cause": "upstream", "lastEventId": "3"}


async def test_an_upstream_that_forgets_is_found_out(house):
    client = await house.join()
    await house.emit(1, 2, 3)
    house.api.cut()
    house.api.log.clear()
    house.api.note_ids(7)
    await house.advance(1)
    await house.emit(8)
    assert client.told == ["1", "2", "3", "relay.gap", "8"]


async def test_a_numbering_that_starts_again_is_a_new_epoch(house):
    client = await house.join()
    await house.emit(1, 2, 3)
    house.api.cut()
    house.api.log[:] = [said(1, "new 1"), said(2, "new 2"), said(3, "new 3")]
    await house.advance(1)
    assert client.told == ["1", "2", "3", "relay.gap", "3"]
    assert client.reader.blocks[-1].data == "new 3"
    stale = await house.join("2")
    await house.settle()
    assert stale.gap == {"cause": "unknown_id", "lastEventId": "2"}
    assert house.api.cursors == ["", "2"], "an id of the numbering before isn't asked for"


async def test_a_known_id_with_other_content_is_a_gap_without_any_reconnect(house):
    client = await house.join()
    await house.emit(1, 2)
    house.api.emit(said(1, "other"))
    await house.settle()
    assert client.told == ["1", "2", "relay.gap", "1"]
    assert client.gap == {"cause": "upstream", "lastEventId": "2"}


async def test_an_id_that_is_said_twice_alike_is_passed_on_twice(house):
    client = await house.join()
    await house.emit(1, 2)
    await house.emit(1)
    assert client.told == ["1", "2", "1"]
    back = await house.join("1")
    await house.settle()
    assert back.gap["cause"] == "unknown_id", "nobody can say which of the two it means"


async def test_an_oversize_event_is_a_gap_in_its_place(house):
    client = await house.join()
    house.api.emit(said(1), said(2, "x" * 30_000), said(3))
    await house.settle()
    assert client.told == ["1", "relay.gap", "3"]
    assert client.gap == {"cause": "oversize", "lastEventId": "1"}
    assert client.reader.gaps[0].id == "2"
    assert house.meter.gaps == ["oversize"]


async def test_a_cursor_that_is_rejected_later_is_a_gap(house):
    client = await house.join()
    await house.emit(1, 2)
    house.api.rejects_unknown = True
    house.api.cut()
    house.api.log.clear()
    await house.advance(2)
    await house.emit(9)
    assert house.api.cursors == ["", "1", "1", "", "1"], "it may be a deployment of theirs"
    assert client.told == ["1", "2", "relay.gap", "9"]
    assert len(house.api.listening) == 1


async def test_who_refuses_with_and_without_a_cursor_does_not_mean_the_cursor(house):
    """A 404 for some seconds: what was said meanwhile is asked for when it is over."""
    client = await house.join()
    await house.emit(1, 2)
    cursor, other = SourceProblem.CURSOR_REJECTED, SourceProblem.UNUSABLE
    for problem in (cursor, cursor, other, cursor, cursor, other):
        house.api.fail(problem)
    house.api.cut()
    house.api.note_ids(3)
    await house.advance(60)
    assert house.api.cursors == ["", "1", "1", "", "1", "1", "", "1"]
    assert client.told == ["1", "2", "3"]


async def test_a_deployment_that_is_over_when_it_is_asked_without_a_cursor_costs_no_gap(house):
    client = await house.join()
    await house.emit(1, 2)
    for problem in (SourceProblem.CURSOR_REJECTED, SourceProblem.CURSOR_REJECTED):
        house.api.fail(problem)
    house.api.cut()
    house.api.note_ids(3)
    await house.advance(60)
    assert house.api.cursors == ["", "1", "1", "", "1"]
    assert client.told == ["1", "2", "3"]
    assert house.meter.gaps == []
    assert len(house.api.listening) == 1


async def test_a_connection_that_we_close_ourselves_is_asked_for_again_at_once(house):
    await house.join()
    await house.emit(1, 2)
    house.api.line.close(SourceProblem.REPLACED)
    await house.settle()
    assert house.api.cursors == ["", "1"]
    assert house.meter.reconnects == ["replaced"]


async def test_silence_ends_a_connection_and_any_sign_of_life_keeps_it(house):
    client = await house.join()
    house.api.line.idle_timeout_s = 10.0
    for _ in range(4):
        await house.advance(8)
        house.api.line.send(b":\n")
        await house.settle()
    assert len(house.api.asks) == 1
    await house.advance(13)
    assert house.meter.reconnects == ["idle"]
    assert len(house.api.listening) == 1
    assert client.reader.heartbeats > 0
    assert not client.wire.lost


@pytest.mark.parametrize(
    "problem", [SourceProblem.UNAVAILABLE, SourceProblem.THROTTLED, SourceProblem.UNUSABLE]
)
async def test_a_reconnect_that_fails_is_tried_again_and_ends_no_client(house, problem):
    client = await house.join()
    await house.emit(1, 2)
    for _ in range(3):
        house.api.fail(problem)
    house.api.cut()
    house.api.note_ids(3)
    await house.advance(10)
    assert client.told == ["1", "2", "3"]
    assert house.meter.reconnects == ["cut", *[problem.value] * 3]
    assert [event for _, event, _ in house.journal.notes] == ["upstream.refused"] * 3
    assert house.register.verdicts.count(("undecided", ALICE)) == 3


async def test_tries_are_spaced_ever_wider_until_something_works(build):
    house = build(backoff=Backoff(min_s=1.0, max_s=8.0), jitter=0.999)
    await house.join()
    for _ in range(5):
        house.api.fail(SourceProblem.UNAVAILABLE)
    house.api.cut()
    await house.advance(60)
    at_s = [ask.at_s for ask in house.api.asks]
    waits = [later - earlier for earlier, later in itertools.pairwise(at_s[1:])]
    assert waits == pytest.approx([4.0, 8.0, 8.0, 8.0, 8.0], rel=0.01)
    await house.emit(1)
    cut_s = house.loop.now_s
    house.api.cut()
    await house.advance(60)
    assert house.api.asks[-1].at_s - cut_s == pytest.approx(2.0, rel=0.01)


async def test_a_connection_that_opens_and_dies_at_once_does_not_start_the_count_again(build):
    house = build(backoff=Backoff(min_s=1.0, max_s=16.0), jitter=0.999)
    await house.join()
    for _ in range(4):
        house.api.cut()
        await house.advance(20)
    at_s = [ask.at_s for ask in house.api.asks]
    waits = [later - earlier for earlier, later in itertools.pairwise(at_s)]
    assert waits[0] < 3
    assert all(wait > 15 for wait in waits[3:])


async def test_retry_and_retry_after_raise_the_wait(house):
    await house.join()
    house.api.line.retry_s = 7.0
    house.api.cut()
    await house.advance(6.9)
    assert len(house.api.asks) == 1
    house.api.fail(SourceProblem.THROTTLED, retry_after_s=20.0)
    await house.advance(0.2)
    assert len(house.api.asks) == 2
    await house.advance(19.5)
    assert len(house.api.asks) == 2
    await house.advance(1)
    assert len(house.api.asks) == 3
    assert len(house.api.listening) == 1


async def test_when_its_credential_is_refused_it_goes_on_with_another_ones(house):
    alice, bob = await house.join(who=ALICE), await house.join(who=BOB)
    await house.emit(1, 2)
    house.api.refused.add(ALICE)
    house.api.cut()
    house.api.note_ids(3)
    await house.advance(1)
    assert [ask.credential for ask in house.api.asks] == [ALICE, ALICE, BOB]
    assert alice.reader.closing.payload["reason"] == "credential_revoked"
    assert alice.reader.ended
    assert alice.told == ["1", "2", "relay.closing"]
    assert alice.reader.closing.id == "2"
    assert bob.told == ["1", "2", "3"]
    assert house.register.verdicts[-2:] == [("rejected", ALICE), ("accepted", BOB)]


async def test_it_closes_when_nobodys_credential_is_good_any_more(house):
    clients = [await house.join(who=who) for who in (ALICE, BOB)]
    house.api.refused |= {ALICE, BOB}
    house.api.cut()
    await house.advance(1)
    assert [client.reader.closing.payload["reason"] for client in clients] == [
        "credential_revoked",
        "credential_revoked",
    ]
    assert house.hub.facts().feeds == {}
    assert len(house.api.asks) == 3


async def test_403_later_ends_those_with_that_credential(house):
    alice, bob = await house.join(who=ALICE), await house.join(who=BOB)
    house.api.fail(SourceProblem.FORBIDDEN)
    house.api.cut()
    await house.advance(1)
    assert alice.reader.closing.payload["reason"] == "credential_revoked"
    assert bob.reader.closing is None
    assert house.api.line.ask.credential == BOB


async def test_who_was_answered_403_does_not_come_back_by_somebody_elses_right(house):
    alice, bob = await house.join(who=ALICE), await house.join(who=BOB)
    house.api.fail(SourceProblem.FORBIDDEN)
    house.api.cut()
    await house.advance(1)
    refused = await refusal(house.joining(alice.last_id, who=ALICE))
    assert (refused.code, refused.retry_after_s) == (RefusalCode.FORBIDDEN, None)
    other = await house.join(who=ALICE, key=FeedKey("user-1", ACTIVITY))
    assert other.reader.closing is None, "it concerns that stream alone"
    await house.advance(60)
    await house.join(who=ALICE)
    assert bob.reader.closing is None


async def test_a_403_while_the_headers_are_on_their_way_is_not_too_late(house):
    alice, bob = await house.join(who=ALICE), await house.join(who=BOB)
    feed = await house.hub.join(KEY, ALICE, None)
    house.api.fail(SourceProblem.FORBIDDEN)
    house.api.cut()
    await house.advance(1)
    assert alice.reader.closing is not None
    late = Client(chunked=True, reading=True, kernel_bytes=10_000, cost_s=0)
    house.attach(feed, late, ALICE, None)
    await house.emit(1)
    assert late.reader.closing.payload["reason"] == "credential_revoked"
    assert late.ids == []
    assert bob.ids == ["1"]


async def test_a_credential_is_held_for_as_long_as_it_is_in_use_upstream(house):
    """Whoever brought it may have left: what it brings goes to all who stay."""
    alice, bob = await house.join(who=ALICE), await house.join(who=BOB)
    await house.emit(1, 2)
    alice.leave()
    await house.settle()
    assert house.register.held[ALICE] == 1
    assert house.hub.revoke(ALICE) == 0
    await house.settle()
    await house.emit(3)
    assert house.api.line.ask.credential == BOB
    assert bob.told == ["1", "2", "3"]
    assert house.register.held[ALICE] == 0


async def test_a_credential_that_loses_its_right_while_it_opens_opens_nothing(house):
    house.register.withdrawn.add(ALICE)
    refused = await refusal(house.joining(who=ALICE))
    assert refused.code is RefusalCode.UPSTREAM_UNAVAILABLE
    assert len(house.api.asks) == 1
    assert not house.api.listening
    bob = await house.join(who=BOB)
    await house.emit(1)
    assert bob.told == ["1"]


@pytest.mark.parametrize("cursor", ["1", "unheard of", None])
async def test_who_loses_it_on_the_way_in_gets_nothing_not_even_what_is_due(house, cursor):
    """A flush may stand ahead of any callback in the loop."""
    await house.join(who=ALICE)
    await house.emit(1, 2, 3)
    house.register.withdrawn.add(BOB)
    house.api.emit_ids(4)
    bob = await house.join(cursor, who=BOB)
    await house.emit(5)
    assert bob.told == ["relay.closing"]
    assert bob.reader.closing.payload["reason"] == "credential_revoked"
    assert cursor is None or bob.reader.closing.id == cursor
    assert bob.wire.finished


async def test_the_longest_standing_credential_is_asked_with(house):
    first = await house.join(who=ALICE)
    await house.join(who=BOB)
    first.leave()
    await house.settle()
    house.api.cut()
    await house.advance(1)
    assert house.api.line.ask.credential == BOB


async def test_while_it_lingers_the_last_accepted_credential_stands_for_those_who_come_back(house):
    client = await house.join()
    await house.emit(1, 2)
    client.leave()
    await house.settle()
    house.api.cut()
    house.api.note_ids(3)
    await house.advance(2)
    back = await house.join(client.last_id)
    await house.settle()
    assert back.told == ["3"]
    assert house.api.line.ask.credential == ALICE


async def test_what_is_revoked_ends_alone(house):
    alice, bob = await house.join(who=ALICE), await house.join(who=BOB)
    other = await house.join(who=ALICE, key=FeedKey("user-2", DESKTOPS))
    assert house.hub.revoke(ALICE) == 2
    await house.settle()
    assert alice.reader.ended
    assert other.reader.ended
    assert not bob.reader.ended


async def test_a_failure_of_our_own_ends_the_feed_by_its_name(house):
    client = await house.join()

    def broken(_: object) -> None:
        raise ZeroDivisionError

    house.feed.publish = broken
    house.api.emit_ids(1)
    await house.settle()
    assert client.reader.closing.payload["reason"] == "internal_error"
    assert [note[1:] for note in house.journal.notes if note[0] == "error"] == [
        ("feed.failed", {"error": "ZeroDivisionError"})
    ]
    house.journal.notes.clear()


async def test_carol_who_comes_while_upstream_is_away_is_served_when_it_is_back(house):
    await house.join()
    await house.emit(1, 2)
    house.api.up.clear()
    house.api.cut()
    await house.advance(1)
    carol = await house.join("1", who=CAROL)
    await house.settle()
    assert carol.told == ["2"]
    house.api.note_ids(3)
    house.api.up.set()
    await house.settle()
    assert carol.told == ["2", "3"]


async def test_the_ring_holds_one_event_at_least_and_resumes_from_the_place_before_it(build):
    house = build(limits=HistoryLimits(max_events=1))
    client = await house.join()
    await house.emit(1)
    await house.emit(2)
    await house.emit(3)
    house.api.cut()
    house.api.note_ids(4)
    await house.advance(1)
    assert house.api.cursors == ["", "2"]
    assert client.told == ["1", "2", "3", "4"]
