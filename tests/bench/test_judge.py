"""The judge itself: what it must see, and what it must lay at nobody's door."""

from array import array

import pytest
from bench.chaos.judge import Diary, judge

TOP = 6
SAID = [[float(number) for number in range(1, TOP + 1)]]


def diary(numbers, **more) -> Diary:
    times_s = array("d", [float(one) for one in range(10, 10 + len(numbers))])
    return Diary(0, numbers=array("q", numbers), times_s=times_s, **more)


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [
        ([3, 4, 5, 6], (0, 0, 0)),
        ([3, 4, 6], (1, 0, 0)),
        ([3, 4, 5], (1, 0, 0)),
        ([], (1, 0, 0)),
        ([3, 4, 4, 5, 6], (0, 1, 0)),
        ([3, 4, 5, 6, 4, 5, 6], (0, 3, 0)),
        ([3, 5, 4, 6], (0, 0, 1)),
        ([3, 4, 6, 5, 6], (0, 1, 1)),
    ],
)
def test_it_sees_what_is_wrong(numbers, wrong):
    judged = judge([diary(numbers)], SAID)
    assert (judged.lost, judged.repeated, judged.reordered) == wrong
    assert judged.clean == (wrong == (0, 0, 0))
    assert bool(judged.examples) != judged.clean


@pytest.mark.parametrize(
    ("numbers", "gap_at", "lost", "told"),
    [
        ([1, 2, 5, 6], 2, 0, 2),
        ([1, 2, 3, 6], 1, 2, 0),  # two places too early says nothing about this hole
        ([1, 2, 5, 6], 3, 2, 0),
        ([1, 2, 3], 3, 0, 3),
        ([1, 3, 4, 6], 1, 1, 1),
    ],
)
def test_a_gap_excuses_what_is_missing_just_there(numbers, gap_at, lost, told):
    judged = judge([diary(numbers, gaps=[(gap_at, "upstream")])], SAID)
    assert (judged.lost, judged.told, judged.gaps) == (lost, told, 1)
    assert judged.causes == {"upstream": 1}


def test_after_a_gap_what_came_before_may_come_again_in_order():
    judged = judge([diary([1, 2, 3, 2, 3, 4, 5, 6], gaps=[(3, "upstream")])], SAID)
    assert (judged.again, judged.repeated, judged.lost) == (2, 0, 0)
    judged = judge([diary([1, 4, 1, 2, 3, 4, 5, 6], gaps=[(1, "slow"), (2, "upstream")])], SAID)
    assert (judged.again, judged.repeated, judged.reordered, judged.lost) == (4, 0, 0, 0)
    judged = judge([diary([4, 1, 2, 3, 4, 5, 6], gaps=[(1, "upstream")])], SAID)
    assert (judged.again, judged.reordered) == (4, 0), "from before its time, too"
    judged = judge([diary([1, 2, 3, 2, 2, 3, 4, 5, 6], gaps=[(3, "upstream")])], SAID)
    assert (judged.again, judged.repeated) == (2, 1)
    judged = judge([diary([1, 2, 3, 4, 1, 3, 4, 5, 6], gaps=[(4, "upstream")])], SAID)
    assert (judged.again, judged.repeated, judged.lost) == (3, 0, 0)
    judged = judge([diary([1, 2, 3, 4, 3, 4, 5, 4, 6], gaps=[(4, "upstream")])], SAID)
    assert (judged.again, judged.repeated) == (2, 1), "that far, no further"
    judged = judge([diary([1, 2, 1, 2, 3, 4, 3, 4, 5, 6], gaps=[(2, "upstream")])], SAID)
    assert (judged.again, judged.repeated) == (2, 2), "and not once something new has come"


def test_one_event_after_a_gap_excuses_nothing_that_is_missing_behind_it():
    judged = judge([diary([1, 2, 5, 6], gaps=[(1, "upstream")])], SAID)
    assert (judged.lost, judged.told) == (2, 0)


@pytest.mark.parametrize(
    ("claims", "gone", "lost"),
    [
        ([], False, 2),
        ([(11.5, 0)], False, 0),  # it came back without a cursor
        ([(11.5, 2)], False, 2),  # with the right one
        ([(11.5, 3)], False, 1),  # with one of an event that it never handed out
        ([(10.5, 0)], False, 2),  # that was before it had what came last
        ([(13.5, 0)], False, 2),
        ([(11.5, -1)], False, 2),  # nobody knows what it named
        ([], True, 2),  # it gave up, but only after the hole
    ],
)
def test_what_a_client_can_not_do_is_its_own(claims, gone, lost):
    judged = judge([diary([1, 2, 5, 6], claims=claims, gone=gone)], SAID)
    assert (judged.lost, judged.own) == (lost, 2 - lost)


def test_who_gave_up_misses_the_rest_by_itself():
    assert judge([diary([1, 2, 3], gone=True)], SAID).own == 3


def test_a_new_page_goes_on_where_the_old_one_ended():
    one = diary([1, 2, 3])
    one.turn_page()
    one.note(3, 20.0)
    one.note(5, 21.0)
    one.note(6, 22.0)
    judged = judge([one], SAID)
    assert (judged.lost, judged.repeated, judged.deliveries) == (1, 1, 3)
    assert judged.longest_silence_s == 20.0 - 12.0


def test_it_measures_silence_between_events_and_delay_since_they_were_said():
    one = Diary(0, numbers=array("q", [4, 5, 6]), times_s=array("d", [10.0, 10.5, 12.75]))
    judged = judge([one], SAID)
    assert judged.longest_silence_s == 2.25
    assert judged.delays_s == (6.0, 6.75, 6.75)


def test_a_wait_is_no_longer_than_something_had_been_said():
    """The judge's own pauses, and a library's, are no relay's."""
    said = [[1.0, 2.0, 30.0, 30.5]]
    times_s = array("d", [1.1, 2.1, 30.2, 33.0])
    crowd = Diary(0, numbers=array("q", [1, 2, 3, 4]), times_s=times_s)
    assert judge([crowd], said).crowd_wait_s == pytest.approx(2.5)
    lossy = Diary(0, numbers=array("q", [1, 4]), times_s=array("d", [1.1, 33.0]))
    assert judge([lossy], said).crowd_wait_s == pytest.approx(31.0), "2 was said at 2"
    late = Diary(0, numbers=array("q", [1, 2, 3, 4]), times_s=array("d", [9.0, 9.5, 31.0, 31.0]))
    assert judge([late], said).crowd_wait_s == pytest.approx(1.0), "what it came in with is no wait"
    real = Diary(0, "curl", numbers=array("q", [1, 4]), times_s=array("d", [1.1, 33.0]))
    assert judge([crowd, real], said).crowd_wait_s == pytest.approx(2.5)


def test_a_gap_speaks_for_all_since_the_event_that_it_names():
    """What a catch-up brought before upstream was found out."""
    told = diary([1, 4, 5, 6], gaps=[(3, "unknown_id")])
    assert judge([told], SAID).lost == 2
    told.sure = [1]
    judged = judge([told], SAID)
    assert (judged.lost, judged.told, judged.repeated) == (0, 2, 0)
    told.sure = [4]
    assert judge([told], SAID).lost == 2, "sure of 4, it says nothing of 2"
    again = diary([1, 2, 3, 1, 2, 3, 4, 5, 6], gaps=[(5, "unknown_id")])
    again.sure = [3]
    judged = judge([again], SAID)
    assert (judged.again, judged.repeated, judged.lost) == (3, 0, 0)
