"""GCRA: what a minute's budget allows, to the microsecond, and that its table stays small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lebureau_relay.core.limiter import Limiter

START_S = 1_000_000.0  # a clock that has been running for days: float sums are at their worst


@pytest.mark.parametrize("per_minute", [1, 5, 7, 8, 120, 999])
def test_the_whole_minute_at_once_and_then_one_at_a_time(per_minute: int) -> None:
    limiter = Limiter[str](per_minute)
    burst = [limiter.check("a", START_S) for _ in range(per_minute)]
    assert [d.remaining for d in burst] == list(reversed(range(per_minute)))
    assert all((d.allowed and d.retry_after_s == 0) or d.remaining == 0 for d in burst)
    refused = limiter.check("a", START_S)
    assert not refused.allowed
    assert refused.remaining == 0
    assert refused.reset_s == pytest.approx(60)
    assert refused.retry_after_s == pytest.approx(60 / per_minute)
    later = START_S + 60 / per_minute
    assert not limiter.check("a", later - 0.001).allowed
    assert limiter.check("a", later).allowed
    assert not limiter.check("a", later).allowed


def test_the_last_of_a_burst_says_when_the_next_may_come() -> None:
    limiter = Limiter[str](2)
    first, last = limiter.check("a", START_S), limiter.check("a", START_S)
    assert (first.remaining, first.retry_after_s) == (1, 0)
    assert (last.remaining, last.retry_after_s) == (0, pytest.approx(30))


def test_refused_attempts_spend_nothing() -> None:
    limiter = Limiter[str](1)
    limiter.check("a", START_S)
    for second in range(1, 60):
        assert not limiter.check("a", START_S + second).allowed
    assert limiter.check("a", START_S + 60).allowed


def test_peeking_spends_nothing() -> None:
    limiter = Limiter[str](1)
    assert limiter.peek("a", START_S) == limiter.peek("a", START_S)
    assert limiter.peek("a", START_S).remaining == 1
    assert len(limiter) == 0
    assert limiter.spend("a", START_S).allowed
    assert not limiter.peek("a", START_S).allowed


def test_what_is_counted_afterwards_can_overspend_but_never_by_more_than_the_budget() -> None:
    limiter = Limiter[str](5)
    for _ in range(1000):
        limiter.spend("a", START_S)
    decision = limiter.peek("a", START_S)
    assert (decision.reset_s, decision.retry_after_s) == (pytest.approx(60), pytest.approx(12))
    assert limiter.check("a", START_S + 12).allowed


def test_keys_do_not_share_a_budget() -> None:
    limiter = Limiter[tuple[str, int]](1)
    assert limiter.check(("a", 1), START_S).allowed
    assert limiter.check(("a", 2), START_S).allowed
    assert not limiter.check(("a", 1), START_S).allowed


def test_zero_is_off_and_remembers_nobody() -> None:
    limiter = Limiter[str](0)
    decisions = {limiter.check("a", START_S) for _ in range(1000)}
    decisions |= {limiter.peek("a", START_S), limiter.spend("a", START_S)}
    assert [(d.allowed, d.limit, d.retry_after_s) for d in decisions] == [(True, 0, 0)]
    assert len(limiter) == 0


def test_idle_keys_are_forgotten_as_others_come() -> None:
    limiter = Limiter[int](60)
    for key in range(100):
        limiter.spend(key, START_S)
    assert len(limiter) == 100
    for key in range(100, 160):
        limiter.spend(key, START_S + 61)
    assert len(limiter) == 60  # two go for each that comes, until only busy ones are left


def test_a_full_table_forgets_an_idle_key_first() -> None:
    limiter = Limiter[str](60, max_keys=3)
    for _ in range(30):
        limiter.spend("busy", START_S)
    limiter.spend("idle", START_S)
    limiter.spend("recent", START_S + 5)
    limiter.spend("new", START_S + 5)
    assert len(limiter) == 3
    assert limiter.peek("busy", START_S + 5).remaining == 60 - 25
    assert limiter.peek("recent", START_S + 5).remaining == 59


def test_a_full_table_of_busy_keys_forgets_the_least_recently_used() -> None:
    limiter = Limiter[str](60, max_keys=2)
    for key in ("a", "b", "a", "c"):
        limiter.spend(key, START_S)
    assert [limiter.peek(key, START_S).remaining for key in "abc"] == [58, 60, 59]


@given(
    per_minute=st.integers(1, 200),
    steps_s=st.lists(st.floats(0, 90, allow_subnormal=False), max_size=300),
)
def test_no_minute_holds_more_than_twice_the_budget(per_minute: int, steps_s: list[float]) -> None:
    """The known bound of a full burst: what was saved up, and what grows back meanwhile."""
    limiter = Limiter[str](per_minute)
    now = START_S
    allowed = []
    for step_s in steps_s:
        now += step_s
        decision = limiter.check("a", now)
        assert 0 <= decision.remaining <= per_minute
        if decision.allowed:
            allowed.append(now)
        else:
            assert limiter.peek("a", now + decision.retry_after_s).allowed
    for start in allowed:
        assert sum(start <= t < start + 60 for t in allowed) <= 2 * per_minute
