"""The stage: a simulated API, a Redis, relays as programs, and clients over real sockets.

The API runs in this process, so that what is open there can be looked at all along; everything that
is to be killed or stopped is a process.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp
from bench.chaos.crowd import Errand, Tab
from bench.chaos.judge import Judgement, judge
from bench.chaos.processes import Relay
from bench.chaos.road import Road
from bench.chaos.story import Story
from tests.broker.programs import VALKEY, Program, until
from tests.replicas.fences import Fences

from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream

# A look at every feed's upstream: what lasts shorter may go unseen.
_LOOK_S = 0.005
_ROLES_S = 0.5
_PUMP_S = 0.01
# How long what should come true at once may take on a machine that does everything by itself.
_SOON_S = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much, and how long. `rate` is events per second and feed; `lease_s` is the setting."""

    feeds: int
    tabs: int
    rate: float
    lease_s: float
    pause_s: float
    replicas: int = 3
    spread_s: float = 1.0


@dataclass(slots=True)
class Watch:
    """What was open upstream, feed by feed, at every look."""

    peaks: list[int]
    without_since_s: dict[int, float] = field(default_factory=dict)
    without: list[tuple[float, int, float]] = field(default_factory=list)  # when, feed, how long
    last: list[int] = field(default_factory=list)
    twice_s: float = 0.0  # the longest that any feed had more than one, in one piece
    _twice_since_s: dict[int, float] = field(default_factory=dict)

    def look(self, counts: list[int], now_s: float) -> None:
        if counts == self.last and not self._twice_since_s:
            return
        for feed, count in enumerate(counts):
            self.peaks[feed] = max(self.peaks[feed], count)
            if count == 0:
                self.without_since_s.setdefault(feed, now_s)
            elif feed in self.without_since_s:
                since_s = self.without_since_s.pop(feed)
                self.without.append((since_s, feed, now_s - since_s))
            if count > 1:
                since_s = self._twice_since_s.setdefault(feed, now_s)
                self.twice_s = max(self.twice_s, now_s - since_s)
            else:
                self._twice_since_s.pop(feed, None)
        self.last = counts


class Stage:
    """Everything that a scenario plays on. Use it as a context; `settings` are over the usual."""

    def __init__(
        self, size: Size, *, roads: bool = False, sentinel: bool = False, **settings: object
    ) -> None:
        self.size = size
        self.relays: list[Relay] = []
        self.roads: list[Road] = []
        self.servers: list[Program] = []  # those that hold data; the master first
        self.tabs: list[Tab] = []
        self.watch = Watch([0] * size.feeds)
        self.fences: list[Fences] = []
        self.told: list[str] = []  # what a scenario has to say beside the judgement
        self._with_roads = roads
        self._more = settings
        self._with_sentinel = sentinel
        self._life = AsyncExitStack()
        self._most_owners = 0

    async def __aenter__(self) -> Self:
        try:
            await self._set_up()
        except BaseException:
            await self._life.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._life.aclose()

    # -- setting up

    async def _set_up(self) -> None:
        size = self.size
        folder = Path(self._life.enter_context(tempfile.TemporaryDirectory(prefix="replicas-")))
        self._session = await self._life.enter_async_context(aiohttp.ClientSession())
        self.simulator = Simulator(
            SimulatorOptions(
                users=(size.feeds + 1) // 2,
                rate=0,
                connects_per_minute=0,
                failed_auth_per_minute=0,
            )
        )
        await self.simulator.start()
        self._life.push_async_callback(self.simulator.stop)
        kinds = tuple(Stream)
        self.feeds = [
            (self.simulator.users[feed // 2].id, kinds[feed % 2]) for feed in range(size.feeds)
        ]
        self.story = Story(size.feeds, self._tell)
        urls = await self._redis_urls()
        for server in self.servers:
            self.fences.append(Fences(server.port))
            self._life.push_async_callback(self.fences[-1].end)
            await self.fences[-1].watching.wait()
        for number, url in enumerate(urls):
            self.relays.append(Relay(number, self._settings(url), folder))
            self._life.push_async_callback(self.relays[-1].end)
        await asyncio.gather(*(relay.start(self._session) for relay in self.relays))
        for look in (self.story.go_on(size.rate), self._look(), self._look_at_roles()):
            task = asyncio.ensure_future(look)
            self._life.push_async_callback(_end, task)
        await self._open_tabs()

    async def _redis_urls(self) -> list[str]:
        if self._with_sentinel:
            return [await asyncio.to_thread(self._start_sentinel)] * self.size.replicas
        server = Program(VALKEY)
        self._life.callback(server.end)
        await asyncio.to_thread(server.start)
        self.servers.append(server)
        if not self._with_roads:
            return [server.url] * self.size.replicas
        for _ in range(self.size.replicas):
            self.roads.append(await Road(server.port).start())
            self._life.push_async_callback(self.roads[-1].end)
        return [f"redis://127.0.0.1:{road.port}" for road in self.roads]

    def _start_sentinel(self) -> str:
        """A master, a replica of it, and one Sentinel that decides alone."""
        master = Program(VALKEY)
        follower = Program(VALKEY, "--replicaof", f"127.0.0.1 {master.port}")
        lines = (
            f"sentinel monitor lebureau 127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds lebureau 500",
            "sentinel failover-timeout lebureau 2000",
        )
        sentinel = Program(VALKEY, config="\n".join(lines))
        for program in (master, follower, sentinel):
            self._life.callback(program.end)
        master.start()
        follower.start()
        until(lambda: "up" in str(follower.ask("INFO", "replication")), "the replica is in step")
        sentinel.start()
        until(
            lambda: len(sentinel.ask("SENTINEL", "REPLICAS", "lebureau")) == 1,
            "Sentinel has found the replica",
        )
        self.servers += [master, follower]
        return f"redis+sentinel://127.0.0.1:{sentinel.port}/lebureau"

    def _settings(self, redis_url: str) -> dict[str, object]:
        size = self.size
        return {
            "UPSTREAM__BASE_URL": self.simulator.url,
            "UPSTREAM__RETRY_MIN": 0.1,
            "UPSTREAM__RETRY_MAX": 1,
            "REDIS__URL": redis_url,
            "REDIS__HASH_SECRET": "a secret of this stage, shared by its replicas",
            "REDIS__LEASE_TTL": size.lease_s,
            "LIMITS__CONNECTS_PER_MINUTE": 0,
            "STREAM__HEARTBEAT": 1,
            "STREAM__RETRY": 0.05,
            "DRAIN__SPREAD": size.spread_s,
        } | self._more

    async def _open_tabs(self) -> None:
        """Clients, spread so that every feed has some on every replica."""
        size = self.size
        keys = {user.id: user.key for user in self.simulator.users}
        ports = [relay.port for relay in self.relays]
        for number in range(size.tabs):
            feed = number % size.feeds
            user, stream = self.feeds[feed]
            home = (number // size.feeds + feed) % size.replicas
            self.tabs.append(Tab(Errand(feed, stream.path, {"x-api-key": keys[user]}), ports, home))
            if number % 20 == 19:
                await asyncio.sleep(_PUMP_S)  # not all in one instant
        self._life.push_async_callback(self._close_tabs)

    async def _close_tabs(self) -> None:
        await asyncio.gather(*(tab.close() for tab in self.tabs))

    # -- going on all along

    def _tell(self, feed: int, payload: dict[str, object]) -> str:
        return self.simulator.emit_event(*self.feeds[feed], "chaos", payload).id or ""

    async def _look(self) -> None:
        channels = [self.simulator._world.channel(user, stream) for user, stream in self.feeds]
        while True:
            self.watch.look([channel.open for channel in channels], time.monotonic())
            await asyncio.sleep(_LOOK_S)

    async def _look_at_roles(self) -> None:
        while True:
            await asyncio.sleep(_ROLES_S)
            self._most_owners = max(self._most_owners, *(await self.owners()).values(), 0)

    async def owners(self) -> dict[tuple[str, str], int]:
        """How many replicas say that they own it, feed by feed."""
        found: dict[tuple[str, str], int] = {}
        for roles in await asyncio.gather(*(relay.roles(self._session) for relay in self.relays)):
            for feed, role in roles.items():
                found[feed] = found.get(feed, 0) + (role == "owner")
        return found

    async def replicas(self) -> list[dict[str, object]]:
        """What the first that answers says of all."""
        for relay in self.relays:
            if relay.alive:
                return await relay.replicas(self._session)
        return []

    async def busiest(self) -> tuple[Relay, int]:
        """The replica that owns the most feeds, and how many."""
        all_roles = await asyncio.gather(*(relay.roles(self._session) for relay in self.relays))
        owned = [sum(role == "owner" for role in roles.values()) for roles in all_roles]
        return self.relays[owned.index(max(owned))], max(owned)

    # -- what scenarios do

    async def start(self, relay: Relay) -> None:
        await relay.start(self._session)

    async def on_server(self, *command: object) -> None:
        await asyncio.to_thread(self.servers[0].ask, *command)

    async def wait_for(
        self, true: Callable[[], Awaitable[bool]], said: str, timeout_s: float = _SOON_S
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not await true():  # noqa: ASYNC110 - somebody else's process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "\n".join(relay.said[-1500:] for relay in self.relays)
            raise AssertionError(f"not within {timeout_s} s: {said}\n{logs}") from None

    async def settled(self) -> None:
        """Every client streams and has had something, each feed has one upstream and one owner."""
        await self.wait_for(self._is_settled, "one upstream and one owner per feed again")

    async def _is_settled(self) -> bool:
        if not all(tab.open and tab.diary.numbers for tab in self.tabs):
            return False
        owners = await self.owners()
        return (
            self.watch.last == [1] * self.size.feeds
            and len(owners) == self.size.feeds
            and set(owners.values()) == {1}
        )

    async def finished(self) -> None:
        """Upstream falls silent; every client gets what was said until then."""
        self.story.silent = True

        async def have_it() -> bool:
            said = self.story.said
            return all(tab.diary.newest >= len(said[tab.diary.feed]) for tab in self.tabs)

        with suppress(AssertionError):  # the judge says more about what is missing
            await self.wait_for(have_it, "the end of the story", 15.0)

    def judge(self) -> Judgement:
        return judge([tab.diary for tab in self.tabs], self.story.said)

    def without_upstream(self, since_s: float) -> Sequence[float]:
        """For how long feeds had no upstream, of those that lost theirs after a moment."""
        return [length_s for at_s, _, length_s in self.watch.without if at_s >= since_s]

    @property
    def most_owners(self) -> int:
        return self._most_owners

    @property
    def violations(self) -> list[str]:
        return [one for fences in self.fences for one in fences.violations]

    @property
    def appends(self) -> int:
        return sum(fences.appends for fences in self.fences)


async def _end(task: "asyncio.Task[None]") -> None:
    failed = task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not failed, "a part of the stage has ended before its time"
