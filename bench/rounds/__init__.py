"""Rounds: one measurement of one contestant in one scenario.

What comes back is plain numbers, ready for JSON. A round says how busy the machine was besides: the
share of the server's core that others took is measured, not hoped for.
"""

import os
from pathlib import Path

from bench import machine
from bench.contestants import Stand, stand
from bench.kinds import Delivery, Entry, Growth, Idle, Load, Scenario, Soak, Step, Storm
from bench.rounds.delivery import deliver
from bench.rounds.idle import idle
from bench.rounds.soak import soak
from bench.rounds.storm import storm
from bench.rounds.watch import Numbers


def run(scenario: Scenario, entry: Entry, built: dict[str, Path], cores: machine.Cores) -> Numbers:
    """One round. Raises BenchError if it can't be run."""
    load_average = os.getloadavg()[0]
    with stand(built, cores, _load(scenario, entry), entry) as on:
        return {"load_average": load_average} | _measured(scenario, entry, on, cores)


def _load(scenario: Scenario, entry: Entry) -> Load:
    if isinstance(entry, Step):
        return entry.load
    assert not isinstance(scenario, Growth)
    return scenario.load


def _measured(scenario: Scenario, entry: Entry, on: Stand, cores: machine.Cores) -> Numbers:
    match scenario:
        case Delivery():
            return deliver(scenario, scenario.load, entry, on, cores)
        case Growth():
            assert isinstance(entry, Step)
            return {"at": entry.at} | deliver(entry, entry.load, entry, on, cores)
        case Idle():
            return idle(scenario, on)
        case Storm():
            return storm(scenario, on, cores)
        case Soak():
            return soak(scenario, on, cores)
