"""The runner: `python -m bench [SCENARIO…]` measures, writes bench/results and docs/performance.md.

Contestants take turns within each round, so that a busy moment of the machine meets all of them;
ratios are taken within a round. Results of scenarios that are not run stay as they are.
"""

import argparse
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import machine, results, rounds
from bench.contestants import missing
from bench.kinds import Entry, Scenario, Soak
from bench.machine import BenchError
from bench.programs import compile_c
from bench.report import show, write_report
from bench.scenarios import SCENARIOS

# How long to wait for others to be done before a round.
_QUIET_S = 15.0


def measure(
    scenario: Scenario, only: list[str], count: int, built: dict[str, Path], patience: int
) -> results.Result:
    """All rounds of a scenario."""
    started = datetime.now(UTC)
    load_average = os.getloadavg()[0]
    entries = [one for one in scenario.entries if not only or one.contestant in only]
    absent = {one.title: why for one in entries if (why := missing(one))}
    taken: dict[str, list[rounds.Numbers]] = {one.title: [] for one in entries}
    for number in range(count):
        for entry in entries:
            if entry.title in absent:
                continue
            print(f"{scenario.name}: {entry.title}, round {number + 1} of {count}", flush=True)
            try:
                taken[entry.title].append(_round(scenario, entry, built, patience))
            except BenchError as error:
                absent[entry.title] = f"failed: {' '.join(str(error).split())}"
                print(f"  {absent[entry.title]}", file=sys.stderr)
    return results.now(scenario, load_average, taken, absent, started)


def _round(
    scenario: Scenario, entry: Entry, built: dict[str, Path], patience: int
) -> rounds.Numbers:
    """One round, again while it is disturbed and patience lasts; then the least disturbed."""
    cores = machine.cores()
    tries: list[rounds.Numbers] = []
    while True:
        machine.wait_for_quiet(cores, _QUIET_S if patience else 0)
        tries.append(rounds.run(scenario, entry, built, cores))
        best = min(tries, key=lambda one: one.get("others_in_all", 0.0))
        if best.get("others_in_all", 0.0) < machine.QUIET_SHARE or len(tries) > patience:
            return best | {"tries": len(tries)}


def _chosen(names: list[str], minutes: float | None) -> list[Scenario]:
    """Those that are named, else all that don't take too long for that."""
    found = [one for one in SCENARIOS if (one.name in names if names else not one.on_request)]
    if minutes is None:
        return found
    return [replace(one, minutes=minutes) if isinstance(one, Soak) else one for one in found]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [one.name for one in SCENARIOS]
    parser.add_argument("scenario", nargs="*", help=f"all, or some of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="instead of what the scenario says")
    parser.add_argument("--minutes", type=float, help="how long a soak takes")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        help="a contestant; may be repeated. Half a table is no result: nothing is written",
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=1,
        help="how often a round that was disturbed by other programs is repeated",
    )
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--report", action="store_true", help="only write the document again")
    asked = parser.parse_args()
    unknown = set(asked.scenario) - set(names)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    asked.dry = asked.dry or bool(asked.only)
    return asked


def main() -> int:
    """The command."""
    asked = _arguments()
    chosen = [] if asked.report else _chosen(asked.scenario, asked.minutes)
    try:
        with TemporaryDirectory(prefix="bench-") as folder:
            built = compile_c(Path(folder), ("emit", "load", "sendloop")) if chosen else {}
            for scenario in chosen:
                # A soak is long enough to see disturbances for what they are.
                patience = 0 if isinstance(scenario, Soak) else asked.patience
                count = asked.rounds or scenario.rounds
                result = measure(scenario, asked.only, count, built, patience)
                show(result)
                if not asked.dry:
                    results.save(result)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if not asked.dry:
        write_report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
