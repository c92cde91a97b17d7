"""Results: what the rounds of a scenario said, kept as one JSON file, and read back as medians.

The rounds themselves are kept, so that nobody has to believe the medians. A ratio is taken within
each round, then its median: what troubles the machine for a minute troubles both sides of it.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.kinds import Scenario
from bench.scenarios import SCENARIOS

FOLDER = Path(__file__).parent / "results"
# More digits than this mean nothing here.
_DIGITS = 5

Numbers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario's outcome: rounds by row, and why a row has none."""

    scenario: Scenario
    started: str
    load_average: float
    machine: Numbers
    rounds: Mapping[str, Sequence[Numbers]]
    absent: Mapping[str, str]

    def value(self, row: str, metric: str) -> float | None:
        """The median of a number; "× name" is its ratio to the baseline, "more name" what it
        exceeds it by. None where it was not measured.
        """
        kind, _, name = metric.rpartition(" ")
        base = self.scenario.baseline
        match kind:
            case "×":
                return self.against(row, base, name, lambda one, other: one / other)
            case "more":
                return self.against(row, base, name, lambda one, other: one - other)
            case _:
                return _median([one[name] for one in self.rounds.get(row, ()) if name in one])

    def against(
        self, row: str, other: str, metric: str, how: Callable[[float, float], float]
    ) -> float | None:
        """A number held against another row's, round by round."""
        pairs = zip(self.rounds.get(row, ()), self.rounds.get(other, ()), strict=False)
        return _median([how(one[metric], base[metric]) for one, base in pairs if base[metric]])


def now(
    scenario: Scenario,
    load_average: float,
    rounds: Mapping[str, Sequence[Numbers]],
    absent: Mapping[str, str],
    started: datetime,
) -> Result:
    """A result of this machine and commit."""
    when = started.isoformat(timespec="seconds")
    return Result(scenario, when, load_average, machine.facts(), rounds, absent)


def save(result: Result) -> None:
    """Write a result in the place of the one before."""
    FOLDER.mkdir(exist_ok=True)
    medians = {
        row: {name: _median([one[name] for one in rounds]) for name in _plain(rounds)}
        for row, rounds in result.rounds.items()
    }
    text = {
        "scenario": result.scenario.name,
        "started": result.started,
        "load_average": result.load_average,
        "machine": result.machine,
        "absent": result.absent,
        "medians": medians,
        "rounds": result.rounds,
    }
    path = FOLDER / f"{result.scenario.name}.json"
    path.write_text(json.dumps(_short(text), indent=1, ensure_ascii=False) + "\n")


def load_all() -> list[Result]:
    """Every scenario's result that there is, in the order of the scenarios."""
    found = []
    for scenario in SCENARIOS:
        path = FOLDER / f"{scenario.name}.json"
        if path.exists():
            text = json.loads(path.read_text())
            found.append(
                Result(
                    scenario,
                    text["started"],
                    text["load_average"],
                    text["machine"],
                    text["rounds"],
                    text["absent"],
                )
            )
    return found


def _plain(rounds: Sequence[Numbers]) -> list[str]:
    """The names of the numbers that a row has."""
    return (
        [name for name, value in rounds[0].items() if isinstance(value, (int, float))]
        if rounds
        else []
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _short(value: Any) -> Any:
    """Floats without the digits that mean nothing."""
    match value:
        case float():
            return float(f"{value:.{_DIGITS}g}")
        case dict():
            return {name: _short(one) for name, one in value.items()}
        case list() | tuple():
            return [_short(one) for one in value]
        case _:
            return value
