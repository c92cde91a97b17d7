"""The C programs, compiled once, and cores to run them on."""

import logging

import pytest
from bench.machine import BenchError, cores
from bench.programs import compile_c


@pytest.fixture(autouse=True)
def quiet():
    """A stage silences aiohttp in its process, and in ours other tests come after it."""
    logger = logging.getLogger("aiohttp.server")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return compile_c(tmp_path_factory.mktemp("bench"), ("emit", "load", "sendloop"))


@pytest.fixture(scope="session")
def two_cores():
    try:
        return cores()
    except BenchError as error:
        pytest.skip(str(error))
