"""The chaos kit: what an SSE relay loses, repeats or reorders when things break.

Without arguments a short run of fixed seed on this relay, as `make test` has it; with --minutes a
long one, which writes bench/results/chaos.json and docs/reliability.md. With --url on a deployment
of yours, which reads its own upstream, or the kit's with --upstream-port. Exit codes: 0 all was as
promised, 1 it was not or could not be played, 2 wrong usage, 3 no verdict: with --url, it could not
be reached, or nothing was said.
"""

import argparse
import math
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import uvloop

from bench.chaos import foreign, observe, observed, plan, record, runner
from bench.chaos.foreign import Deployment, ForeignStage
from bench.chaos.long import fill, run_long
from bench.chaos.peers import run_peers, with_rows
from bench.chaos.report import write_document
from bench.chaos.stage import LARGE, SMALL, Setting, Size, Stage
from bench.machine import BenchError

# So many random schedules of a short run on each stage; on two busy cores it takes a minute.
_SHORT = 2
# Before them on one relay, alone: what must be told of, and what must not, which nobody looks at
# where several things go wrong at once.
_SHORT_ALONE = ("cut-at-any-byte", "cursor-ignored")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument(
        "scenario", nargs="*", help="play these, each alone; a+b: together; `all` for every one"
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios, and play none")
    parser.add_argument("--seed", type=int, default=37, help="replays a run")
    parser.add_argument("--minutes", type=float, help="a long run, results and document")
    parser.add_argument("--large", action="store_true", help="1000 clients on 200 feeds")
    parser.add_argument("--on", choices=plan.STAGES, default="", help="with a+b: on which stage")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="the peers' table, and the document; with scenarios only these rows of it anew",
    )
    parser.add_argument("--report", action="store_true", help="only write the document again")
    parser.add_argument("--url", help="a stream of a deployment of yours: clients and judge only")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        help="with --url: 'name: value' that clients send; the value may be env:NAME or file:PATH, "
        "since everybody on a machine may read arguments",
    )
    parser.add_argument(
        "--query", default="", help="with --url: key=value, the same, for EventSource"
    )
    parser.add_argument("--clients", type=int, default=foreign.SIZE.tabs, help="with --url")
    parser.add_argument(
        "--patience",
        type=float,
        default=observed.PATIENCE_S,
        help="with --url: seconds within which something must be said",
    )
    parser.add_argument(
        "--upstream-port",
        type=int,
        help="with --url: your relay reads the kit's upstream, which listens here (0: any port)",
    )
    parser.add_argument("--upstream-host", default="127.0.0.1", help="and on this address")
    parser.add_argument("--to", type=Path, default=record.LONG, help="results of a long run")
    asked = parser.parse_args()
    if wrong := _wrong(asked):
        parser.error(wrong)
    if asked.clients < 1 or not 0 < asked.patience < math.inf:
        parser.error("--clients and --patience are above 0")
    known = plan.scenarios()
    unknown = {name for one in asked.scenario for name in one.split("+")} - set(known) - {"all"}
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; --list names them")
    if asked.url and not asked.list:
        try:
            asked.deployment = _deployment(asked)
            part = observe.observable if asked.upstream_port is None else foreign.reachable
            asked.parts = foreign.chosen(known, asked.scenario, part)
        except BenchError as error:
            parser.error(str(error))
    return asked


def _wrong(asked: argparse.Namespace) -> str:
    """Which arguments can't be, or not together; empty if they can."""
    if asked.url is None:
        told = asked.header or asked.query or asked.upstream_port is not None
        return "--header, --query and --upstream-port go with --url" if told else ""
    if wrong := foreign.mistake(asked.url):
        return f"--url {wrong}"
    if asked.peers or asked.large or asked.report or asked.minutes is not None:
        return "--url is a run of its own, without --minutes, --large, --peers and --report"
    return ""


async def _play(scenarios: list[plan.Scenario], size: Size, seed: int) -> bool:
    good = True
    async for outcome in runner.run_alone(scenarios, size, seed):
        print(outcome, flush=True)
        good &= outcome.good
    return good


def _deployment(asked: argparse.Namespace) -> Deployment:
    headers, query = foreign.headers_of(asked.header), foreign.query_of(asked.query)
    return Deployment(asked.url, headers, query, asked.upstream_host, asked.upstream_port or 0)


def _size(asked: argparse.Namespace) -> Size:
    return replace(foreign.SIZE, tabs=asked.clients)


async def _observe(asked: argparse.Namespace) -> int:
    stage = observed.ObservedStage(
        asked.deployment, asked.seed, size=_size(asked), patience_s=asked.patience
    )
    return await observe.observe(stage, asked.parts, asked.seed)


async def _play_foreign(asked: argparse.Namespace) -> bool:
    """One after the other, each on what the one before has left."""
    good = True
    async with ForeignStage(asked.deployment, asked.seed, size=_size(asked)) as stage:
        await stage.opened()
        for parts in asked.parts:
            outcome = await runner.played(stage, foreign.episode(parts, asked.seed), "yours")
            print(outcome, flush=True)
            good &= outcome.good
    return good


async def _together(chosen: list[plan.Scenario], size: Size, seed: int, on: str) -> bool:
    """At once, as random schedules have them: on one relay if all may be there, else on three, or
    where asked.
    """
    on = on or ("one" if all("one" in one.on for one in chosen) else "three")
    async with Stage(size, Setting(plan.STAGES[on]), seed) as stage:
        await stage.opened()
        if size is LARGE:
            await fill(stage)
        outcome = await runner.played(
            stage, plan.together(chosen, random.Random(str(seed)), on), on
        )
        print(outcome, flush=True)
        return outcome.good


async def _short(known: dict[str, plan.Scenario], seed: int) -> bool:
    """Two alone, then a few random schedules on either stage."""
    good = await _play([known[name] for name in _SHORT_ALONE], SMALL, seed)
    for on, replicas in plan.STAGES.items():
        stage_seed = random.Random(f"{seed}:{on}").randrange(1 << 30)
        async with Stage(SMALL, Setting(replicas), stage_seed) as stage:
            await stage.opened()
            played = 0
            async for outcome in runner.run_mixed(
                list(known.values()), stage, on, str(seed), time.monotonic() + 60
            ):
                print(outcome, flush=True)
                good &= outcome.good
                played += 1
                if played == _SHORT:
                    break
    return good


def _run(asked: argparse.Namespace, known: dict[str, plan.Scenario]) -> int:
    """What was asked for; the exit code. Raises BenchError."""
    names = known if "all" in asked.scenario else asked.scenario
    if asked.url and asked.upstream_port is None:
        return uvloop.run(_observe(asked))
    good = True
    if asked.minutes is not None:
        good = uvloop.run(run_long(known, asked.minutes, asked.seed, asked.to))
        if asked.to == record.LONG:
            write_document()
    elif asked.peers:
        said = uvloop.run(run_peers({name: known[name] for name in names or known}, asked.seed))
        record.save(record.PEERS, with_rows(record.load(record.PEERS), said) if names else said)
        write_document()
    elif asked.url:
        good = uvloop.run(_play_foreign(asked))
    elif names:
        size = LARGE if asked.large else SMALL
        good = uvloop.run(_play([known[name] for name in names if name in known], size, asked.seed))
        for one in names:
            if one not in known:
                chosen = [known[name] for name in one.split("+")]
                good &= uvloop.run(_together(chosen, size, asked.seed, asked.on))
    else:
        good = uvloop.run(_short(known, asked.seed))
    print("as promised" if good else "NOT as promised")
    return 0 if good else 1


def main() -> int:
    """The command: exit code 0 if all was as promised."""
    asked = _arguments()
    known = plan.scenarios()
    # Ended by whatever, it takes what it started with it.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    if asked.list:
        print("\n".join(f"{one.name:26} {one.fault}" for one in known.values()))
        return 0
    if asked.report:
        write_document()
        return 0
    try:
        return _run(asked, known)
    except KeyboardInterrupt:
        print("chaos: interrupted", file=sys.stderr)
    except BenchError as error:
        print(f"chaos: {error}", file=sys.stderr)
    return observe.NO_VERDICT if asked.url else 1


if __name__ == "__main__":
    sys.exit(main())
