"""The C programs, compiled once, and cores to run them on."""

import pytest
from bench.machine import BenchError, cores
from bench.programs import compile_c


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return compile_c(tmp_path_factory.mktemp("bench"), ("emit", "load", "sendloop"))


@pytest.fixture(scope="session")
def two_cores():
    try:
        return cores()
    except BenchError as error:
        pytest.skip(str(error))
