"""The ring, rule by rule; the model beside this file holds them all together."""

import tracemalloc
from math import inf

import pytest

from lebureau_relay.core.event import MAX_ID_BYTES, Entry, GapCause, Place
from lebureau_relay.core.history import History, HistoryLimits, Standing

HELD, EVICTED = Standing.HELD, Standing.EVICTED
UNKNOWN, LOST = (Standing.UNKNOWN, 0), (Standing.LOST, 0)


def ring(*names: str, limits: HistoryLimits | None = None, floor: str = "") -> History:
    """Entries of ten bytes, one a second; `.` had no id, `!` is a gap."""
    history = History(limits or HistoryLimits(), "e", floor.encode())
    for name in names:
        append(history, name)
    return history


def append(history: History, name: str, size_bytes: int = 10) -> None:
    offset = history.top + 1
    entry_id = {"!": history.place_id(history.top), ".": Place(history.epoch, offset).id}.get(
        name, name.encode()
    )
    gap = GapCause.UPSTREAM if name == "!" else None
    history.append(Entry(offset, entry_id, b"f" * size_bytes, float(offset), gap))


def ids(entries: list[Entry]) -> list[str]:
    return [entry.id.decode() for entry in entries]


@pytest.mark.parametrize(
    "limits",
    [HistoryLimits(max_events=2), HistoryLimits(max_bytes=29), HistoryLimits(max_bytes=20)],
)
def test_count_and_bytes_bound_the_ring(limits):
    history = ring("a", "b", "c", "d", limits=limits)
    assert ids(history.since(0)) == ["c", "d"]
    assert (history.first, history.top, history.size_bytes) == (3, 4, 20)
    assert history.floor_id == b"b"


@pytest.mark.parametrize("frame_bytes", [40, 140, 4_000])
def test_what_it_says_it_takes_is_about_what_it_takes(frame_bytes):
    limits = HistoryLimits(max_events=20_000, max_bytes=1 << 30)
    tracemalloc.start()
    try:
        before_bytes = tracemalloc.get_traced_memory()[0]
        history = History(limits, "e")
        for n in range(10_000):
            entry_id, frame = b"evt_%016d" % n, b"%d" % n * frame_bytes
            history.append(Entry(n + 1, entry_id, frame[:frame_bytes], n / 7))
        taken_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    finally:
        tracemalloc.stop()
    # The allocator's own part is not traced; what is said should be rather too much.
    assert 0.7 < taken_bytes / history.memory_bytes < 1.0


def test_the_newest_entry_is_held_whatever_the_bounds_say():
    history = ring("a", limits=HistoryLimits(max_events=0, max_bytes=0, max_age_s=0))
    append(history, "b", 1000)
    history.expire(1e9)
    for _ in range(5):
        history.shrink()
    assert ids(history.since(0)) == ["b"]


def test_age_bounds_the_ring_when_somebody_looks():
    history = ring("a", "b", "c", limits=HistoryLimits(max_age_s=10))
    history.expire(11.0)
    assert ids(history.since(0)) == ["a", "b", "c"]
    assert history.expires_in_s(11.0) == pytest.approx(history.entry(1).at_s + 10 - 11.0)
    history.expire(12.5)
    assert ids(history.since(0)) == ["c"]
    assert history.expires_in_s(12.5) == inf, "the newest never does"


def test_what_is_let_go_for_good_is_known_by_its_end():
    history = ring("a", "b")
    history.let_go()
    assert (len(history), history.size_bytes) == (0, 0)
    assert history.place_id(history.top) == b"b"
    assert history.find(b"b") == (HELD, history.top)
    assert history.find(b"a") == UNKNOWN


def test_shrinking_gives_up_the_older_half():
    history = ring("a", "b", "c")
    history.shrink()
    assert ids(history.since(0)) == ["b", "c"]
    history.shrink()
    assert (ids(history.since(0)), history.floor_id) == (["c"], b"b")


def test_a_long_life_leaves_no_slots_behind():
    history = ring(limits=HistoryLimits(max_events=10))
    for n in range(1000):
        append(history, f"n{n}")
        assert len(history._entries) <= 10 + 65
    assert ids(history.since(0)) == [f"n{n}" for n in range(990, 1000)]
    assert history.find(b"n990") == (HELD, 991)


def test_a_window_holds_whole_entries_and_at_least_one():
    history = ring("a", "b", "c", "d")
    assert ids(history.window(0, 4, 25)) == ["a", "b"]
    assert ids(history.window(1, 3, 1000)) == ["b", "c"]
    assert ids(history.window(2, 4, 1)) == ["c"]
    assert history.window(4, 4, 1000) == []


def test_a_cursor_stands_where_its_entry_does():
    history = ring("a", "b", ".", "a~lbr1", limits=HistoryLimits(max_events=3))
    assert history.find(b"b") == (HELD, 2)
    assert history.find(b" \tb ") == (HELD, 2)
    assert history.find(b"a~lbr1") == (HELD, 4)
    assert history.find(b"a") == (HELD, 1), "everything after the floor is here"
    assert history.find(b"c") == UNKNOWN
    assert history.find(b"a~lbr7") == UNKNOWN
    assert history.find(b"~lbre-3") == (HELD, 3)
    assert history.find(b"~lbre-1") == (HELD, 1)
    assert history.find(b"~lbre-0") == (EVICTED, 0)
    assert history.find(b"~lbre-5") == LOST, "it has not been given out yet"
    assert history.find(b"~lbrother-3") == LOST


@pytest.mark.parametrize("cursor", [b"", b"  ", b"a\x01", b"\xff", b"x" * (MAX_ID_BYTES + 1)])
def test_what_nobody_can_be_asked_for_is_lost(cursor):
    assert ring("a").find(cursor) == LOST


def test_an_id_that_stands_twice_is_lost_while_the_newer_is_held():
    history = ring("a", "b", "a", "c", limits=HistoryLimits(max_events=4))
    assert history.find(b"a") == LOST
    append(history, "d")
    assert history.find(b"a") == LOST, "its first entry is gone, but who stood there is not"
    append(history, "e")
    append(history, "f")
    assert history.first == 4
    assert history.find(b"a") == UNKNOWN, "as the floor it would name both places"
    assert history.place_id(3) == b"~lbre-3"


def test_the_floor_s_id_is_lost_once_it_comes_again():
    history = ring("b", "a", floor="a")
    assert history.find(b"a") == LOST


def test_nobody_steps_over_a_gap():
    history = ring("a", "!", "b", limits=HistoryLimits(max_events=2))
    assert history.find(b"a") == (HELD, 1), "the gap comes next"
    append(history, "c")
    assert history.find(b"a") == UNKNOWN, "the gap that would have told is gone"
    assert history.place_id(2) == b"~lbre-2"


def test_gaps_are_not_found_by_the_id_they_carry():
    history = ring("a", "!", "!")
    assert ids(history.since(0)) == ["a", "a", "a"]
    assert history.find(b"a") == (HELD, 1)
    assert history.oldest_from_upstream() == history.named(b"a") == history.entry(1)
    assert ring("!").oldest_from_upstream() is None


def test_a_new_epoch_forgets_and_remembers_that_it_forgot():
    history = ring("a", "b", "c", limits=HistoryLimits(max_events=2))
    history.begin_epoch("f")
    assert (len(history), history.top, history.size_bytes) == (0, 3, 0)
    append(history, "b")
    for before in (b"a", b"b", b"c", b"~lbre-3"):
        assert history.find(before) == LOST, "it may mean something else now"
    assert history.find(b"~lbrf-3") == (HELD, 3)


def test_a_refused_cursor_is_lost_and_only_the_last_is_remembered():
    history = ring(floor="a")
    history.retire(b"a")
    assert history.find(b"a ") == LOST
    history.retire(b"b")
    assert history.find(b"b") == LOST
    assert history.find(b"a") == UNKNOWN


def test_entries_that_nobody_was_shown_can_be_taken_back():
    history = ring("a", "b", "c")
    history.truncate(1)
    assert (ids(history.since(0)), history.top, history.size_bytes) == (["a"], 1, 10)
    assert b"b" not in history
    append(history, "b")
    assert history.find(b"b") == (HELD, 2)


def test_taking_back_the_newer_of_two_finds_the_older_again():
    history = ring("a", "b", "a", limits=HistoryLimits(max_events=3))
    history.truncate(2)
    assert history.named(b"a") == history.entry(1)
    for name in "cdef":
        append(history, name)
    assert ids(history.since(0)) == ["d", "e", "f"]


def test_what_was_taken_back_leaves_no_doubt_behind():
    history = ring("a", "a")
    history.truncate(0)
    append(history, "a")
    assert history.find(b"a") == (HELD, 1)


def test_taking_back_more_than_is_held_leaves_the_floor_without_a_name():
    history = ring("a", "b", "c", "d", limits=HistoryLimits(max_events=1))
    history.truncate(2)
    assert (len(history), history.top, history.floor_id) == (0, 2, b"")
    assert history.find(b"c") == UNKNOWN


def test_the_copy_of_a_log_knows_its_floor_only_where_it_has_all():
    source = ring("a", "b", "c").since(1)
    history = ring()
    history.load(1, b"a", 3, source)
    assert (ids(history.since(0)), history.top, history.floor_id) == (["b", "c"], 3, b"a")
    history.load(0, b"x", 3, source)
    assert (history.first, history.floor_id) == (2, b"")
    history.load(3, b"c", 3, ())
    assert (len(history), history.top, history.find(b"c")) == (0, 3, (HELD, 3))


def test_clearing_may_set_where_the_numbering_goes_on():
    history = ring("a", "b", floor="z")
    history.clear()
    assert (len(history), history.top, history.floor_id, history.find(b"a")) == (0, 2, b"", UNKNOWN)
    history.clear(9)
    append(history, "a")
    assert history.find(b"a") == (HELD, 10)


def test_an_id_that_stood_for_something_else_in_the_history_before_is_lost():
    old, new = ring("a", "b"), ring("a")
    append(new, "b", size_bytes=11)
    append(new, "c")
    new.succeed(old)
    assert new.find(b"a") == (HELD, 1)
    assert new.find(b"b") == LOST
    assert new.find(b"c") == (HELD, 3)
    newest = ring("b", "c")
    newest.succeed(new)
    assert newest.find(b"b") == LOST, "also what was lost there already"
