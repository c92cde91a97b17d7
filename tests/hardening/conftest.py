"""The fixtures of the black-box tests, as they are: an API, relays here and as programs."""

import pytest
from structlog.testing import capture_logs
from tests.e2e.conftest import *  # noqa: F403 - fixtures are found by their names
from tests.hardening.veneer import Veneer


@pytest.fixture
async def veneer(simulator):
    """An API whose answers a test may replace."""
    async with Veneer(simulator).serving() as veneer:
        yield veneer


@pytest.fixture
def log():
    """The log lines of relays in this process, as records."""
    with capture_logs() as lines:
        yield lines
