"""Runs: each scenario alone, or random schedules of several for as long as asked."""

import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from bench.chaos.acts import make_good, play
from bench.chaos.judge import Judgement
from bench.chaos.plan import STAGES, Episode, Scenario, alone, mixed
from bench.chaos.stage import Setting, Size, Stage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an episode came to. `failed` is what didn't come true, other than events."""

    names: tuple[str, ...]
    on: str
    gaps_allowed: bool
    took_s: float
    judgement: Judgement | None
    failed: str = ""

    @property
    def good(self) -> bool:
        """As promised: nothing lost, repeated or reordered, and no gap where upstream could have
        said everything again.
        """
        judged = self.judgement
        if self.failed or judged is None or not judged.clean:
            return False
        return self.gaps_allowed or not (judged.told or judged.gaps)

    def __str__(self) -> str:
        head = f"{'ok ' if self.good else 'BAD'} {self.on:5} {' + '.join(self.names)}: "
        judged = self.judgement
        if judged is None:
            return head + self.failed
        text = (
            f"{judged.deliveries} deliveries to {judged.clients} clients on {judged.connections} "
            f"connections; lost {judged.lost}, repeated {judged.repeated}, reordered "
            f"{judged.reordered}, gaps told {judged.causes or 0} "
            f"(missing there {judged.told}), missed by clients' own doing {judged.own}; "
            f"longest silence {judged.longest_silence_s:.2f} s, the crowd's longest wait "
            f"{judged.crowd_wait_s:.2f} s; delay {_percentiles(judged)}; {self.took_s:.0f} s"
        )
        notes = () if self.gaps_allowed else judged.notes
        failed = self.failed.splitlines()[:1]  # what follows there are logs
        return "\n    ".join((head + text, *failed, *judged.examples, *notes))

    @property
    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"good": self.good}


def _percentiles(judged: Judgement) -> str:
    usual_s, most_s, longest_s = judged.delays_s
    return f"{usual_s:z.3f} s, 99 of 100 {most_s:.2f} s, all {longest_s:.2f} s"


async def run_alone(chosen: Iterable[Scenario], size: Size, seed: int) -> AsyncIterator[Outcome]:
    """Each by itself, on every stage that it names; those that can share a stage do."""
    wanted = [(on, one) for one in chosen for on in one.on]
    wanted.sort(key=_stage_of)
    for _, group in groupby(wanted, key=_stage_of):
        members = list(group)
        on, first = members[0]
        setting = Setting(STAGES[on], first.log, first.tls, first.workers, first.settings)
        async with Stage(size, setting, seed) as stage:
            await stage.opened()
            for _, one in members:
                dice = random.Random(f"{seed}:{one.name}:{on}")
                yield await played(stage, alone(one, dice, STAGES[on]), on)


def _stage_of(pair: tuple[str, Scenario]) -> tuple[str, str]:
    return pair[0], pair[1].own_stage


async def run_mixed(
    pool: Sequence[Scenario], stage: Stage, on: str, seed: str, until_s: float
) -> AsyncIterator[Outcome]:
    """Random schedules, one after the other, until that time (monotonic)."""
    number = 0
    while time.monotonic() < until_s:
        episode = mixed(pool, random.Random(f"{seed}:{on}:{number}"), on)
        yield await played(stage, episode, on)
        number += 1


async def played(stage: Stage, episode: Episode, on: str) -> Outcome:
    """One episode, to its end and judged."""
    begun_s = time.monotonic()

    def outcome(judgement: Judgement | None, failed: str = "") -> Outcome:
        took_s = time.monotonic() - begun_s
        return Outcome(episode.names, on, episode.gaps, took_s, judgement, failed)

    try:
        await play(stage, episode)
        await make_good(stage)
    except (TimeoutError, AssertionError) as error:
        return outcome(await stage.judged(), str(error))
    return outcome(await stage.judged())
