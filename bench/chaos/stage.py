"""The stage: a simulated API, roads, relays as programs, what they share, and clients.

The API, the roads and the crowd live in this process; whatever is killed or stopped is another.
"""

import asyncio
import logging
import random
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from bench.chaos.crowd import Errand, Heard, Tab
from bench.chaos.judge import Diary, Judgement, judge
from bench.chaos.library import LIBRARIES, Library, Reader, Target, reader
from bench.chaos.processes import Relay, Valkey
from bench.chaos.road import Road
from bench.chaos.story import Story
from bench.chaos.strangers import Strangers
from bench.chaos.world import HOST, Certificate, World, compile_world
from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream

# How long what should come true at once may take on a machine that does everything by itself.
_SOON_S = 180.0
_ENDINGS = 3
HEARTBEAT_S = 1
# What is due goes out within a quarter of a heartbeat, and everybody reads it.
_BEAT_DELAY_S = 0.5
_WORD_S = 10.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much, and how fast. `rate` is events per second and feed; a client comes back after
    `retry_s`, and gives up what has been silent for `silence_s`; the relay waits `answer_s` for
    upstream's headers, and half as long again for its next byte.
    """

    feeds: int
    tabs: int
    rate: float
    lease_s: float = 2.0
    spread_s: float = 1.0
    retry_s: float = 0.1
    silence_s: float = 4.0
    answer_s: float = 2.0


SMALL = Size(feeds=8, tabs=40, rate=5.0)
# A thousand clients that share two cores with everything that they talk to need some patience.
LARGE = Size(200, 1000, 0.5, lease_s=6.0, spread_s=5.0, retry_s=2.0, silence_s=15.0, answer_s=8.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a stage is made of; stages of one setting are alike."""

    replicas: int = 1
    log: str = ""
    tls: bool = False
    workers: int = 1  # of each relay
    settings: tuple[tuple[str, Any], ...] = ()
    libraries: bool = True  # real clients, too


class Stage:
    """Everything that scenarios play on, as a context. What `acts` does, it does to these."""

    def __init__(self, size: Size, setting: Setting, seed: int = 0) -> None:
        self.size = size
        self.setting = setting
        self.relays: list[Relay] = []
        self.worlds: list[World] = []
        self.fronts: list[Road] = []  # before each relay
        self.redis_roads: list[Road] = []
        self.redis: Valkey | None = None
        self.certificate: Certificate | None = None
        self.tabs: list[Tab] = []
        self.readers: list[Reader] = []  # real clients, each on a road of its own
        self.reader_roads: list[Road] = []
        self.strangers = Strangers()
        self.id_bytes = 0  # of upstream's ids, where they are to be longer than usual
        self.on_event: Heard | None = None  # asks the crowd what a relay calls events
        self.dice = random.Random(seed)
        self._life = AsyncExitStack()

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
        self.folder = Path(self._life.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        self.session = await self._life.enter_async_context(aiohttp.ClientSession())
        self._library = compile_world(self.folder)
        if self.setting.tls:
            self.certificate = Certificate(self._library, self.folder)
        await self._set_up_upstream()
        await self._set_up_relays()
        telling = asyncio.ensure_future(self.story.go_on(self.size.rate))
        self._life.push_async_callback(_end, telling)
        self._life.push_async_callback(self.strangers.leave)
        await self._open_tabs()
        await self._open_readers()

    async def new_road(self, *to_ports: int, tls: Any = None) -> Road:
        road = await Road(*to_ports, seed=self.dice.randrange(1 << 30), tls=tls).start()
        self._life.push_async_callback(road.end)
        return road

    async def _set_up_upstream(self) -> None:
        size = self.size
        options = SimulatorOptions(
            users=(size.feeds + 1) // 2,
            rate=0,
            heartbeat_s=HEARTBEAT_S,
            connects_per_minute=0,
            failed_auth_per_minute=0,
        )
        # Requests that break while they are answered are what this is about; no line for each.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
        self.upstream = Simulator(options)
        kinds = tuple(Stream)
        users = self.upstream.users
        self.feeds = [(users[feed // 2], kinds[feed % 2]) for feed in range(size.feeds)]
        await self._start_upstream()
        self._life.push_async_callback(self.upstream.stop)
        self.upstream_port = int(self.upstream.url.rpartition(":")[2])
        self.story = Story(size.feeds, self._tell)
        tls = self.certificate.context if self.certificate else None
        self.road = await self.new_road(self.upstream_port, tls=tls)

    async def _start_upstream(self) -> None:
        await self.upstream.start()

    def _tell(self, feed: int, payload: dict[str, object]) -> str:
        user, stream = self.feeds[feed]
        event_id = f"long-{payload['n']}-".ljust(self.id_bytes, "x") if self.id_bytes else ...
        said = self.upstream.emit_event(user.id, stream, "chaos", payload, event_id=event_id)
        return said.id or ""

    async def _set_up_relays(self) -> None:
        urls = await self._set_up_redis()
        for number, url in enumerate(urls):
            world = World(self._library, self.folder / f"world-{number}")
            env = world.env
            if self.certificate is not None:
                env = env | {"SSL_CERT_FILE": str(self.certificate.trusted)}
            settings = self._settings(url)
            relay = Relay(number, settings, self.folder, env, self.setting.workers)
            relay.log = self.setting.log
            self.worlds.append(world)
            self.relays.append(relay)
            self._life.push_async_callback(relay.end)
            self.fronts.append(await self.new_road(relay.port))
        await asyncio.gather(*(relay.start(self.session) for relay in self.relays))

    async def _set_up_redis(self) -> list[str]:
        if self.setting.replicas == 1:
            return [""]
        self.redis = Valkey(self.folder)
        self._life.push_async_callback(self.redis.end)
        await self.redis.start()
        self.redis_roads = [
            await self.new_road(self.redis.port) for _ in range(self.setting.replicas)
        ]
        return [f"redis://127.0.0.1:{road.port}" for road in self.redis_roads]

    def _settings(self, redis_url: str) -> dict[str, object]:
        scheme = "https" if self.setting.tls else "http"
        chosen: dict[str, object] = {
            "UPSTREAM__BASE_URL": f"{scheme}://{HOST}:{self.road.port}",
            "UPSTREAM__RETRY_MIN": 0.1,
            "UPSTREAM__RETRY_MAX": 1,
            "UPSTREAM__CONNECT_TIMEOUT": self.size.answer_s,
            "UPSTREAM__IDLE_TIMEOUT": 1.5 * self.size.answer_s,
            "AUTH__RECHECK_INTERVAL": 15,
            "LIMITS__CONNECTS_PER_MINUTE": 0,
            "LIMITS__FAILED_AUTH_PER_MINUTE": 100_000,
            "LIMITS__UPSTREAM_AUTH_FAILURES_PER_MINUTE": 100_000,
            "STREAM__HEARTBEAT": HEARTBEAT_S,
            "STREAM__RETRY": self.size.retry_s,
            "STREAM__WRITE_TIMEOUT": 3,
            "DRAIN__SPREAD": self.size.spread_s,
        }
        if redis_url:
            chosen |= {
                "REDIS__URL": redis_url,
                "REDIS__HASH_SECRET": "a secret of this stage, shared by its replicas",
                "REDIS__LEASE_TTL": self.size.lease_s,
            }
        return chosen | dict(self.setting.settings)

    async def _open_tabs(self) -> None:
        """Clients, spread so that every feed has some on every replica."""
        size, replicas = self.size, len(self.fronts)
        ports = [road.port for road in self.fronts]
        for number in range(size.tabs):
            feed = number % size.feeds
            home = (number // size.feeds + feed) % replicas
            seed = self.dice.randrange(1 << 30)
            self.tabs.append(Tab(self._errand(feed), ports, home, seed, self.on_event))
            if number % 20 == 19:
                await asyncio.sleep(0.1)  # not all in one instant
        self._life.push_async_callback(self._close_tabs)

    def _errand(self, feed: int) -> Errand:
        target = self._target(feed)
        return Errand(
            feed,
            target.path,
            target.headers,
            retry_s=self.size.retry_s,
            silence_s=self.size.silence_s,
            number=target.number,
        )

    def _target(self, feed: int) -> Target:
        """What clients of a feed ask for."""
        user, stream = self.feeds[feed]
        return Target(feed, stream.path, {"x-api-key": user.key}, f"apiKey={user.key}")

    async def _new_front(self) -> Road:
        """A road for one client alone, to whichever relay takes it."""
        return await self.new_road(*(relay.port for relay in self.relays))

    async def _open_readers(self) -> None:
        """Every library that is here, each on a feed of its own as far as there are so many."""
        for number, library in enumerate(LIBRARIES if self.setting.libraries else ()):
            if not library.missing():
                await self._open_reader(library, self._target(number % self.size.feeds))

    async def _open_reader(self, library: Library, target: Target) -> None:
        road = await self._new_front()
        client = reader(library, target, road, self._log(library.name))
        self.reader_roads.append(road)
        self.readers.append(await client.start())
        self._life.push_async_callback(client.end)

    def _log(self, _name: str) -> Path:
        return self.folder / f"{_name}.log"

    async def _close_tabs(self) -> None:
        await asyncio.gather(*(tab.close() for tab in self.tabs))

    # -- what every scenario needs

    @property
    def diaries(self) -> list[Diary]:
        return [client.diary for client in (*self.tabs, *self.readers)]

    async def opened(self) -> None:
        """Every client streams and has had so much that a relay can prove where it stands."""
        clients = (*self.tabs, *self.readers)
        await self.wait_for(
            lambda: all(len(one.diary.numbers) > 2 or one.given_up for one in clients),
            "all come in",
        )
        await self.quiet()

    async def quiet(self) -> None:
        """Let upstream have nothing to say for two heartbeats, and turn the page: until a relay has
        seen one, it is patient with silence. An API that says five events a second sends none.
        """
        self.story.silent = True
        await asyncio.sleep(2 * HEARTBEAT_S + _BEAT_DELAY_S)
        self.story.say_everywhere()  # this silence is nobody's fault: the next begins here
        with suppress(TimeoutError):
            await self.wait_for(lambda: self.all_have_all, "a word after a silence", _WORD_S)
        for road in self.reader_roads:
            road.arrivals.clear()
        for diary in self.diaries:
            diary.turn_page()
        self.story.silent = False

    @property
    def upstream_is_up(self) -> bool:
        return self.upstream._runner is not None  # noqa: SLF001 - it doesn't say

    async def judged(self) -> Judgement:
        """Let upstream fall silent, everybody get what was said, and turn the page. Who has not
        got it after long has lost it.
        """
        self.story.silent = True
        # So many that a relay whose upstream has forgotten all before can prove itself next time.
        self.story.say_everywhere()
        self.story.say_everywhere()
        for _ in range(_ENDINGS):
            # An upstream that forgot the last word while nobody listened is found out by the next.
            self.story.say_everywhere()
            with suppress(TimeoutError):  # the judge says what is missing
                patience_s = 15 * self.size.answer_s / _ENDINGS
                await self.wait_for(lambda: self.all_have_all, "the end of the story", patience_s)
                break
        for client in self.readers:
            client.close_page(self.story)
        for diary in self.diaries:
            diary.sure = [self.story.number(diary.feed, one) or -1 for one in diary.gap_ids]
        judgement = judge(self.diaries, self.story.said)
        for diary in self.diaries:
            diary.turn_page()
        for client in self.readers:
            if client.diary.gone:
                await client.begin_again()
        self.story.silent = False
        return judgement

    @property
    def all_have_all(self) -> bool:
        """Every client has the newest event of its feed."""
        said = self.story.said
        tabs = all(tab.diary.newest >= len(said[tab.diary.feed]) for tab in self.tabs)
        return tabs and all(
            one.given_up or one.diary.newest >= len(said[one.diary.feed]) for one in self.readers
        )

    async def together(self) -> None:
        """No relay goes alone any more. Raises TimeoutError."""
        alone = list(self.relays)
        async with asyncio.timeout(_SOON_S):
            while alone:
                if "solo" in (await alone[-1].roles(self.session)).values():
                    await asyncio.sleep(0.1)
                else:
                    alone.pop()

    async def wait_for(self, true: Any, said: str, timeout_s: float = _SOON_S) -> None:
        """Raises TimeoutError, which says what didn't come true and how the relays fare."""
        try:
            async with asyncio.timeout(timeout_s):
                while not true():  # noqa: ASYNC110 - any condition, also one that nobody signals
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "\n".join(relay.said[-1500:] for relay in self.relays)
            raise TimeoutError(f"not within {timeout_s} s: {said}\n{logs}") from None

    def some_tabs(self, one_in: int) -> Sequence[Tab]:
        return self.tabs[::one_in]


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
