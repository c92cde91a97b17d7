"""The long run: every scenario alone, then random schedules of several with a thousand clients."""

import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.chaos import library, record
from bench.chaos.plan import STAGES, Scenario
from bench.chaos.runner import Outcome, run_alone, run_mixed
from bench.chaos.stage import LARGE, SMALL, Setting, Size, Stage

# Three replicas get the greater part: there is more that can happen to them.
_SHARES = {"three": 0.6, "one": 0.4}


async def run_long(
    scenarios: dict[str, Scenario], minutes: float, seed: int, to: Path, size: Size = LARGE
) -> bool:
    """Whether all was as promised. `to` is written after each episode: a run that is ended early
    has said something, too.
    """
    said = record.head(
        minutes=minutes,
        seed=seed,
        size=asdict(size),
        absent=library.absent(),
        alone=[],
        mixed=[],
        resources=[],
        libraries={},
    )
    good = True

    def note(outcome: Outcome, kind: str) -> None:
        nonlocal good
        print(outcome, flush=True)
        good &= outcome.good
        said[kind].append(outcome.facts)
        record.save(to, said)

    for on, share in _SHARES.items() if minutes else ():
        dice = random.Random(f"{seed}:{on}")
        async with Stage(size, Setting(STAGES[on]), dice.randrange(1 << 30)) as stage:
            await stage.opened()
            until_s = time.monotonic() + minutes * 60 * share
            pool = list(scenarios.values())
            async for outcome in run_mixed(pool, stage, on, str(seed), until_s):
                said["resources"].append(await _resources(stage, on))
                _note_libraries(stage, said["libraries"])
                note(outcome, "mixed")
    async for outcome in run_alone(scenarios.values(), SMALL, seed):
        note(outcome, "alone")
    said["good"] = good
    record.save(to, said)
    return good


async def _resources(stage: Stage, on: str) -> dict[str, Any]:
    """What each relay holds now, while all is quiet; by process, since some were started anew."""
    for relay in stage.relays:
        relay.ask_tasks()
    await stage.wait_for(lambda: all(relay.tasks for relay in stage.relays), "relays count tasks")
    return {
        "at_s": time.time(),
        "on": on,
        "relays": {
            f"{relay.number}:{relay.pid}": {
                "resident_bytes": relay.resident_bytes,
                "descriptors": relay.descriptors,
                "tasks": relay.tasks,
            }
            for relay in stage.relays
            if relay.alive
        },
    }


def _note_libraries(stage: Stage, libraries: dict[str, Any]) -> None:
    for client in stage.readers:
        entry = libraries.setdefault(
            client.diary.name,
            {"deliveries": 0, "connections": 0, "lost": 0, "own": 0, "repeated": 0, "reordered": 0}
            | {"gave_up": 0},
        )
        for what, number in client.totals.items():
            entry[what] += number
        client.totals.clear()
