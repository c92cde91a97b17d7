"""What operators see of all feeds: in slices, so that ten thousand feeds take no long turn; and of
one identity, what keeps it from its events.
"""

import asyncio

import pytest
from tests.relay.house import DESKTOPS, KEY, credential
from tests.relay.test_slow import ROOM, SMALL, flood

from lebureau_relay.errors import CloseReason
from lebureau_relay.relay import survey
from lebureau_relay.relay.ports import FeedKey, StreamSpec
from lebureau_relay.relay.survey import Survey

ACTIVITY = StreamSpec("activity", "/api/mission-control/activity/stream")


def key(name: str, stream: StreamSpec = DESKTOPS) -> FeedKey:
    return FeedKey(name, stream)


async def crowd(house, sizes: dict[str, int], stream: StreamSpec = DESKTOPS) -> None:
    """So many streams of each identity."""
    for name, streams in sizes.items():
        for _ in range(streams):
            await house.join(key=key(name, stream), who=credential(name))


async def test_feeds_and_identities_with_most_streams_come_first(house):
    await crowd(house, {"a": 1, "b": 3, "c": 2})
    await crowd(house, {"a": 4}, ACTIVITY)
    counted = await Survey(house.hub).count(2, 2)
    assert counted.hub == house.hub.facts()
    assert [(one.identity, one.stream) for one in counted.largest] == [
        ("a", "activity"),
        ("b", "desktops"),
    ]
    assert [(one.identity, one.streams, one.feeds) for one in counted.identities] == [
        ("a", 5, 2),
        ("b", 3, 1),
    ]
    assert counted.identity_count == 3


async def test_the_loop_turns_between_slices(house, monkeypatch):
    monkeypatch.setattr(survey, "_SLICE", 2)
    await crowd(house, {f"user-{n}": 1 for n in range(9)})
    looked: list[int] = []
    add = survey.Tally.add

    def note(tally, feed):
        looked[-1] += 1
        add(tally, feed)

    monkeypatch.setattr(survey.Tally, "add", note)
    counting = asyncio.ensure_future(Survey(house.hub).count(20, 20))
    while not counting.done():
        looked.append(0)
        await asyncio.sleep(0)
    assert sum(looked) == 9
    assert max(looked) <= 2


async def test_the_loop_turns_between_identities_in_detail(house, monkeypatch):
    await crowd(house, {f"user-{n}": 1 for n in range(9)})
    looked: list[int] = []
    detail = survey._in_detail

    def note(feeds):
        looked[-1] += 1
        return detail(feeds)

    monkeypatch.setattr(survey, "_in_detail", note)
    finding = asyncio.ensure_future(Survey(house.hub).find("user"))
    while not finding.done():
        looked.append(0)
        await asyncio.sleep(0)
    assert sum(looked) == 9
    assert max(looked) == 1


async def test_feeds_that_end_meanwhile_are_no_trouble(house, monkeypatch):
    monkeypatch.setattr(survey, "_SLICE", 1)
    await crowd(house, {f"user-{n}": 1 for n in range(6)})
    look = Survey(house.hub)
    asked = [asyncio.ensure_future(one) for one in (look.count(20, 20), look.find("user"))]
    await asyncio.sleep(0)
    await house.hub.close()
    counted, found = await asyncio.gather(*asked)
    assert counted.hub.feeds == {("desktops", "solo"): 1}, "those that it still found alive"
    assert found.count == 0


async def test_who_leaves_while_details_are_gathered_is_left_out(house, monkeypatch):
    monkeypatch.setattr(survey, "_SLICE", 1)
    await crowd(house, {f"user-{n}": 1 for n in range(6)})
    asked = asyncio.ensure_future(Survey(house.hub).find("user"))
    for _ in range(9):  # all six are found, and the first of them looked up
        await asyncio.sleep(0)
    await house.hub.close()
    found = await asked
    assert found.count == 6
    assert [feeds for feeds in found.identities.values() if feeds] == []


async def test_a_hash_is_found_by_its_beginning_in_either_case(house):
    await crowd(house, {"abc1": 1, "abd2": 2, "b": 1})
    look = Survey(house.hub)
    assert list((await look.find("abc1")).identities) == ["abc1"]
    both = await look.find("AB")
    assert (both.by, both.count, list(both.identities)) == ("hash", 2, ["abc1", "abd2"])


async def test_an_event_that_somebody_has_seen_finds_them(house):
    await crowd(house, {"early": 1})
    await crowd(house, {"early": 1}, ACTIVITY)
    await house.emit("evt_é")
    await crowd(house, {"late": 1})
    found = await Survey(house.hub).find("evt_é")
    assert (found.by, list(found.identities)) == ("event", ["early"])
    assert [feed.facts.stream for feed in found.identities["early"]] == ["desktops", "activity"]
    assert (await Survey(house.hub).find("evt")).count == 0, "an event's id is wanted whole"


@pytest.mark.parametrize("text", ["\ud800", "\0", "x" * 300, "~lbr", "a~lbr1"])
async def test_whatever_is_looked_for(house, text):
    await house.join()
    assert (await Survey(house.hub).find(text)).count == 0


async def test_a_stream_in_detail(build):
    house = build(timings=SMALL)
    slow, live = await house.join(**ROOM), await house.join()
    await flood(house, 1, 50)
    await house.advance(10)
    (name, (feed,)), *_ = (await Survey(house.hub).find(KEY.identity)).identities.items()
    assert name == KEY.identity
    assert (feed.facts.subscribers, feed.facts.last_id, feed.slow) == (2, "50", 1)
    assert feed.pending_bytes == slow.wire.get_write_buffer_size() > 0
    first, second = feed.tabs
    assert (first.state, first.behind) == ("paused", 50 - slow.subscriber.offset)
    assert first.last_id == str(slow.subscriber.offset)
    assert first.pending_bytes == feed.pending_bytes
    assert (second.state, second.behind, second.last_id) == ("live", 0, "50")
    assert (second.pending_bytes, second.age_s) == (0, pytest.approx(10, abs=1))
    live.leave()
    slow.leave()


async def test_streams_that_say_goodbye_are_told_of(build):
    house = build(timings=SMALL)
    await house.join(**ROOM)
    await flood(house, 1, 20)
    house.hub.end(None, CloseReason.OPERATOR)
    found = await Survey(house.hub).find(KEY.identity)
    assert [tab.state for tab in found.identities[KEY.identity][0].tabs] == ["ending"]


async def test_what_one_search_shows_is_bounded(house, monkeypatch):
    await crowd(house, {f"many-{n}": 1 for n in range(12)})
    found = await Survey(house.hub).find("many")
    assert (found.count, len(found.identities)) == (12, 10)
    monkeypatch.setattr(survey, "_MAX_TABS", 3)
    monkeypatch.setattr(survey, "_MAX_ASKED", 5)
    await crowd(house, {"big": 6})
    await crowd(house, {"big": 2}, ACTIVITY)
    asked = []
    monkeypatch.setattr(
        "tests.relay.wire.Wire.get_write_buffer_size", lambda wire: asked.append(wire) or 0
    )
    first, second = (await Survey(house.hub).find("big")).identities["big"]
    assert (len(first.tabs), len(second.tabs)) == (3, 0)
    assert first.facts.subscribers == 6
    assert len(set(asked)) == 5


async def test_one_look_at_a_time(house, monkeypatch):
    monkeypatch.setattr(survey, "_SLICE", 1)
    await crowd(house, {f"user-{n}": 1 for n in range(5)})
    look = Survey(house.hub)
    order: list[int] = []

    async def one(n: int) -> None:
        await look.count(20, 20)
        order.append(n)

    asked = [asyncio.ensure_future(one(n)) for n in range(4)]
    await asyncio.sleep(0)
    assert look._looking.locked()
    await asyncio.gather(*asked)
    assert order == [0, 1, 2, 3]
