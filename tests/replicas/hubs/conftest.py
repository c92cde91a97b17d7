"""Replicas of one process, on a loop whose time stands still."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from tests.relay.loop import StillLoop
from tests.replicas.hubs.deployment import Deployment

from lebureau_relay.core.history import HistoryLimits


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Still uvloop; only its timers wait for the test."""
    return {"uvloop": StillLoop}


@pytest.fixture
async def deploy():
    """Make deployments: `deploy(size, limits=…)`. Each is looked through at the end."""
    made = []

    def make(size: int = 2, **facts) -> Deployment:
        made.append(Deployment(asyncio.get_running_loop(), size, **facts))
        return made[-1]

    yield make
    for deployment in made:
        await deployment.close()


@pytest.fixture
def small() -> HistoryLimits:
    """A ring that lets go soon."""
    return HistoryLimits(max_events=5)
