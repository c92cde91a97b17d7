"""When turns come fast, what comes between them goes out together; nothing else ever waits."""

import asyncio

import pytest

from lebureau_relay.relay.turns import GAP_S, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def turn(clock):
    """Lets a turn begin so long after the last one began, and take so long."""
    turns = Turns(clock, clock.nap)
    began_s = clock.now_s

    async def turn(after_s: float, takes_s: float = 0.0) -> None:
        nonlocal began_s
        began_s = clock.now_s = max(began_s + after_s, clock.now_s)

        def work(_: float) -> bool:
            clock.now_s += takes_s
            return True

        turns.job(work)
        await asyncio.sleep(0)

    return turn


async def test_turns_that_come_fast_come_no_faster(clock, turn):
    await turn(after_s=10)
    assert clock.naps == [], "who comes alone doesn't wait"
    for _ in range(3):
        await turn(after_s=GAP_S / 10, takes_s=GAP_S / 4)
    assert clock.naps == pytest.approx([GAP_S * 3 / 4] * 3)


async def test_turns_that_come_seldom_or_take_long_are_not_held_up(clock, turn):
    for _ in range(3):
        await turn(after_s=2.1 * GAP_S)
    for _ in range(3):
        await turn(after_s=0, takes_s=GAP_S)
    assert clock.naps == []


async def test_no_nap_while_there_is_work(clock):
    turns, left = Turns(clock, clock.nap), [3]

    def work() -> bool:
        left[0] -= 1
        return not left[0]

    turns.chore(work)
    turns._turned_at_s = clock.now_s
    for _ in range(3):
        assert clock.naps == []
        await asyncio.sleep(0)
    assert left == [0]
    assert len(clock.naps) == 1
