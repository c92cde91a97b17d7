"""What every test shares: the event loop of production."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop
from hypothesis import settings

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Async tests run on uvloop: the relay refuses other loops, so a pass there says nothing."""
    return {"uvloop": uvloop.new_event_loop}


# The suite tries the same examples every time: a build that fails by luck teaches people to run it
# again. New ones are for whoever asks: `--hypothesis-profile=default`.
settings.register_profile("suite", derandomize=True, database=None)
settings.load_profile("suite")
