"""Rounds in small: every kind runs, everything sent is counted, and nothing is called lost."""

import os
from importlib import import_module

import pytest
from bench.contestants import missing, stand
from bench.kinds import ACTIVITY, DESKTOPS, Delivery, Entry, Growth, Idle, Load, Soak, Step, Storm
from bench.machine import facts
from bench.rounds.soak import _slope

from bench import rounds

COMMON = {"title": "", "about": "", "columns": ()}


@pytest.fixture
def run(built, two_cores, monkeypatch):
    """One round of the only entry; a small one has nothing to let go of before it is measured."""
    for room in ("delivery", "idle", "storm"):
        monkeypatch.setattr(import_module(f"bench.rounds.{room}"), "SETTLE_S", 0.1)

    def run(scenario):
        (entry,) = scenario.entries
        if why := missing(entry):
            pytest.skip(why)
        return rounds.run(scenario, entry, built, two_cores)

    return run


PEERS = ("nchan", "nginx-proxy", "pushpin", "mercure", "centrifugo", "aiohttp-sse", "sse-starlette")


@pytest.mark.parametrize("contestant", ["sendloop", "relay", *PEERS])
def test_delivery(run, contestant):
    load = Load(users=1, tabs=10)
    entries = (Entry(contestant, 20),)
    took = run(Delivery(name="", load=load, rate=100, warmup=5, entries=entries, **COMMON))
    assert took["deliveries"] + took["lost"] == 200
    assert contestant in PEERS or took["lost"] == 0  # what a peer loses is told, and its affair
    assert took["deliveries"] >= 100
    assert took["out_of_order"] == 0
    assert took["upstream_streams"] == (10 if contestant == "nginx-proxy" else 1)
    assert took["cpu_us_per_delivery"] == pytest.approx(1e6 * took["cpu_s"] / took["deliveries"])
    assert 0 < took["p50_ms"] <= took["p99_ms"] <= took["max_ms"]


@pytest.mark.parametrize("entry", [Entry("relay", 20, redis=True), Entry("relay", 20, tls=True)])
def test_delivery_by_redis_and_tls(run, entry):
    load = Load(users=3, tabs=2, paths=(DESKTOPS, ACTIVITY))
    took = run(Delivery(name="", load=load, rate=200, warmup=5, entries=(entry,), **COMMON))
    assert (took["deliveries"], took["lost"], took["upstream_streams"]) == (20 * 12, 0, 6)


def test_the_instruments_are_in_real_time_where_that_is_allowed_and_the_server_never(
    built, two_cores
):
    expected = os.SCHED_RR if facts()["instruments_in_real_time"] else os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "to find that out leaves nothing behind"
    with stand(built, two_cores, Load(users=1, tabs=1), Entry("sendloop")) as on:
        policies = {
            one.name: {os.sched_getscheduler(pid) for pid in one.pids}
            for one in (on.server, on.clients, on.upstream)
        }
    assert policies == {"sendloop": {os.SCHED_OTHER}, "load": {expected}, "emit": {expected}}


def test_growth_beside_idle_clients(run):
    load = Load(users=1, tabs=5)
    step = Step("relay", 40, at=10, label="10", load=load, rate=100, warmup=5, idle=10)
    took = run(Growth(name="", entries=(step,), unit="", metric="", **COMMON))
    assert (took["at"], took["deliveries"], took["lost"]) == (10, 200, 0)
    assert took["complete"] == 5, "those who are busy have them all"


def test_idle(run):
    load = Load(users=1, tabs=60)
    took = run(Idle(name="", load=load, steps=(20, 60), entries=(Entry("relay"),), **COMMON))
    assert [one["streams"] for one in took["steps"]] == [20, 60]
    assert took["ended"] == 0


def test_storm(run):
    load = Load(users=5, tabs=2)
    entries = (Entry("relay"),)
    took = run(
        Storm(
            name="",
            load=load,
            staying=4,
            back=10,
            rate=50,
            live_s=1,
            warmup=20,
            entries=entries,
            **COMMON,
        )
    )
    assert (took["returned"], took["lost"], took["out_of_order"]) == (6, 0, 0)


def test_soak(run):
    load = Load(users=6, tabs=2, paths=(DESKTOPS, ACTIVITY))
    entry = Entry("relay", settings={"FEED__LINGER": "1"})
    took = run(
        Soak(
            name="", load=load, rate=100, toggles_per_s=60, minutes=0.06, entries=(entry,), **COMMON
        )
    )
    assert took["connects"] > 24, "somebody came back"
    assert (took["lost"], took["out_of_order"], took["left_over"]) == (0, 0, 0), took["left"]


def test_a_slope_is_told_from_noise():
    flat = [(at / 10, 1000 + 5 * (at % 7)) for at in range(600)]
    rising = [(at, kb + 3 * at) for at, kb in flat]
    slope, noise = _slope(flat)
    assert abs(slope) <= noise
    slope, noise = _slope(rising)
    assert slope == pytest.approx(3, abs=0.2)
    assert slope > noise
