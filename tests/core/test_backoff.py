"""The wait before asking again: within its bounds, never in step, and upstream's word is heard."""

import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lebureau_relay.core.backoff import MAX_HINT_S, Backoff, spread

ALMOST_ONE = math.nextafter(1.0, 0.0)
UNIFORM = st.floats(0, ALMOST_ONE)
BOUND = st.floats(0.01, 300)
ATTEMPT = st.integers(0, 10**6)


@settings(deadline=None, max_examples=120)
@given(BOUND, BOUND, ATTEMPT, UNIFORM)
def test_without_a_hint_the_wait_stays_within_the_bounds(min_s, max_s, attempt, uniform):
    assume(min_s <= max_s)
    delay_s = Backoff(min_s, max_s).delay_s(attempt, None, lambda: uniform)
    assert min_s <= delay_s <= max_s or delay_s == pytest.approx(max_s)


@settings(deadline=None, max_examples=120)
@given(BOUND, BOUND, ATTEMPT, UNIFORM, st.floats(0) | st.just(math.inf))
def test_a_hint_raises_the_floor_to_five_minutes_at_most(min_s, max_s, attempt, uniform, hint_s):
    assume(min_s <= max_s)
    delay_s = Backoff(min_s, max_s).delay_s(attempt, hint_s, lambda: uniform)
    floor_s = max(min_s, min(hint_s, MAX_HINT_S))
    assert floor_s <= delay_s
    assert delay_s < floor_s + max_s + 0.001


@pytest.mark.parametrize("hint_s", [-1.0, 0.0, math.nan])
def test_a_hint_of_no_use_changes_nothing(hint_s):
    backoff = Backoff()
    assert backoff.delay_s(3, hint_s, lambda: 0.5) == backoff.delay_s(3, None, lambda: 0.5)


def test_the_span_doubles_up_to_its_bound():
    highest_s = [
        Backoff(0.5, 30).delay_s(attempt, None, lambda: ALMOST_ONE) for attempt in range(9)
    ]
    assert highest_s == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30, 30])
    assert {Backoff(0.5, 30).delay_s(attempt, None, lambda: 0.0) for attempt in range(9)} == {0.5}


def test_those_who_were_told_to_wait_alike_do_not_return_in_step():
    """Also at the first attempt, and where a hint is longer than the longest delay."""
    for attempt in (0, 5, 100):
        for hint_s in (0.0, 5.0, 300.0):
            early, late = (
                Backoff(0.5, 30).delay_s(attempt, hint_s, lambda uniform=uniform: uniform)
                for uniform in (0.0, ALMOST_ONE)
            )
            assert late - early >= 0.5 - 1e-9


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1000), UNIFORM)
@example(3.0, 0.0)
def test_a_spread_hint_is_never_shorter_and_at_most_half_longer(base, uniform):
    assert base <= spread(base, lambda: uniform) <= base * 1.5
