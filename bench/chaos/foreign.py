"""A deployment of yours: clients and judge against its address, through a road of the kit's.

Its relay must read the kit's upstream, which numbers what it says; what can be done to it from
outside is done: to the upstream, and to the clients' road.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.chaos.library import Target
from bench.chaos.plan import Scenario
from bench.chaos.road import Road
from bench.chaos.stage import Setting, Size, Stage

SIZE = Size(feeds=1, tabs=20, rate=5.0, retry_s=1.0, silence_s=45.0)
_REACHED = {"upstream", "clients"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where it is, what clients show it, and where the kit's upstream listens for it."""

    url: str
    headers: Mapping[str, str]
    query: str  # a credential for clients that can't send headers
    upstream_host: str = "127.0.0.1"
    upstream_port: int = 0


class ForeignStage(Stage):
    """A stage whose relay is somebody else's, and somewhere else."""

    def __init__(self, deployment: Deployment, seed: int, *, libraries: bool = True) -> None:
        super().__init__(SIZE, Setting(libraries=libraries), seed)
        self._deployment = deployment

    async def _start_upstream(self) -> None:
        asked = self._deployment
        await self.upstream.start(asked.upstream_host, asked.upstream_port)
        user, stream = self.feeds[0]
        print(
            f"upstream at {self.upstream.url}{stream.path}, key {user.key} (header x-api-key or "
            f"Bearer, or ?apiKey=…): let your relay read it; the clients wait for its first event",
            flush=True,
        )

    async def _set_up_relays(self) -> None:
        self.fronts.append(await self._new_front())

    async def _new_front(self) -> Road:
        where = urlsplit(self._deployment.url)
        secure = where.scheme == "https"
        road = Road(
            where.port or (443 if secure else 80),
            seed=self.dice.randrange(1 << 30),
            host=where.hostname or "",
            onward_tls=ssl.create_default_context() if secure else None,
            host_header=where.netloc.rpartition("@")[2],
        )
        self._life.push_async_callback(road.end)
        return await road.start()

    def _target(self, feed: int) -> Target:
        where = urlsplit(self._deployment.url)
        path = f"{where.path or '/'}{'?' if where.query else ''}{where.query}"
        return Target(feed, path, dict(self._deployment.headers), self._deployment.query)


def reaches(scenario: Scenario) -> bool:
    """Whether a scenario can be played on a deployment that is reached from outside only."""
    steps = (step.split()[1] for step in scenario.steps)
    return set(steps) <= _REACHED and not (scenario.log or scenario.tls or scenario.settings)
