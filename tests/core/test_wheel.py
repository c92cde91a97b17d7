"""The wheel: nothing early, nothing lost, nothing twice, and no work for moments that passed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lebureau_relay.core.wheel import Wheel

MOMENTS = st.floats(0, 1000, allow_nan=False)
SLOTS = st.sampled_from([0.05, 0.1, 0.25, 1.0, 7.0])


@settings(deadline=None, max_examples=120)
@given(SLOTS, st.lists(st.tuples(st.booleans(), MOMENTS, st.floats(0, 50)), max_size=40))
def test_an_item_comes_once_after_its_moment_and_within_a_slot(slot_s, steps):
    """Steps in order of time: add something due after a while, or tick."""
    wheel: Wheel[tuple[float, int]] = Wheel(slot_s)
    waiting: set[tuple[float, int]] = set()
    for count, (tick, now_s, after_s) in enumerate(sorted(steps, key=lambda step: step[1])):
        if not tick:
            item = (now_s + after_s, count)
            wheel.add(item[0], item)
            waiting.add(item)
            continue
        handed = wheel.due(now_s)
        assert len(set(handed)) == len(handed)
        assert set(handed) <= waiting
        waiting -= set(handed)
        assert all(due_s <= now_s for due_s, _ in handed)
        assert all(due_s > now_s - slot_s for due_s, _ in waiting)
    assert set(wheel.due(2000.0)) == waiting
    assert wheel.due(3000.0) == []


def test_the_oldest_come_first_and_those_of_one_slot_in_order():
    wheel: Wheel[str] = Wheel(1.0)
    for due_s, item in [(5.5, "d"), (2.5, "b"), (2.1, "c"), (0.5, "a")]:
        wheel.add(due_s, item)
    assert wheel.due(0.9) == []
    assert wheel.due(10.0) == ["a", "b", "c", "d"]


def test_what_is_overdue_when_it_is_added_comes_at_the_next_tick():
    wheel: Wheel[str] = Wheel(1.0)
    assert wheel.due(100.0) == []
    wheel.add(3.0, "late")
    assert wheel.due(100.5) == []
    assert wheel.due(101.0) == ["late"]


def test_an_item_may_stand_in_several_slots():
    wheel: Wheel[str] = Wheel(1.0)
    for due_s in (1.5, 1.6, 3.5):
        wheel.add(due_s, "a")
    assert wheel.due(2.0) == ["a", "a"]
    assert wheel.due(4.0) == ["a"]


@pytest.mark.timeout(5)
def test_a_pause_of_years_costs_no_more_than_what_is_held():
    wheel: Wheel[str] = Wheel(0.001)
    wheel.due(0.0)
    wheel.add(1.0, "a")
    wheel.add(2.0, "b")
    wheel.add(1e12, "never")
    assert wheel.due(1e10) == ["a", "b"]
    assert wheel.due(1e10) == []


def test_a_clock_that_steps_back_loses_nothing():
    wheel: Wheel[str] = Wheel(1.0)
    wheel.due(100.0)
    wheel.add(100.5, "a")
    assert wheel.due(50.0) == []
    wheel.add(60.0, "b")
    assert wheel.due(61.0) == ["b"]
    assert wheel.due(101.0) == ["a"]
