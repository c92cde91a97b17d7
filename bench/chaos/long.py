"""The long run: random schedules of several scenarios with a thousand clients, on one relay and on
three at the same time, so that processes live as long as the run; then every scenario alone.
"""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.chaos import library, record
from bench.chaos.plan import STAGES, Scenario
from bench.chaos.runner import Outcome, run_alone, run_mixed
from bench.chaos.stage import LARGE, SMALL, Setting, Size, Stage

# Histories are filled to `replay.max_events` before the first schedule: memory that is looked at
# while they fill rises, whoever is to blame. So fast that the clients keep up on a busy machine.
_FULL_EVENTS = 1000
_FILL_PER_S = 15.0
_FILLED_S = 120.0


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

    async def mix(on: str, stage: Stage) -> None:
        until_s = time.monotonic() + minutes * 60
        async for outcome in run_mixed(list(scenarios.values()), stage, on, str(seed), until_s):
            held = await _resources(stage, on)
            said["resources"].append(held)  # in one step with its outcome
            _note_libraries(stage, said["libraries"])
            note(outcome, "mixed")

    async with AsyncExitStack() as life:
        stages = {}
        for on in STAGES if minutes else ():
            dice = random.Random(f"{seed}:{on}")
            stage = Stage(size, Setting(STAGES[on]), dice.randrange(1 << 30))
            stages[on] = await life.enter_async_context(stage)
            await stage.opened()
            await fill(stage)
        async with asyncio.TaskGroup() as mixes:
            for on, stage in stages.items():
                mixes.create_task(mix(on, stage))
    async for outcome in run_alone(scenarios.values(), SMALL, seed):
        note(outcome, "alone")
    said["good"] = good
    record.save(to, said)
    return good


async def fill(stage: Stage) -> None:
    """Let every history be at its bound. Raises TimeoutError where clients do not keep up."""
    for _ in range(_FULL_EVENTS):
        stage.story.say_everywhere()
        await asyncio.sleep(1 / _FILL_PER_S)
    await stage.wait_for(lambda: stage.all_have_all, "all histories are full", _FILLED_S)


async def _resources(stage: Stage, on: str) -> dict[str, Any]:
    """What each relay holds now, while all is quiet; by process, since some were started anew."""
    for relay in stage.relays:
        relay.look_inside()
    await stage.wait_for(lambda: all(relay.inside for relay in stage.relays), "relays look inside")
    return {
        "at_s": time.time(),
        "on": on,
        "relays": {
            f"{relay.number}:{relay.pid}": {
                "resident_bytes": relay.resident_bytes,
                "descriptors": relay.descriptors,
            }
            | relay.inside
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
