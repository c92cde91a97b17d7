"""What is played: scenarios from their short files, and random schedules of several at once.

A seed replays a run: everything random is drawn here, before anything happens.
"""

import random
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "scenarios"
STAGES = {"one": 1, "three": 3}


@dataclass(frozen=True, slots=True)
class Step:
    """What happens, and how long after the beginning: `actor verb arguments`."""

    at_s: float
    actor: str
    verb: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, as scenarios/*.toml has it; upstream.toml says what each key is."""

    name: str
    fault: str
    steps: tuple[str, ...]
    on: tuple[str, ...] = ("one",)
    gaps: bool = False
    forgets: bool = False
    cold: bool = False
    mix: bool = True
    log: str = ""
    tls: bool = False
    workers: int = 1
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def own_stage(self) -> str:
        """Its name, if it wants relays of its own making or leaves them in no state for others."""
        own = self.log or self.tls or self.workers > 1 or self.settings or self.forgets
        return self.name if own else ""


@dataclass(frozen=True, slots=True)
class Episode:
    """One or more scenarios at once, with every random choice made."""

    names: tuple[str, ...]
    steps: tuple[Step, ...]
    gaps: bool


def scenarios() -> dict[str, Scenario]:
    """Every one, by its name. Raises ValueError for a file that can't be read so."""
    found: dict[str, Scenario] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        for name, said in tomllib.loads(path.read_text()).items():
            if name in found:
                raise ValueError(f"{path.name}: {name} stands in another file, too")
            lists = {key: tuple(said[key]) for key in ("steps", "on") if key in said}
            more = {"settings": tuple(said.get("settings", {}).items())}
            found[name] = Scenario(name, **(said | lists | more))
            for step in found[name].steps:
                _step(step, random.Random(0), 3, 0.0)
    return found


def alone(scenario: Scenario, dice: random.Random, replicas: int) -> Episode:
    """A scenario by itself."""
    return _episode([scenario], dice, replicas, 0.0)


def mixed(pool: Sequence[Scenario], dice: random.Random, stage: str, most: int = 3) -> Episode:
    """Some of those that may be mixed on a stage, each beginning within four seconds."""
    fit = [one for one in pool if one.mix and stage in {*one.on, "three"}]
    first = dice.choice(fit)
    chosen = [first]
    for other in dice.sample(fit, dice.randint(0, most - 1)):
        both = [*chosen, other]
        clash = any(one.forgets for one in both) and any(one.cold for one in both)
        if other not in chosen and not clash:
            chosen.append(other)
    return together(chosen, dice, stage)


def together(chosen: Sequence[Scenario], dice: random.Random, stage: str) -> Episode:
    """These at once."""
    return _episode(chosen, dice, STAGES[stage], 4.0)


def _episode(
    chosen: Sequence[Scenario], dice: random.Random, replicas: int, spread_s: float
) -> Episode:
    steps: list[Step] = []
    for one in chosen:
        offset_s = dice.uniform(0, spread_s)
        # In company one replica lives all along: whether its memory stays flat is looked at.
        alive = 1 if one.cold and spread_s and replicas > 1 else 0
        relay = dice.randrange(alive, replicas)
        steps += [_step(text, dice, relay, offset_s) for text in one.steps]
    steps.sort(key=lambda step: step.at_s)
    gaps = any(one.gaps for one in chosen)
    return Episode(tuple(one.name for one in chosen), tuple(steps), gaps)


def _step(text: str, dice: random.Random, relay: int, offset_s: float) -> Step:
    drawn = {"$byte": dice.randrange(1, 500), "$relay": relay, "$feeds": dice.randrange(1, 5)}
    if "$dice" in text:  # for what draws more, in its own time
        drawn["$dice"] = dice.randrange(1 << 30)
    words = re.sub(r"\$\w+", lambda name: str(drawn[name[0]]), text).split()
    if words[1] == "relay":  # `relay N VERB …` reads better than it is looked up
        words[2], words[3] = words[3], words[2]
    at_s, actor, *rest = words
    return Step(float(at_s) + offset_s, actor, rest[0], tuple(rest[1:]))
