"""The house for every test of the heart, on a loop whose time stands still."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from tests.relay.house import House
from tests.relay.loop import StillLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Still uvloop; only its timers wait for the test."""
    return {"uvloop": StillLoop}


@pytest.fixture
async def build():
    """Make houses: `build(timings=…, limits=…)`. Each is closed, and looked through, at the end."""
    houses = []

    def make(**facts) -> House:
        house = House(asyncio.get_running_loop(), **facts)
        houses.append(house)
        return house

    yield make
    for house in houses:
        await house.close()


@pytest.fixture
async def house(build):
    """A house with the default settings."""
    return build()
