"""The process around a relay: what ends it besides signals."""

import asyncio

import pytest

from lebureau_relay import process
from lebureau_relay.config import Settings
from lebureau_relay.errors import RelayError
from lebureau_relay.identity import Register

QUIET = {
    "listen": {"host": "127.0.0.1", "port": 0},
    "admin": {"port": 0},
    "drain": {"spread": 0},
}


async def test_a_part_that_fails_takes_the_relay_along(monkeypatch) -> None:
    """Where nobody rechecks credentials, a relay that goes on is a leak."""

    async def dies(_self):
        await asyncio.sleep(0)
        raise ZeroDivisionError

    monkeypatch.setattr(Register, "run", dies)
    with pytest.raises(RelayError, match="a part of the relay failed"):
        await asyncio.wait_for(process._live(Settings.model_validate(QUIET), None), 10)
