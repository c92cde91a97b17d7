"""The same kit on others: what can be done to a peer is done to it, and the same judge looks on.

Each is set up as for the bench (bench/peers), with the time-outs and heartbeats that this relay has
on the stage. What doesn't read an API by itself has `peer` beside it, which lives and dies with it.
A peer has no more than one feed.
"""

import asyncio
import os
import random
import signal
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from bench.chaos import record
from bench.chaos.plan import Scenario, alone
from bench.chaos.processes import Process
from bench.chaos.runner import Outcome, played
from bench.chaos.stage import HEARTBEAT_S, Setting, Size, Stage
from bench.chaos.world import World
from bench.contestants.peers import CONTESTANTS
from bench.contestants.site import NGINX, PEERS
from bench.programs import free_port

_NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
SIZE = Size(feeds=1, tabs=40, rate=5.0)
_START_S = 10.0
_ROOT = Path(__file__).parents[2]
_READER = (
    "It is read for by a program of the kit's (`bench/chaos/peer.py`): one upstream connection, "
    "which resumes by `Last-Event-ID`, gives up what is silent and backs off"
)
ABOUT = {
    "this relay": "one replica, without Redis",
    "nchan": "nginx with Debian's module, a buffer of 1000 messages for 300 s, in one process's "
    f"memory. {_READER}; it posts each event until it is taken, in order, keeps its place in a "
    "file, and is killed, stopped and started together with nginx. nchan makes ids of its own, of "
    "second and number. It takes messages of 1 MiB, as nginx is shipped and as this relay is",
    "nginx": "Debian's nginx as a plain proxy: one upstream connection for each client; upstream's "
    "own replay answers every reconnect, and what upstream says wrong, clients get",
    "aiohttp-sse": f"a relay as one writes it with that library: a queue for each client, no "
    f"history, so that who comes back has missed what was said meanwhile. {_READER}, in the same "
    "process",
}
# What concerns the relay's own settings and logs; limits of the kernel's, which concern a process,
# and nginx is several; names and certificates, of which peers here know none.
_OURS = {
    *("log-full", "log-stuck", "descriptors", "memory", "dns-gone", "certificate-expired"),
    *(
        "max-stale",
        "connects-limited",
        "retire-oldest",
        "too-many-streams",
        "operator-ends",
        "collector-away",
    ),
    *("long-ids", "strangers"),
}
# Megabytes at once: a browser under remote control and scripts that read byte by byte take minutes
# for them, which says nothing of a relay. These are for the crowd alone, and for one at a time.
HEAVY = {"clients-frozen", "clients-frozen-long", "clients-frozen-paced", "oversize"}


class Peer(Process):
    """A server that isn't ours, and what reads for it, with what the stage asks of a relay."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        port: int,
        folder: Path,
        env: Mapping[str, str],
        reader: Process | None = None,
    ) -> None:
        super().__init__(name, argv, folder, env)
        self.port = port
        self.number = 0
        self._reader = reader

    async def start(self, _session: aiohttp.ClientSession) -> None:
        """Until it takes connections."""
        await self.launch()
        async with asyncio.timeout(_START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self.alive, self.said
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        if self._reader is not None:
            await self._reader.launch()

    def signal(self, number: signal.Signals) -> None:
        super().signal(number)
        if self._reader is not None:
            self._reader.signal(number)

    async def exit(self, within_s: float = _START_S) -> int:
        if self._reader is not None and self._reader.alive:
            await self._reader.exit(within_s)
        return await super().exit(within_s)

    async def end(self) -> None:
        if self._reader is not None:
            await self._reader.end()
        await super().end()


class PeerStage(Stage):
    """A stage with a peer in the relay's place."""

    def __init__(self, name: str, seed: int, *, libraries: bool = False) -> None:
        super().__init__(SIZE, Setting(libraries=libraries), seed)
        self.peer = name

    async def _set_up_relays(self) -> None:
        world = World(self._library, self.folder / "world-0")
        self.worlds.append(world)
        port = free_port()
        path = os.pathsep.join((str(_ROOT), *sys.path))
        env = world.env | {"PYTHONPATH": path}
        reader = self._reader(port, env) if self.peer == "nchan" else None
        relay = Peer(self.peer, self._argv(port), port, self.folder, env, reader)
        self.relays.append(relay)
        self._life.push_async_callback(relay.end)
        await relay.start(self.session)
        self.fronts.append(await self.new_road(port))
        if self.peer == "nchan":  # which names events in its own way
            self.on_event = self.story.name

    def _reader(self, port: int, env: Mapping[str, str]) -> Process:
        more = (f"http://127.0.0.1:{port}/publish", str(self.folder / "place"))
        return Process("publisher", self._reading("nchan", *more), self.folder, env)

    def _reading(self, what: str, *more: str) -> list[str]:
        user, stream = self.feeds[0]
        url = f"http://127.0.0.1:{self.road.port}{stream.path}"
        patience_s = str(1.5 * self.size.answer_s)
        return [sys.executable, "-m", "bench.chaos.peer", what, url, user.key, patience_s, *more]

    def _argv(self, port: int) -> list[str]:
        if self.peer == "aiohttp-sse":
            return self._reading("aiohttp-sse", str(port), str(HEARTBEAT_S))
        files = self.folder / "nginx"
        files.mkdir()
        folders = self._fill("nginx_folders.conf", folder=files)
        name = {"nchan": "nchan.conf", "nginx": "nginx_proxy.conf"}[self.peer]
        config = self._fill(
            name,
            port=port,
            folder=files,
            folders=folders,
            module=_NCHAN,
            upstream=self.road.port,
            workers=1,
            ping_s=HEARTBEAT_S,
            connect_timeout=f"{1000 * self.size.answer_s:.0f}ms",
            read_timeout=f"{1500 * self.size.answer_s:.0f}ms",
        )
        return [str(NGINX), "-p", str(files), "-c", str(config)]

    def _fill(self, config: str, **values: object) -> Path:
        path = self.folder / config
        path.write_text(string.Template((PEERS / config).read_text()).substitute(values))
        return path


def missing(name: str) -> str:
    """Why a peer can't take part; empty where it can."""
    known = {"nginx": "nginx-proxy"}.get(name, name)
    return CONTESTANTS[known].missing() if known in CONTESTANTS else ""


def chosen(scenarios: Mapping[str, Scenario]) -> list[Scenario]:
    """What can be done to any relay that reads an API and serves clients."""
    return [one for one in scenarios.values() if "one" in one.on and one.name not in _OURS]


async def run_peers(scenarios: dict[str, Scenario], seed: int) -> dict[str, Any]:
    """Every fault on every peer that is here, and on this relay: all of them at once, then what
    fills buffers, one after the other.
    """
    absent = {name: why for name in ABOUT if (why := missing(name))}
    present = [name for name in ABOUT if name not in absent]
    faults = chosen(scenarios)
    few = [one for one in faults if one.name not in HEAVY]
    many = [one for one in faults if one.name in HEAVY]
    outcomes = await asyncio.gather(*(_run(name, few, seed, libraries=True) for name in present))
    said = record.head(seed=seed, size=asdict(SIZE), about=ABOUT, absent=absent, peers={})
    for name, its in zip(present, outcomes, strict=True):
        more = await _run(name, many, seed, libraries=False)
        said["peers"][name] = [one.facts for one in (*its, *more)]
    return said


def with_rows(said: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A table with some rows played anew, for every relay; which they are stands with it."""
    played_anew = (name for its in new["peers"].values() for one in its for name in one["names"])
    again = sorted({*said.get("again", ()), *played_anew})
    peers = {}
    for name, its in said["peers"].items():
        mine = {tuple(one["names"]): one for one in new["peers"].get(name, ())}
        peers[name] = [mine.get(tuple(one["names"]), one) for one in its]
    return said | {"peers": peers, "again": again}


async def _run(
    name: str, faults: Sequence[Scenario], seed: int, *, libraries: bool
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    left = list(faults)
    while left:
        stage = (
            Stage(SIZE, Setting(libraries=libraries), seed)
            if name == "this relay"
            else PeerStage(name, seed, libraries=libraries)
        )
        async with stage:
            await stage.opened()
            while left:
                episode = alone(left[0], random.Random(f"{seed}:{left[0].name}"), 1)
                outcomes.append(await played(stage, episode, "one"))
                print(f"{name}: {outcomes[-1]}", flush=True)
                left.pop(0)
                if not outcomes[-1].good:
                    break  # who has lost its way is no judge of what follows
                await stage.quiet()  # so that who has just started has seen a heartbeat, too
    return outcomes
