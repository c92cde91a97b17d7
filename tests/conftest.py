"""What every test shares: the event loop of production."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
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

# The files that take longest, to be begun first: the last one of a run is waited for by workers
# that have nothing left to do. Those of the broker wait for leases to run out and cost no CPU, so
# they stand between those that work.
LONGEST = (
    "hardening/test_hostile_clients.py",
    "broker/test_leases.py",
    "bench/test_chaos.py",
    "replicas/test_chaos.py",
    "broker/test_budgets.py",
    "e2e/test_client_module.py",
    "broker/test_outages.py",
    "bench/test_observe.py",
    "e2e/test_drain.py",
    "demo/test_faults.py",
    "broker/test_census.py",
    "demo/test_access.py",
    "broker/test_topologies.py",
    "e2e/test_workers.py",
    "broker/test_log.py",
    "e2e/test_console.py",
    "ingress/test_browser_tabs.py",
    "demo/test_page.py",
    "hardening/test_operators.py",
    "e2e/test_process.py",
    "observability/test_alerts.py",
    "bench/test_rounds.py",
    "ingress/test_fronts.py",
    "e2e/test_browser.py",
    "hardening/test_origins_and_cookies.py",
    "replicas/test_balance.py",
    "relay/test_stateful.py",
    "replicas/hubs/test_mutations.py",
    "conformance/test_eventsource.py",
    "hardening/test_refusals_and_ends.py",
    "replicas/hubs/test_storm.py",
    "k8s/test_schemas.py",
    "e2e/test_documented_programs.py",
    "rollout/test_rollout.py",
    "observability/test_prometheus.py",
    "replicas/test_idle.py",
    "test_identity.py",
    "test_tail_terminal.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By file, as `--no-loadscope-reorder` hands them to workers; each file in its own order."""
    places = {Path(__file__).parent / name: n for n, name in enumerate(LONGEST)}
    if gone := [str(path) for path in places if not path.exists()]:
        raise pytest.UsageError(f"LONGEST of tests/conftest.py names what isn't there: {gone}")
    items.sort(key=lambda item: places.get(item.path, len(places)))
