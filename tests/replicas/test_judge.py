"""The judge itself: what it must see."""

import pytest
from tests.replicas.judge import Diary, judge


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
    diary = Diary(0, numbers=numbers, times_s=[float(one) for one in range(len(numbers))])
    judged = judge([diary], tops=[6])
    assert (judged.lost, judged.repeated, judged.reordered) == wrong
    assert judged.clean == (wrong == (0, 0, 0))
    assert bool(judged.examples) != judged.clean


def test_it_measures_silence_between_events_only():
    diary = Diary(0, numbers=[1, 2, 3], times_s=[10.0, 10.5, 12.75])
    assert judge([diary], tops=[3]).longest_silence_s == 2.25
