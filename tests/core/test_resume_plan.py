"""What upstream is asked for after a break, and what has to come back first, ring by ring."""

import pytest

from lebureau_relay.core.event import Entry, GapCause, Place
from lebureau_relay.core.history import History, HistoryLimits, ResumePlan

ROOMY = HistoryLimits()


def ring(names: str, floor: str = "", limits: HistoryLimits = ROOMY) -> History:
    """A history by the ids of its entries: `.` had none, `!` is a gap, `+x` was too big."""
    history = History(limits, "e", floor.encode())
    for name in names.split():
        offset = history.top + 1
        gap = {"!": GapCause.UPSTREAM, "+": GapCause.OVERSIZE}.get(name[0])
        entry_id = name.lstrip("+").encode()
        if name == ".":
            entry_id = Place("e", offset).id
        elif name == "!":
            entry_id = history.place_id(history.top)
        history.append(Entry(offset, entry_id, b"%d" % offset, 0.0, gap))
    return history


def plan(history: History) -> tuple[str, int, str]:
    cursor, skip, run = history.plan_resume()
    return cursor.decode(), skip, " ".join(entry.id.decode() for entry in run)


NOTHING = ("", 0, "")


@pytest.mark.parametrize(
    ("names", "floor", "expected"),
    [
        # the second-newest id, and everything after it
        ("a b", "", ("a", 0, "b")),
        ("a b c", "", ("b", 0, "c")),
        ("a b b~lbr1 b~lbr2", "", ("a", 0, "b b~lbr1 b~lbr2")),
        ("a a~lbr1 b", "", ("a", 0, "a~lbr1 b")),
        ("a +b", "", ("a", 0, "b")),
        # an id that stands here only in what was counted from it
        ("a b~lbr1", "", ("a", 0, "b~lbr1")),
        ("a b~lbr1 c", "", ("b", 0, "b~lbr1 c")),
        ("b~lbr3 b~lbr4 c", "", ("b", 2, "b~lbr3 b~lbr4 c")),
        ("b~lbr3 c d~lbr2", "", ("c", 0, "d~lbr2")),
        # what was lost in a gap would come back first: before it, nothing proves what stands after
        ("a ! b", "", ("b", 0, "")),
        ("a ! b b~lbr1", "", ("b", 0, "b~lbr1")),
        ("a ! b c", "", ("b", 0, "c")),
        ("! b", "a", ("b", 0, "")),
        ("a b !", "", ("a", 0, "b")),
        ("b !", "a", ("a", 0, "b")),
        # one id: what follows it, proved by what is here of that
        ("a", "", ("a", 0, "")),
        ("a a~lbr1", "", ("a", 0, "a~lbr1")),
        ("a~lbr1", "", ("a", 0, "a~lbr1")),
        ("a~lbr3 a~lbr4", "", ("a", 2, "a~lbr3 a~lbr4")),
        # the place before the oldest entry may name the second
        ("b", "a", ("a", 0, "b")),
        ("b", "a~lbr2", ("a", 2, "b")),
        ("b~lbr3", "a", ("a", 0, "b~lbr3")),
        ("b~lbr3", "b~lbr2", ("b", 2, "b~lbr3")),
        ("b~lbr1", "b", ("b", 0, "b~lbr1")),
        ("b~lbr2 c", "a", ("b", 1, "b~lbr2 c")),
        ("", "a", ("a", 0, "")),
        ("", "a~lbr2", ("a", 2, "")),
        ("b", "~lbre-0", ("b", 0, "")),
        ("b", "a\x01", ("b", 0, "")),
        # upstream gave no id: nothing to ask for, and nothing before it
        ("", "", NOTHING),
        (".", "", NOTHING),
        ("a b .", "", NOTHING),
        ("!", "", NOTHING),
        ("a . b", "", ("b", 0, "")),
        ("a . b b~lbr1", "", ("b", 0, "b~lbr1")),
        ("a . b~lbr2 c", "", ("b", 1, "b~lbr2 c")),
        (". b c", "a", ("b", 0, "c")),
        # an id that no request head can carry is no cursor, but it has to come back
        ("a b\x01 c", "", ("a", 0, "b\x01 c")),
        ("a b\x01", "", ("a", 0, "b\x01")),
        ("a\x01 b", "", ("b", 0, "")),
        ("a\x01 b\x01", "", NOTHING),
        ("b\x01 b\x01~lbr1", "", NOTHING),
        # an id that stands here twice: a run of such may come from elsewhere
        ("a b b", "", ("a", 0, "b b")),
        ("a b c b", "", ("c", 0, "b")),
        ("a b a b", "", NOTHING),
        ("a a", "", NOTHING),
        ("a b a b c", "", ("b", 0, "c")),
        ("a b ! a b c", "", ("b", 0, "c")),
        ("a b ! a b", "", NOTHING),
        ("a a a~lbr1", "", ("a", 0, "a~lbr1")),
        ("a a~lbr1 a a~lbr1", "", NOTHING),
        ("a b~lbr2 b b~lbr1 b", "", ("a", 0, "b~lbr2 b b~lbr1 b")),
        ("a", "a", NOTHING),
    ],
)
def test_what_is_asked_for_and_what_must_come_back(names, floor, expected):
    assert plan(ring(names, floor)) == expected


def test_a_place_that_was_evicted_still_names_the_second_id():
    history = ring("a a~lbr1 b c", limits=HistoryLimits(max_events=1))
    assert history.floor_id == b"b"
    assert plan(history) == ("b", 0, "c")
    history = ring("a a~lbr1 b", limits=HistoryLimits(max_events=1))
    assert plan(history) == ("a", 1, "b")


def test_an_evicted_gap_leaves_no_name_behind():
    history = ring("a ! b", limits=HistoryLimits(max_events=1))
    assert plan(history) == ("b", 0, "")


@pytest.mark.parametrize(
    ("names", "floor", "held", "doubted"),
    [
        ("a ! b", "", 9, True),
        ("a ! b", "", 1, True),  # the gap is let go
        ("a ! b c", "", 1, False),
        ("a ! b", "", 2, True),
        ("a ! b c", "", 9, False),
        ("a ! b b~lbr1", "", 9, False),
        ("a", "", 9, False),
        ("a", "x", 9, False),
        ("a a", "", 1, False),
        ("a b", "", 1, False),
        ("+a b", "", 9, False),
        ("a !", "", 9, False),
        ("! a !", "", 9, True),
        ("", "a", 9, False),
    ],
)
def test_one_id_after_a_gap_of_upstreams_is_doubted(names, floor, held, doubted):
    history = ring(names, floor, HistoryLimits(max_events=held))
    assert history.knows_one_since_gap is doubted


def test_a_copy_of_a_log_does_not_know_what_the_log_has_let_go():
    history = ring("a ! b", "", HistoryLimits(max_events=1))
    history.load(0, b"", 3, history.since(0))
    assert not history.knows_one_since_gap


def test_a_blank_id_is_no_cursor():
    history = ring("a")
    history.append(Entry(2, b"  ", b"f", 0.0))
    assert plan(history) == ("a", 0, "  ")
    history = History(ROOMY, "e")
    history.append(Entry(1, b"  ", b"f", 0.0))
    assert history.plan_resume() == ResumePlan(b"")


def test_blanks_at_the_ends_of_an_id_are_not_asked_for():
    """A request head would lose them (RFC 9110, section 5.5)."""
    history = History(ROOMY, "e")
    for offset, name in enumerate([b" a ", b" b "], 1):
        history.append(Entry(offset, name, b"f", 0.0))
    assert history.plan_resume().cursor == b"a"
