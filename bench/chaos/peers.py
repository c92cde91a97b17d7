"""The same kit on others: what can be done to a peer is done to it, and the same judge looks on.

Each is set up as for the bench (bench/peers): what reads upstream reads it by the same road; what
is published to is published to by who tries again until it is taken. A peer has no more than one
feed.
"""

import asyncio
import json
import random
import string
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from bench.chaos import record
from bench.chaos.plan import Scenario, alone
from bench.chaos.processes import Process
from bench.chaos.runner import Outcome, played
from bench.chaos.stage import Setting, Size, Stage
from bench.contestants.peers import CONTESTANTS
from bench.contestants.site import NGINX, PEERS
from bench.programs import free_port

_NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
SIZE = Size(feeds=1, tabs=40, rate=5.0)
_START_S = 10.0
_PATH = "/api/desktops/stream"
ABOUT = {
    "this relay": "one replica, without Redis",
    "nchan": "nginx with Debian's module, a buffer of 1000 messages, published to by POST, so that "
    "what happens to an API that is read can't happen to it; its buffer ends with its process",
    "nginx": "Debian's nginx as a plain proxy: one upstream connection for each client; upstream's "
    "own replay answers every reconnect",
    "aiohttp-sse": "a relay as one writes it with that library: one upstream connection, which "
    "resumes, and no history",
}
_ON_UPSTREAM = {"cut", "cut-at-any-byte", "stall", "refused-503", "down", "restart", "amnesia"}
_ON_THE_WAY = {"road-reset", "road-cut", "road-pieces", "road-parted", "road-half-open"}
_ON_CLIENTS = {"clients-reset", "clients-cut", "clients-pieces", "clients-parted", "clients-frozen"}
_ON_RELAY = {"relay-killed", "relay-terminated", "relay-stopped", "burst"}
FAULTS = _ON_UPSTREAM | _ON_THE_WAY | _ON_CLIENTS | _ON_RELAY


class Peer(Process):
    """A server that isn't ours, with what the stage asks of a relay."""

    def __init__(self, name: str, argv: list[str], port: int, folder: Path) -> None:
        super().__init__(name, argv, folder)
        self.port = port
        self.number = 0

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
                    return


class PeerStage(Stage):
    """A stage with a peer in the relay's place."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(SIZE, Setting(libraries=False), seed)
        self.peer = name
        self._unpublished: asyncio.Queue[str] = asyncio.Queue()

    async def _set_up_relays(self) -> None:
        port = free_port()
        relay = Peer(self.peer, self._argv(port), port, self.folder)
        self.relays.append(relay)
        self._life.push_async_callback(relay.end)
        await relay.start(self.session)
        self.fronts.append(await self.new_road(port))
        if self.peer == "nchan":
            publishing = asyncio.ensure_future(self._publish(port))
            self._life.callback(publishing.cancel)

    def _argv(self, port: int) -> list[str]:
        if self.peer == "aiohttp-sse":
            key = self.feeds[0][0].key
            script = PEERS / "aiohttp_sse_relay.py"
            return [sys.executable, str(script), str(self.road.port), str(port), key]
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
        )
        return [str(NGINX), "-p", str(files), "-c", str(config)]

    def _fill(self, config: str, **values: object) -> Path:
        path = self.folder / config
        path.write_text(string.Template((PEERS / config).read_text()).substitute(values))
        return path

    def _tell(self, feed: int, payload: dict[str, object]) -> str:
        if self.peer == "nchan":
            self._unpublished.put_nowait(json.dumps(payload))
            return ""
        return super()._tell(feed, payload)

    async def _publish(self, port: int) -> None:
        """One after the other, each until it is taken."""
        while True:
            text = await self._unpublished.get()
            while True:
                try:
                    async with self.session.post(
                        f"http://127.0.0.1:{port}/publish",
                        data=text,
                        timeout=aiohttp.ClientTimeout(total=5),
                    ) as answer:
                        if answer.status < 300:
                            break
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.05)


def missing(name: str) -> str:
    """Why a peer can't take part; empty where it can."""
    known = {"nginx": "nginx-proxy"}.get(name, name)
    return CONTESTANTS[known].missing() if known in CONTESTANTS else ""


def _applies(name: str, fault: str) -> bool:
    return name != "nchan" or fault in _ON_CLIENTS | _ON_RELAY


async def run_peers(scenarios: dict[str, Scenario], seed: int) -> dict[str, Any]:
    """Every fault on every peer that is here, and on this relay."""
    absent = {name: why for name in ABOUT if (why := missing(name))}
    present = [name for name in ABOUT if name not in absent]
    chosen = [one for one in scenarios.values() if one.name in FAULTS]
    said = record.head(seed=seed, size=asdict(SIZE), about=ABOUT, absent=absent, peers={})
    for name in present:
        mine = [one for one in chosen if _applies(name, one.name)]
        outcomes = await _run(name, mine, seed)
        said["peers"][name] = [one.facts for one in outcomes]
    return said


async def _run(name: str, chosen: Sequence[Scenario], seed: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    left = list(chosen)
    while left:
        setting = Setting(libraries=False)  # the crowd does: peers are judged, not libraries
        stage = Stage(SIZE, setting, seed) if name == "this relay" else PeerStage(name, seed)
        async with stage:
            await stage.opened()
            while left:
                episode = alone(left[0], random.Random(f"{seed}:{left[0].name}"), 1)
                outcomes.append(await played(stage, episode, "one"))
                print(f"{name}: {outcomes[-1]}", flush=True)
                left.pop(0)
                if not outcomes[-1].good:
                    break  # who has lost its way is no judge of what follows
    return outcomes
