"""The log of a feed: appended by whoever holds the lease, read by everybody, bounded."""

import asyncio

import pytest
from tests.broker.stands import Member, begun, entries, offsets

from lebureau_relay.core.event import Entry, GapCause
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.relay.ports import Verdict

ALL_BYTES = bytes(range(256))


async def held(stand, owner, after: int = 0) -> list[int]:
    page = await owner.read(stand.feed, after)
    assert page is not None
    return offsets(page.entries)


async def test_there_is_none_at_first(stand):
    broker = await stand.broker()
    assert await broker.read(stand.feed, 0) is None
    token = await broker.take(stand.feed, wanted=False)
    assert await broker.append(stand.feed, token, "e1", 0, entries(1, 1)) is Verdict.MOVED
    assert await broker.read(stand.feed, 0) is None


async def test_it_begins_empty(stand):
    owner, _ = await begun(stand)
    page = await owner.read(stand.feed, 0)
    assert (page.epoch, page.base, page.floor_id, page.top) == ("e1", 0, b"", 0)
    assert page.entries == ()


async def test_it_begins_anywhere(stand):
    owner = await stand.broker()
    token = await owner.take(stand.feed, wanted=False)
    begin = owner.begin(stand.feed, token, "e7", 41, ALL_BYTES, entries(42, 44))
    assert await begin is Verdict.TAKEN
    page = await owner.read(stand.feed, 0)
    assert (page.epoch, page.base, page.floor_id, page.top) == ("e7", 41, ALL_BYTES, 44)
    assert offsets(page.entries) == [42, 43, 44]


async def test_others_read_what_was_appended_in_order(stand):
    owner, token = await begun(stand)
    said = entries(1, 5)
    assert await owner.append(stand.feed, token, "e1", 0, said[:1]) is Verdict.TAKEN
    assert await owner.append(stand.feed, token, "e1", 1, said[1:]) is Verdict.TAKEN
    page = await (await stand.broker()).read(stand.feed, 0)
    assert (page.epoch, page.top) == ("e1", 5)
    facts = [(one.offset, one.id, one.frame, one.gap) for one in page.entries]
    assert facts == [(one.offset, one.id, one.frame, one.gap) for one in said]


async def test_appends_of_one_turn_are_taken_in_order(stand):
    owner, token = await begun(stand)
    verdicts = await asyncio.gather(
        *(owner.append(stand.feed, token, "e1", n, entries(n + 1, n + 1)) for n in range(6))
    )
    assert verdicts == [Verdict.TAKEN] * 6
    assert await held(stand, owner) == [1, 2, 3, 4, 5, 6]


async def test_feeds_have_nothing_to_do_with_each_other(stand):
    owner, token = await begun(stand, 2)
    assert await owner.append("other", token, "e1", 2, entries(3, 3)) is Verdict.FENCED
    assert await owner.read("other", 0) is None


async def test_bytes_come_back_as_they_went(stand):
    owner, token = await begun(stand)
    said = [
        Entry(1, ALL_BYTES, ALL_BYTES * 2, 0.0),
        Entry(2, b"", b"\r\n\0", 0.0),
        Entry(3, b"-1", b"*1\r\n$4\r\nPING\r\n", 0.0),
        Entry(4, "é☃".encode(), b"", 0.0),
    ]
    assert await owner.append(stand.feed, token, "e1", 0, said) is Verdict.TAKEN
    page = await owner.read(stand.feed, 0)
    assert [(one.id, one.frame) for one in page.entries] == [(one.id, one.frame) for one in said]


@pytest.mark.parametrize("gap", [None, *GapCause])
async def test_gaps_come_back_with_their_cause(stand, gap):
    owner, token = await begun(stand)
    said = entries(1, 1, gap=gap)
    assert await owner.append(stand.feed, token, "e1", 0, said) is Verdict.TAKEN
    page = await owner.read(stand.feed, 0)
    assert [one.gap for one in page.entries] == [gap]


async def test_it_is_read_after_an_offset(stand):
    owner, _ = await begun(stand, 5)
    assert await held(stand, owner, 3) == [4, 5]
    for after in (5, 9):
        page = await owner.read(stand.feed, after)
        assert (page.entries, page.top) == ((), 5)


async def test_a_look_is_one_moment(stand):
    """Top and entries fit together, whatever is appended meanwhile."""
    owner, token = await begun(stand)
    reader = await stand.broker()
    writing = asyncio.ensure_future(append_one_by_one(stand, owner, token, 200))
    looks = 0
    while not writing.done():
        page = await reader.read(stand.feed, 0)
        found = offsets(page.entries)
        assert found == list(range(page.top - len(found) + 1, page.top + 1))
        assert found or page.top == 0
        looks += 1
        await asyncio.sleep(0)
    await writing
    assert looks > 1


async def append_one_by_one(stand, owner, token, last: int) -> None:
    for n in range(last):
        assert await owner.append(stand.feed, token, "e1", n, entries(n + 1, n + 1)) is (
            Verdict.TAKEN
        )
        await asyncio.sleep(0)


async def test_without_the_lease_nothing_is_taken(stand):
    owner, token = await begun(stand, 1)
    other = await stand.broker()
    for bad in ("", "nobody:1:x", token + "x", token[:-1]):
        assert await other.append(stand.feed, bad, "e1", 1, entries(2, 2)) is Verdict.FENCED
        assert await other.begin(stand.feed, bad, "e2", 0, b"", ()) is Verdict.FENCED
    await owner.give(stand.feed, token, if_wanted=False)
    assert await owner.append(stand.feed, token, "e1", 1, entries(2, 2)) is Verdict.FENCED
    page = await owner.read(stand.feed, 0)
    assert (page.epoch, page.top) == ("e1", 1)


async def test_the_next_owner_goes_on_where_the_last_one_was(stand):
    first, token = await begun(stand, 3)
    await first.give(stand.feed, token, if_wanted=False)
    second = await stand.broker()
    token = await second.take(stand.feed, wanted=False)
    page = await second.read(stand.feed, 0)
    assert await second.append(stand.feed, token, page.epoch, page.top, entries(4, 4)) is (
        Verdict.TAKEN
    )
    assert await held(stand, first) == [1, 2, 3, 4]


async def test_another_epoch_is_not_appended_to(stand):
    owner, token = await begun(stand, 3)
    assert await owner.append(stand.feed, token, "e2", 3, entries(4, 4)) is Verdict.MOVED
    assert await held(stand, owner) == [1, 2, 3]


@pytest.mark.parametrize("after", [0, 2, 4])
async def test_nothing_is_appended_elsewhere_than_at_the_top(stand, after):
    owner, token = await begun(stand, 3)
    said = entries(after + 1, after + 1)
    assert await owner.append(stand.feed, token, "e1", after, said) is Verdict.MOVED
    assert await held(stand, owner) == [1, 2, 3]


async def test_a_repeated_append_changes_nothing(stand):
    """Its answer may have been lost: to repeat it tells so, and to read tells what is held."""
    owner, token = await begun(stand, 2)
    said = entries(3, 4)
    assert await owner.append(stand.feed, token, "e1", 2, said) is Verdict.TAKEN
    assert await owner.append(stand.feed, token, "e1", 2, said) is Verdict.MOVED
    page = await owner.read(stand.feed, 2)
    assert [(one.offset, one.frame) for one in page.entries] == [
        (one.offset, one.frame) for one in said
    ]


async def test_a_repeated_begin_ends_the_same(stand):
    owner, token = await begun(stand, 2)
    for _ in range(2):
        begin = owner.begin(stand.feed, token, "e2", 7, b"x", entries(8, 9))
        assert await begin is Verdict.TAKEN
    page = await owner.read(stand.feed, 0)
    assert (page.epoch, page.base, page.floor_id, page.top) == ("e2", 7, b"x", 9)
    assert offsets(page.entries) == [8, 9]


async def test_a_new_log_holds_nothing_of_the_old_one(stand):
    owner, token = await begun(stand, 5)
    begin = owner.begin(stand.feed, token, "e2", 2, b"", entries(3, 3))
    assert await begin is Verdict.TAKEN
    page = await owner.read(stand.feed, 0)
    assert (page.epoch, page.top, offsets(page.entries)) == ("e2", 3, [3])
    assert await owner.append(stand.feed, token, "e2", 3, entries(4, 4)) is Verdict.TAKEN


async def test_it_is_bounded_by_count(seats):
    stand = seats(HistoryLimits(max_events=4, max_bytes=10_000, max_age_s=60))
    owner, token = await begun(stand, 3)
    await owner.append(stand.feed, token, "e1", 3, entries(4, 4))
    assert await held(stand, owner) == [1, 2, 3, 4]
    await owner.append(stand.feed, token, "e1", 4, entries(5, 6))
    assert await held(stand, owner) == [3, 4, 5, 6]
    await owner.append(stand.feed, token, "e1", 6, entries(7, 20))
    page = await owner.read(stand.feed, 0)
    assert (page.top, offsets(page.entries)) == (20, [17, 18, 19, 20])


async def test_it_is_bounded_by_bytes(seats):
    stand = seats(HistoryLimits(max_events=100, max_bytes=1000, max_age_s=60))
    owner, token = await begun(stand)
    await owner.append(stand.feed, token, "e1", 0, entries(1, 4, size_bytes=250))
    assert await held(stand, owner) == [1, 2, 3, 4]
    await owner.append(stand.feed, token, "e1", 4, entries(5, 5, size_bytes=251))
    assert await held(stand, owner) == [3, 4, 5]
    await owner.append(stand.feed, token, "e1", 5, entries(6, 6, size_bytes=10))
    assert await held(stand, owner) == [3, 4, 5, 6]


async def test_a_log_that_begins_too_big_is_cut(seats):
    stand = seats(HistoryLimits(max_events=4, max_bytes=10_000, max_age_s=60))
    owner, _ = await begun(stand, 9)
    page = await owner.read(stand.feed, 0)
    assert (page.base, page.top, offsets(page.entries)) == (0, 9, [6, 7, 8, 9])


@pytest.mark.parametrize(
    "limits",
    [HistoryLimits(1, 10_000, 60), HistoryLimits(9, 1, 60), HistoryLimits(9, 10_000, 0.0001)],
    ids=["count", "bytes", "age"],
)
async def test_the_newest_is_always_held(seats, limits):
    stand = seats(limits)
    owner, token = await begun(stand)
    for n in range(3):
        assert await owner.append(stand.feed, token, "e1", n, entries(n + 1, n + 1)) is (
            Verdict.TAKEN
        )
        await asyncio.sleep(0.01)  # older than any of these ages
    assert await held(stand, owner) == [3]


async def test_it_is_bounded_by_age(seats):
    stand = seats(HistoryLimits(max_events=100, max_bytes=10_000, max_age_s=0.5))
    owner, token = await begun(stand, 2)
    member = Member(token=token)
    owner.enter(stand.feed, member)
    await asyncio.sleep(0.3)
    await owner.append(stand.feed, token, "e1", 2, entries(3, 3))
    assert await held(stand, owner) == [1, 2, 3]
    await asyncio.sleep(0.3)
    await owner.append(stand.feed, token, "e1", 3, entries(4, 4))
    assert await held(stand, owner) == [3, 4]
