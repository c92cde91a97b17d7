"""A feed begins and ends: opened once for however many ask, kept warm after the last, refused for
good reasons only, and not asked for again at once.
"""

import asyncio

import pytest
from tests.relay.house import ALICE, DESKTOPS, KEY, credential, refusal

from lebureau_relay.core.backoff import Backoff
from lebureau_relay.errors import RefusalCode, SourceProblem
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.ports import FeedKey, StreamSpec
from lebureau_relay.relay.survey import Survey

BOB = credential("bob")


async def test_a_hundred_joins_in_one_instant_open_one_subscription(house):
    house.api.up.clear()
    joins = [house.joining() for _ in range(100)]
    await house.settle()
    house.api.up.set()
    clients = await asyncio.gather(*joins)
    await house.emit(1, 2)
    assert len(house.api.asks) == 1
    assert all(client.ids == ["1", "2"] for client in clients)
    assert house.meter.replays == [("fresh", 0)] * 100


async def test_a_warm_feed_is_joined_without_waiting(house):
    await house.join()
    assert house.hub.is_warm(KEY)
    joining = house.hub.join(KEY, ALICE, None)
    with pytest.raises(StopIteration):  # it runs to its end without a turn of the loop
        joining.send(None)
    assert len(house.api.asks) == 1


async def test_each_stream_and_query_and_identity_has_a_feed_of_its_own(house):
    activity = StreamSpec("activity", "/api/mission-control/activity/stream")
    for key in (KEY, FeedKey("user-1", activity), FeedKey("user-1", DESKTOPS, "view=all")):
        await house.join(key=key)
    await house.join(key=FeedKey("user-2", DESKTOPS), who=BOB)
    assert len(house.api.listening) == 4
    facts = house.hub.facts()
    assert facts.streams == {"desktops": 3, "activity": 1}
    assert facts.feeds == {("desktops", "solo"): 3, ("activity", "solo"): 1}
    assert facts.upstream == {("desktops", "open"): 3, ("activity", "open"): 1}
    counted = await Survey(house.hub).count(20, 20)
    assert counted.hub == facts
    assert {one.last_id for one in counted.largest} == {f"~lbre{epoch}-0" for epoch in range(1, 5)}


async def test_a_joiner_that_is_cancelled_while_opening_disturbs_no_other(house):
    house.api.up.clear()
    first, second, third = (house.joining(who=who) for who in (BOB, ALICE, BOB))
    await house.settle()
    first.cancel()
    third.cancel()
    await house.settle()
    house.api.up.set()
    client = await second
    await house.emit(1)
    assert client.ids == ["1"]
    assert len(house.api.asks) == 1


async def test_the_feed_stays_for_a_while_when_the_only_joiner_is_cancelled(house):
    house.api.up.clear()
    only = house.joining()
    await house.settle()
    only.cancel()
    await house.settle()
    house.api.up.set()
    await house.advance(29)
    assert house.hub.is_warm(KEY)
    await house.advance(2)
    assert not house.hub.is_warm(KEY)
    assert not house.api.listening


async def test_an_opening_that_nobody_waits_for_is_given_up(house):
    house.api.up.clear()
    only = house.joining()
    await house.settle()
    only.cancel()
    await house.advance(32)
    assert house.hub.facts().feeds == {}
    assert house.alive() == set()


async def test_it_lingers_after_its_last_client_and_then_closes(house):
    client = await house.join()
    await house.emit(1)
    await house.advance(100)
    client.leave()
    await house.settle()
    await house.advance(29)
    await house.emit(2)
    back = await house.join(client.last_id)
    await house.settle()
    assert back.ids == ["2"], "nothing was lost meanwhile"
    assert len(house.api.asks) == 1
    back.leave()
    await house.advance(32)
    assert house.hub.facts().feeds == {}
    assert house.alive() == set()
    await house.join()
    assert len(house.api.asks) == 2


async def test_without_linger_it_still_waits_for_a_client_whose_headers_are_on_their_way(build):
    house = build(timings=StreamTimings(linger_s=0.0))
    feed = await house.hub.join(KEY, ALICE, None)
    await house.advance(0.9)
    assert house.hub.is_warm(KEY)
    await house.advance(0.3)
    assert not house.hub.is_warm(KEY)
    assert feed.state == "closed"


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (SourceProblem.UNUSABLE, RefusalCode.UPSTREAM_ERROR),
        (SourceProblem.THROTTLED, RefusalCode.UPSTREAM_UNAVAILABLE),
        (SourceProblem.UNAVAILABLE, RefusalCode.UPSTREAM_UNAVAILABLE),
        (SourceProblem.ENDED, RefusalCode.UPSTREAM_ENDED),
        (SourceProblem.FORBIDDEN, RefusalCode.FORBIDDEN),
        (SourceProblem.UNAUTHORIZED, RefusalCode.INVALID_CREDENTIAL),
    ],
)
async def test_a_refusal_reaches_everybody_who_waits(house, problem, code):
    house.api.up.clear()
    joins = [house.joining() for _ in range(3)]
    await house.settle()
    house.api.fail(problem)
    house.api.up.set()
    refusals = [await refusal(join) for join in joins]
    assert [one.code for one in refusals] == [code] * 3
    assert len(house.api.asks) == 1
    assert house.hub.facts().feeds == {}
    verdict = "rejected" if problem is SourceProblem.UNAUTHORIZED else "undecided"
    assert house.register.verdicts == [(verdict, ALICE)]


@pytest.mark.parametrize("problem", [SourceProblem.UNAUTHORIZED, SourceProblem.FORBIDDEN])
async def test_a_bad_credential_is_refused_alone(house, problem):
    house.api.up.clear()
    bad, good, bad_too = (house.joining(who=who) for who in (BOB, ALICE, BOB))
    await house.settle()
    house.api.fail(problem)
    house.api.up.set()
    assert (await refusal(bad)).code.status in (401, 403)
    assert (await refusal(bad_too)).code.status in (401, 403)
    client = await good
    await house.emit(1)
    assert client.ids == ["1"]
    assert [ask.credential for ask in house.api.asks] == [BOB, ALICE]
    assert house.register.verdicts[-1] == ("accepted", ALICE)


async def test_a_failed_opening_is_not_repeated_at_once(build):
    house = build(backoff=Backoff(min_s=2.0, max_s=30.0))
    house.api.fail(SourceProblem.UNAVAILABLE)
    first = await refusal(house.join())
    assert first.retry_after_s == 2.0
    await house.advance(0.5)
    again = await refusal(house.join())
    assert again.code is RefusalCode.UPSTREAM_UNAVAILABLE
    assert again.retry_after_s == pytest.approx(1.5)
    assert len(house.api.asks) == 1
    await house.advance(1.6)
    await house.join()
    assert len(house.api.asks) == 2


async def test_openings_that_fail_in_a_row_are_spaced_ever_wider(build):
    house = build(backoff=Backoff(min_s=1.0, max_s=30.0), jitter=0.5)
    waits = []
    for _ in range(4):
        house.api.fail(SourceProblem.UNAVAILABLE)
        waits.append((await refusal(house.join())).retry_after_s)
        await house.advance(waits[-1] + 0.1)
    assert waits == [1.5, 2.5, 4.5, 8.5]
    client = await house.join()
    await house.emit(1)
    client.leave()
    await house.advance(40)
    house.api.fail(SourceProblem.UNAVAILABLE)
    assert (await refusal(house.join())).retry_after_s == 1.5, "something has worked in between"


async def test_what_upstream_asks_for_raises_the_wait(house):
    house.api.fail(SourceProblem.THROTTLED, retry_after_s=17.0)
    assert (await refusal(house.join())).retry_after_s == 17.0
    await house.advance(16)
    await refusal(house.join())
    assert len(house.api.asks) == 1


async def test_other_feeds_are_not_held_off(house):
    house.api.fail(SourceProblem.UNAVAILABLE)
    await refusal(house.join())
    await house.join(key=FeedKey("user-2", DESKTOPS), who=BOB)
    assert len(house.api.asks) == 2


async def test_the_end_of_a_stream_upstream_holds_for_the_longest_wait(build):
    house = build(backoff=Backoff(min_s=0.5, max_s=20.0))
    house.api.fail(SourceProblem.ENDED)
    assert (await refusal(house.join())).code is RefusalCode.UPSTREAM_ENDED
    await house.advance(19)
    assert (await refusal(house.join())).code is RefusalCode.UPSTREAM_ENDED
    assert len(house.api.asks) == 1
    await house.advance(2)
    await house.join()


async def test_a_stream_that_ends_upstream_ends_open_ones_too(house):
    clients = [await house.join() for _ in range(2)]
    await house.emit(1)
    house.api.fail(SourceProblem.ENDED)
    house.api.cut()
    await house.advance(1)
    for client in clients:
        assert client.reader.closing.payload["reason"] == "upstream_ended"
        assert client.reader.ended
        assert client.wire.finished
    assert house.meter.ends == ["upstream_ended"] * 2
    assert (await refusal(house.join())).code is RefusalCode.UPSTREAM_ENDED


async def test_a_first_cursor_that_upstream_rejects_is_asked_once_more_without_and_told(house):
    house.api.rejects_unknown = True
    client = await house.join("stale")
    await house.emit(1)
    assert house.api.cursors == ["stale", ""]
    assert client.gap == {"cause": "unknown_id", "lastEventId": "stale"}
    assert client.told == ["relay.gap", "1"]
    other = await house.join("stale")
    await house.settle()
    assert other.told == ["relay.gap"], "whoever comes with it is told"
    assert house.api.cursors == ["stale", ""]


async def test_a_cursor_that_never_goes_upstream_is_told(house):
    client = await house.join("~lbrold-17")
    await house.emit(1)
    assert house.api.cursors == [""]
    assert client.gap == {"cause": "unknown_id", "lastEventId": "~lbrold-17"}
    assert client.told == ["relay.gap", "1"]


async def test_rejected_with_and_without_cursor_is_a_refusal(house):
    house.api.fail(SourceProblem.CURSOR_REJECTED)
    house.api.fail(SourceProblem.UNUSABLE)
    assert (await refusal(house.join("stale"))).code is RefusalCode.UPSTREAM_ERROR
    assert house.api.cursors == ["stale", ""]


async def test_a_first_cursor_continues_where_upstream_knows_it(house):
    house.api.note_ids(1, 2, 3)
    client = await house.join("1")
    await house.emit(4)
    assert client.told == ["2", "3", "4"]
    assert [outcome for outcome, _ in house.meter.replays] == ["resumed"]
