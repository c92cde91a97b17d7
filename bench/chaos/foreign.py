"""A deployment of yours: clients and judge against its address, through a road of the kit's.

Here its relay reads the kit's upstream, which numbers what it says; what can be done to it from
outside is done: to the upstream, and to the clients' road. `observe` leaves it its own upstream.
"""

import os
import random
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench.chaos.crowd import Errand
from bench.chaos.library import Target
from bench.chaos.plan import Episode, Scenario, alone, together
from bench.chaos.road import Road
from bench.chaos.stage import Setting, Size, Stage
from bench.machine import BenchError
from lebureau_relay.errors import StartError

# What is far away, and asks others first, may take its time.
ANSWER_S = 15.0
SIZE = Size(feeds=1, tabs=20, rate=5.0, retry_s=1.0, silence_s=45.0)
_REACHED = {"upstream", "clients"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where it is, what clients show it, and where the kit's upstream listens for it."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    query: str = field(repr=False)  # a credential for clients that can't send headers
    upstream_host: str = "127.0.0.1"
    upstream_port: int = 0


class ForeignStage(Stage):
    """A stage whose relay is somebody else's, and somewhere else."""

    def __init__(
        self, deployment: Deployment, seed: int, *, size: Size = SIZE, libraries: bool = True
    ) -> None:
        super().__init__(size, Setting(libraries=libraries), seed)
        self._deployment = deployment

    async def opened(self) -> None:
        """Raises BenchError if some client hears nothing."""
        try:
            await super().opened()
        except TimeoutError:
            deaf = sum(not diary.numbers for diary in self.diaries)
            raise BenchError(
                f"{deaf} of {len(self.diaries)} clients got no event: is there a relay at --url, "
                "does it take the credential, and does it read the kit's upstream?"
            ) from None

    async def _start_upstream(self) -> None:
        asked = self._deployment
        try:
            await self.upstream.start(asked.upstream_host, asked.upstream_port)
        except StartError as error:
            raise BenchError(str(error)) from None
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
        target = Target(feed, path, dict(self._deployment.headers), self._deployment.query)
        # Nobody comes without a credential where there is one.
        return target if target.headers else replace(target, path=target.path_with_key, query="")

    def _errand(self, feed: int) -> Errand:
        return replace(super()._errand(feed), answer_s=ANSWER_S)

    def _log(self, _name: str) -> Path:
        """Nowhere: what programs complain of may have the address in it, and so a credential."""
        return Path(os.devnull)


def reachable(scenario: Scenario) -> Scenario | None:
    """A scenario, if it can be played on a deployment that is reached from outside only."""
    steps = {step.split()[1] for step in scenario.steps}
    own = scenario.log or scenario.tls or scenario.workers > 1 or scenario.settings
    return scenario if steps <= _REACHED and not own else None


def chosen(
    known: Mapping[str, Scenario], names: Sequence[str], part: Callable[[Scenario], Scenario | None]
) -> list[tuple[Scenario, ...]]:
    """Of each name what can be played there, by `part`; a+b: at once. All that can, if no name or
    `all` is given. Raises BenchError for a name of which nothing can.
    """
    parts = {name: fit for name, one in known.items() if (fit := part(one))}
    if not names or "all" in names:
        return [(one,) for one in parts.values()]
    if unfit := {one for name in names for one in name.split("+")} - set(parts):
        raise BenchError(
            f"{', '.join(sorted(unfit))} can't be played on it; these can: {', '.join(parts)}"
        )
    return [tuple(parts[one] for one in name.split("+")) for name in names]


def episode(parts: Sequence[Scenario], seed: int) -> Episode:
    """One by itself, or several at once."""
    dice = random.Random(f"{seed}:{'+'.join(one.name for one in parts)}")
    return together(parts, dice, "one") if parts[1:] else alone(parts[0], dice, 1)


def mistake(url: str) -> str:
    """What is wrong with an address; empty if nothing is. It is not repeated: it may hold a
    credential.
    """
    try:
        where = urlsplit(url)
        _ = where.port
    except ValueError:
        return "is no address"
    if where.scheme not in {"http", "https"} or not where.hostname:
        return "must begin with http:// or https:// and a host"
    if "@" in where.netloc:
        return "must not have a credential before the host: give it as --header"
    return "" if url.isascii() and " " not in url else "must be written as a client sends it"


def headers_of(lines: Iterable[str]) -> dict[str, str]:
    """Of `name: value`, where the value may be `env:NAME` or `file:PATH`: arguments are read by
    everybody on a machine. Raises BenchError, which tells no value.
    """
    headers = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if not (colon and name.strip()) or not value.strip():
            raise BenchError(f"--header number {number} is not 'name: value'")
        headers[name.strip()] = secret(value.strip())
    return headers


def query_of(text: str) -> str:
    """Of `key=value`, the same. Raises BenchError."""
    key, equals, value = text.partition("=")
    if text and not (key and equals and value):
        raise BenchError("--query is not 'key=value'")
    return f"{key}={secret(value)}" if text else ""


def secret(text: str) -> str:
    """A value, or what `env:NAME` or `file:PATH` holds. Raises BenchError, which does not tell."""
    kind, _, where = text.partition(":")
    if kind == "env":
        text = os.environ.get(where, "")
        if not text:
            raise BenchError(f"the environment has no {where}")
    elif kind == "file":
        try:
            text = Path(where).read_text().strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise BenchError(f"can't read {where}: {why}") from None
    if not (text.isascii() and text.isprintable() and text):
        raise BenchError("a header's or a query's value is empty, or has signs that neither takes")
    return text
