"""How many streams a replica lets go: enough to end up even, never in a hurry, never by mistake."""

import random

import pytest

from lebureau_relay.core.balance import Balance, BalanceRules, Load

SETTLED_S = 30.0
STEP_S = 2.0


def rules(max_per_s: float = 10.0) -> BalanceRules:
    return BalanceRules(max_per_s, SETTLED_S)


def loads(*streams: int) -> list[Load]:
    return [Load(f"pod-{n}", count, ready=True) for n, count in enumerate(streams)]


def total(balance: Balance, replicas: list[Load], seconds: float, begin_s: float = 0.0) -> int:
    """What it lets go of while nothing changes."""
    steps = int(seconds / STEP_S)
    return sum(balance.hear(replicas, begin_s + n * STEP_S) for n in range(steps))


def settled(replicas: list[Load], max_per_s: float = 10.0) -> Balance:
    """One that has seen these for long enough, and has not begun."""
    balance = Balance("pod-0", rules(max_per_s))
    quiet = [Load(one.name, 0, ready=True) for one in replicas]
    assert total(balance, quiet, SETTLED_S + STEP_S, -SETTLED_S - STEP_S) == 0
    return balance


def test_one_percent_of_the_excess_a_second() -> None:
    replicas = loads(400, 0)
    assert total(settled(replicas), replicas, 60) == 120  # 2 a second, of an excess of 200


def test_never_more_than_the_bound() -> None:
    replicas = loads(40_000, 0)
    assert total(settled(replicas), replicas, 60) == 600
    assert total(settled(replicas, 0.25), replicas, 60) == 15
    assert total(settled(replicas, 0.0), replicas, 600) == 0


def test_after_a_pause_it_does_not_make_up_for_it() -> None:
    replicas = loads(40_000, 0)
    balance = settled(replicas)
    assert balance.hear(replicas, 0.0) == 20
    assert balance.hear(replicas, 600.0) == 100


@pytest.mark.parametrize("streams", [[100], [0, 0], [100, 60], [10_000, 9_600], [0, 400], [3, 0]])
def test_nothing_where_it_has_its_part(streams: list[int]) -> None:
    replicas = loads(*streams)
    assert total(settled(replicas), replicas, 3_600) == 0


def test_what_was_due_is_forgotten_with_the_excess() -> None:
    uneven, even = loads(110, 40), loads(75, 75)
    balance = settled(uneven)
    counts = [balance.hear(uneven, n * STEP_S) for n in range(4)]
    assert counts == [0, 1, 1, 0]  # 35 to give: 0.7 in each step, and 0.8 are left of them
    assert balance.hear(even, 8.0) == 0
    assert balance.hear(uneven, 10.0) == 0


def test_while_replicas_come_and_go_nothing_moves() -> None:
    balance = Balance("pod-0", rules())
    now_s = 0.0
    for size in (1, 2, 3, 4):
        for _ in range(14):  # less than it takes to settle
            assert balance.hear(loads(900, *[0] * size), now_s) == 0
            now_s += STEP_S
    moved = [balance.hear(loads(900, 0, 0, 0, 0), now_s + n * STEP_S) for n in range(3)]
    assert moved == [0, 14, 14]


@pytest.mark.parametrize("state", ["leaving", "starting", "unknown"])
def test_while_one_is_not_ready_nothing_moves(state: str) -> None:
    replicas = loads(900, 0)
    balance = settled(replicas)
    odd = [*replicas, Load(state, 10, ready=False)]
    assert total(balance, odd, 300) == 0
    assert balance.hear(replicas, 301.0) == 0, "it settles first"
    assert balance.hear(replicas, 301.0 + SETTLED_S) > 0


def test_who_is_not_ready_itself_or_hears_nothing_does_nothing() -> None:
    replicas = loads(900, 0)
    balance = settled(replicas)
    assert total(balance, [], 300) == 0
    assert balance.hear(replicas, 301.0) == 0, "it settles first"
    assert total(balance, [Load("pod-1", 0, ready=True)], 300, 400) == 0
    leaving = [Load("pod-0", 900, ready=False), Load("pod-1", 0, ready=True)]
    assert total(balance, leaving, 300, 800) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_scale_out_ends_even_by_chance_and_then_rests(seed: int) -> None:
    """Two full replicas and two new ones, behind a balancer that draws lots."""
    lots = random.Random(seed)
    names = [f"pod-{n}" for n in range(4)]
    streams = dict(zip(names, (4_000, 4_000, 0, 0), strict=True))
    balances = {name: Balance(name, rules(20.0)) for name in names}
    moved = []
    for step in range(900):  # half an hour
        said = [Load(name, count, ready=True) for name, count in streams.items()]
        gone = 0
        for name, balance in balances.items():
            count = balance.hear(said, step * STEP_S)
            streams[name] -= count
            gone += count
        for _ in range(gone):
            streams[lots.choice(names)] += 1
        moved.append(gone)
    assert sum(streams.values()) == 8_000
    assert max(streams.values()) <= 2_000 + 3 * 2_000**0.5 + 40
    assert max(moved) <= 2 * 20.0 * STEP_S
    assert sum(moved[-150:]) <= 10, "even: nobody is bothered any more"
