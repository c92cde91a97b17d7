"""The log lines of streams that end all at once."""

import asyncio
import time

import pytest
from tests.relay.house import KEY, Journal

from lebureau_relay.errors import CloseReason
from lebureau_relay.relay import farewells
from lebureau_relay.relay.farewells import Farewells
from lebureau_relay.relay.turns import Turns


@pytest.fixture
def journal():
    return Journal()


@pytest.fixture
def waiting(journal):
    return Farewells(journal, Turns(time.monotonic))


def ages(journal):
    return [facts["age_s"] for _, _, facts in journal.notes]


async def test_a_few_go_with_each_turn_in_order_until_all_are_told(waiting, journal):
    for age_s in range(50):
        waiting.add(KEY, CloseReason.CLIENT_GONE, age_s)
    assert journal.notes == []
    for told in (20, 40, 50):
        await asyncio.sleep(0)
        assert ages(journal) == list(range(told))
    waiting.add(KEY, CloseReason.SLOW, 50)
    await asyncio.sleep(0)
    assert journal.notes[-1] == (
        "info",
        "stream.closed",
        {"stream": "desktops", "identity": "user-1", "reason": "slow", "age_s": 50},
    )


async def test_what_is_left_at_the_end_is_told_and_what_comes_then(waiting, journal):
    for age_s in range(50):
        waiting.add(KEY, CloseReason.DRAINING, age_s)
    waiting.finish()
    waiting.add(KEY, CloseReason.DRAINING, 50)
    assert ages(journal) == list(range(51))
    await asyncio.sleep(0)
    assert len(journal.notes) == 51


async def test_they_do_not_pile_up(waiting, journal, monkeypatch):
    monkeypatch.setattr(farewells, "_MAX_WAITING", 30)
    for age_s in range(50):
        waiting.add(KEY, CloseReason.CLIENT_GONE, age_s)
    assert ages(journal) == list(range(20))
    for _ in range(2):
        await asyncio.sleep(0)
    assert ages(journal) == list(range(50))


class Socket:
    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


async def test_sockets_of_a_herd_that_left_are_closed_some_a_turn(waiting):
    sockets = [Socket() for _ in range(150)]
    for one in sockets:
        waiting.close(one)
    for closed in (64, 128, 150):
        await asyncio.sleep(0)
        assert sum(one.closed for one in sockets) == closed
    waiting.close(Socket())
    await asyncio.sleep(0)
    assert not waiting._open
