"""What every test shares: the event loop of production."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Async tests run on uvloop: the relay refuses other loops, so a pass there says nothing."""
    return {"uvloop": uvloop.new_event_loop}
