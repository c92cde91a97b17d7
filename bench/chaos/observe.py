"""A deployment of yours that reads its own upstream: what is played on it, and the verdict.

A stream that says nothing is given none.
"""

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import replace

from bench.chaos import foreign
from bench.chaos.acts import make_clients_good, play
from bench.chaos.observed import ObservedStage
from bench.chaos.plan import Scenario
from bench.chaos.runner import Outcome
from bench.chaos.witness import ALL

GOOD, BAD, NO_VERDICT = 0, 1, 3  # exit codes; 2 is wrong usage


def observable(scenario: Scenario) -> Scenario | None:
    """What of a scenario can be done from the clients' side, None if that is nothing. Upstream is
    not made to say more: what it says by itself is what there is.
    """
    actors = {step.split()[1] for step in scenario.steps}
    bursts = all(" upstream burst " in step for step in scenario.steps if " upstream " in step)
    if "clients" not in actors or not actors <= {"clients", "upstream"} or not bursts:
        return None
    steps = tuple(step for step in scenario.steps if step.split()[1] == "clients")
    # With a gap a relay keeps its promise; whether its upstream could have spared it nobody knows.
    return replace(scenario, steps=steps, gaps=True)


class Run:
    """One scenario after the other, each on what the one before has left, and what came of them."""

    def __init__(
        self, stage: ObservedStage, chosen: Sequence[Sequence[Scenario]], seed: int
    ) -> None:
        self._episodes = [foreign.episode(parts, seed) for parts in chosen]
        self.left = [" + ".join(one.names) for one in self._episodes]
        self._stage = stage
        self._begun_s = 0.0
        self._heard = 0  # before this scenario, and not judged
        self._bad = self._judged = self._told = 0
        self._quiet: list[str] = []
        self._shown = False  # an example of what is wrong

    async def play(self) -> None:
        """Everything. Raises BenchError if clients can't open the stream."""
        if not await self._stage.opened():
            return
        for why in self._stage.left_out:
            print(f"left out: {why}", flush=True)
        for episode in self._episodes:
            self._begun_s, failed = time.monotonic(), ""
            self._heard = len(self._stage.heard)
            try:
                await play(self._stage, episode)
                await make_clients_good(self._stage)
            except TimeoutError:
                there, all_tabs = self._stage.there, len(self._stage.tabs)
                failed = f"{all_tabs - there} of {all_tabs} clients could not come back"
            await self.turn_page(failed)
            if failed and not self._stage.there:
                return  # nobody is there to go on with
            await self._stage.begin_again()

    async def interrupt(self) -> None:
        """Judge what there is by now."""
        for road in (*self._stage.fronts, *self._stage.reader_roads):
            road.heal()
            await road.start()
        if self.left and self._begun_s:
            await self.turn_page("", interrupted=True)

    async def turn_page(self, failed: str, *, interrupted: bool = False) -> None:
        """Judge what came of a scenario, and say so."""
        refused = self._stage.refused()
        judgement = await self._stage.turn_page(interrupted=interrupted or bool(failed))
        name = self.left[0] if interrupted else self.left.pop(0)
        if judgement is None and not failed:
            self._quiet.append(name)
            unfit = " that can be judged" if len(self._stage.heard) > self._heard else ""
            print(f"--  yours {name}: nothing{unfit} was said{refused}", flush=True)
            return
        took_s = time.monotonic() - self._begun_s
        outcome = Outcome((name,), "yours", True, took_s, judgement, failed)
        self._judged += judgement is not None
        self._told += judgement.told if judgement else 0
        self._bad += not outcome.good
        self._shown |= bool(judgement and judgement.examples)
        print(f"{outcome}{refused}", flush=True)

    def verdict(self) -> tuple[int, str]:
        """Exit code and sentence. Only what was looked at is as promised."""
        chronicle = self._stage.chronicle
        said = len(chronicle.said[ALL])
        if self._bad:
            return BAD, "NOT as promised"
        if not self._judged and self._stage.heard:
            what = "that can be judged was said" if self._quiet else "was played"
            return NO_VERDICT, f"nothing {what}: no verdict"
        if not self._judged:
            return NO_VERDICT, "nothing was said: no verdict"
        if chronicle.nameless == said:
            return NO_VERDICT, (
                "as promised within each connection; no verdict on what falls between two: no "
                "event has an id, so no client can say where it was"
            )
        if unseen := self._quiet + self.left:
            return NO_VERDICT, (
                f"as promised as far as it was seen; no verdict on {', '.join(unseen)}: "
                f"{'not played to the end' if self.left else 'nothing was said meanwhile'}"
            )
        told = f"; a gap told of {self._told} missing events" if self._told else ""
        return GOOD, f"as promised{told}"

    def remarks(self) -> list[str]:
        """How to read what is wrong, and what the judge could not look at."""
        chronicle, remarks = self._stage.chronicle, []
        if self._shown:
            remarks.append(
                "Numbers count what the witnesses got. Behind an example: what the client had just "
                "before, the gaps it was told of, and where it came back (after which number, to "
                "which port of the kit's, with which cursor)"
            )
        if self._judged and self._stage.deaf:
            remarks.append(
                f"{', '.join(sorted(self._stage.deaf))} got no event at all, from first to last"
            )
        if chronicle.nameless:
            remarks.append(
                f"{chronicle.nameless} of {len(chronicle.said[ALL])} events had no id of their "
                "own: what a client misses of these between two connections counts as its own doing"
            )
        if chronicle.doubtful:
            remarks.append(
                f"{len(chronicle.doubtful)} texts came more than once without an id: nobody can "
                "tell whether they were said or sent twice, so they count for nothing"
            )
        return remarks


async def observe(stage: ObservedStage, chosen: Sequence[Sequence[Scenario]], seed: int) -> int:
    """Play these on a deployment, until Ctrl-C at most: the exit code. Raises BenchError."""
    loop = asyncio.get_running_loop()
    async with stage:
        run = Run(stage, chosen, seed)
        print(
            f"{len(stage.tabs)} clients come in; what is said has {stage.patience_s:g} s",
            flush=True,
        )
        playing = asyncio.ensure_future(run.play())

        def stop() -> None:
            # Ctrl-C reaches a browser's driver, too, which complains where nobody awaits it.
            loop.set_exception_handler(lambda *_: None)
            playing.cancel()

        loop.add_signal_handler(signal.SIGINT, stop)
        try:
            await playing
        except asyncio.CancelledError:
            print("interrupted: the verdict so far; once more, and there is none", flush=True)
            loop.remove_signal_handler(signal.SIGINT)
            await run.interrupt()
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        code, sentence = run.verdict()
        print("\n".join((*run.remarks(), sentence)), flush=True)
    return code
