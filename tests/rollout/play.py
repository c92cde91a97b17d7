"""A rollout as Kubernetes does it, step by step, behind a real nginx, and what clients had of it.

With `maxSurge: 1, maxUnavailable: 0` the Deployment starts one new pod; when that is ready, an old
one is marked: it gets SIGTERM at once, and its address leaves the Service at the same time, which
proxies learn some seconds later. The next new pod is started without waiting for the old one's end.
nginx learns by a reload whose old workers stay for as long as their streams: to streams that is
what ingress-nginx does without a reload. SIGKILL, which follows the grace period, is a failure.
"""

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp
from bench.chaos.crowd import Errand
from bench.chaos.judge import Judgement, judge
from bench.chaos.processes import Relay
from tests.broker.programs import VALKEY, Program
from tests.ingress.fronts import NGINX, Front
from tests.rollout.clients import Chronicle, Walker

from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream

_PUMP_S = 0.01
_SAMPLE_S = 0.5
# How long what should come true at once may take on a machine that does everything by itself.
_SOON_S = 60.0
# To open them all takes a while; no herd is to be measured there.
_OPEN_PER_S = 150


@dataclass(frozen=True, slots=True)
class Size:
    """How much, and how long. `rate` is events per second and feed; `lag_s` what the proxy is
    behind; `pull_s` what a new pod takes before its process starts; `retry_s` is `stream.retry`.
    """

    clients: int
    feeds: int
    rate: float
    delay_s: float
    spread_s: float
    lag_s: float
    pull_s: float
    retry_s: float
    replicas: int = 3

    @property
    def grace_s(self) -> float:
        """terminationGracePeriodSeconds."""
        return self.delay_s + self.spread_s + 10


SMALL = Size(240, 40, 4.0, delay_s=1.5, spread_s=4, lag_s=0.5, pull_s=0, retry_s=0.3)
FULL = Size(3000, 300, 0.5, delay_s=10, spread_s=10, lag_s=3, pull_s=10, retry_s=3)


@dataclass(slots=True)
class Pod:
    """One replica's life, in seconds from the rollout's beginning; 0 is before it."""

    name: str
    ready_s: float = 0.0
    signalled_s: float | None = None
    unready_s: float | None = None  # /readyz was seen to fail
    gone_s: float | None = None
    code: int | None = None
    streams: list[tuple[float, int]] = field(default_factory=list)  # when, how many

    @property
    def most_streams(self) -> int:
        return max((count for _, count in self.streams), default=0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it came to."""

    size: Size
    judgement: Judgement
    chronicle: Chronicle
    pods: tuple[Pod, ...]
    began_s: float  # by the clock of the chronicle
    took_s: float

    @property
    def reconnects_s(self) -> list[float]:
        """When clients came back, from the rollout's beginning."""
        return [at_s - self.began_s for at_s in self.chronicle.opened_s if at_s > self.began_s]

    @property
    def busiest_second(self) -> int:
        """The most reconnects within any one second, wherever it begins."""
        times_s, most, first = sorted(self.reconnects_s), 0, 0
        for last, at_s in enumerate(times_s):
            while at_s - times_s[first] > 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    @property
    def bound(self) -> float:
        """What no second may exceed: each pod ends its streams evenly over the spread; where pods
        do so at once, their sum; and chance on top, four deviations of it.
        """
        size = self.size
        ends = []
        for pod in self.pods[: size.replicas]:
            assert pod.signalled_s is not None
            rate = pod.most_streams / size.spread_s
            begin_s = pod.signalled_s + size.delay_s + size.retry_s
            ends += [(begin_s, rate), (begin_s + size.spread_s + size.retry_s / 2 + 1, -rate)]
        even = most = 0.0
        for _, change in sorted(ends):
            even += change
            most = max(most, even)
        return most + 4 * most**0.5


class Cluster:
    """Replicas, a Redis, an API, nginx and clients. Use it as a context."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.chronicle = Chronicle()
        self.walkers: list[Walker] = []
        self.said: list[list[float]] = [[] for _ in range(size.feeds)]  # when, of each feed
        self.pods: list[Pod] = []
        self.began_s = 0.0
        self._relays: list[Relay] = []
        self._endings: list[asyncio.Task[None]] = []
        self._life = AsyncExitStack()
        self._pumping = True

    async def __aenter__(self) -> Self:
        try:
            await self._set_up()
        except BaseException:
            await self._life.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._life.aclose()

    async def _set_up(self) -> None:
        size = self.size
        self._folder = Path(self._life.enter_context(tempfile.TemporaryDirectory(prefix="roll-")))
        self._session = await self._life.enter_async_context(aiohttp.ClientSession())
        users = (size.feeds + 1) // 2
        no_limits = {"connects_per_minute": 0, "failed_auth_per_minute": 0}
        self.simulator = Simulator(SimulatorOptions(users=users, rate=0, **no_limits))
        await self.simulator.start()
        self._life.push_async_callback(self.simulator.stop)
        kinds = tuple(Stream)
        self.feeds = [
            (self.simulator.users[feed // 2], kinds[feed % 2]) for feed in range(size.feeds)
        ]
        self._redis = Program(VALKEY)
        self._life.callback(self._redis.end)
        await asyncio.to_thread(self._redis.start)
        self._life.push_async_callback(self._end_pods)
        first = [self._new_pod() for _ in range(size.replicas)]
        await asyncio.gather(*(relay.start(self._session) for relay in first))
        plain = {"listen 443 ssl http2;": "listen 443;"}  # thousands of handshakes say nothing here
        front = Front(NGINX, self._urls(first), self.simulator.url, tls=False, changes=plain)
        self.front = await self._life.enter_async_context(front)
        for going_on in (self._pump(), self._sample()):
            self._life.push_async_callback(_end, asyncio.ensure_future(going_on))
        await self._open_clients()

    def _new_pod(self) -> Relay:
        size = self.size
        number = len(self._relays)
        settings = {
            "UPSTREAM__BASE_URL": self.simulator.url,
            "REDIS__URL": self._redis.url,
            "REDIS__HASH_SECRET": "a secret of this rollout, shared by its replicas",
            "PROXY__TRUSTED": '["127.0.0.1/32"]',
            "STREAM__RETRY": size.retry_s,
            "DRAIN__DELAY": size.delay_s,
            "DRAIN__SPREAD": size.spread_s,
        }
        relay = Relay(number, settings, self._folder)
        self._relays.append(relay)
        self.pods.append(Pod(f"{'old' if number < size.replicas else 'new'} {number}"))
        return relay

    async def _end_pods(self) -> None:
        await asyncio.gather(*(relay.end() for relay in self._relays))

    def _urls(self, relays: list[Relay]) -> list[str]:
        return [f"http://127.0.0.1:{relay.port}" for relay in relays]

    async def _open_clients(self) -> None:
        for number in range(self.size.clients):
            feed = number % self.size.feeds
            user, stream = self.feeds[feed]
            errand = Errand(feed, stream.path, {"x-api-key": user.key})
            self.walkers.append(Walker(errand, self.front.port, self.chronicle))
            await asyncio.sleep(1 / _OPEN_PER_S)
        self._life.push_async_callback(self._close_clients)
        await self.until(lambda: all(one.last_id for one in self.walkers), "all have an event")

    async def _close_clients(self) -> None:
        await asyncio.gather(*(one.close() for one in self.walkers))

    # -- going on all along

    async def _pump(self) -> None:
        """Upstream says something on every feed, one after the other, so many times a second."""
        size = self.size
        begun_s, said = time.monotonic(), 0
        while self._pumping:
            await asyncio.sleep(_PUMP_S)
            for _ in range(int((time.monotonic() - begun_s) * size.rate * size.feeds) - said):
                user, stream = self.feeds[said % size.feeds]
                self.said[said % size.feeds].append(time.time())
                self.simulator.emit(user.id, stream)
                said += 1
        await asyncio.Event().wait()

    async def _sample(self) -> None:
        """How many streams each replica has."""
        while True:
            for relay, pod in zip(self._relays, self.pods, strict=True):
                if relay.alive and self.began_s:
                    with suppress(aiohttp.ClientError):
                        pod.streams.append((self.since(), await relay.streams(self._session)))
            await asyncio.sleep(_SAMPLE_S)

    # -- steps

    def since(self) -> float:
        """Seconds from the rollout's beginning."""
        return round(time.monotonic() - self.began_s, 3)

    async def roll(self) -> None:
        """Replace every replica."""
        self.began_s = time.monotonic()
        serving = list(self._relays)
        for old in tuple(serving):
            new = self._new_pod()
            await asyncio.sleep(self.size.pull_s)
            await new.start(self._session)
            self.pods[new.number].ready_s = self.since()
            self._endings.append(asyncio.ensure_future(self._terminate(old)))
            await asyncio.sleep(self.size.lag_s)
            serving = [one for one in serving if one is not old] + [new]
            await self.front.point_at(self._urls(serving))
        await asyncio.gather(*self._endings)

    async def _terminate(self, relay: Relay) -> None:
        pod = self.pods[relay.number]
        pod.signalled_s = self.since()
        relay.signal(signal.SIGTERM)
        while await relay.ready(self._session):  # noqa: ASYNC110 - somebody else's process
            await asyncio.sleep(0.01)
        pod.unready_s = self.since()
        pod.code = await relay.exit(self.size.grace_s - (self.since() - pod.signalled_s))
        pod.gone_s = self.since()

    async def finish(self) -> None:
        """Upstream falls silent; every client gets what was said until then."""
        await self.until(lambda: all(one.open for one in self.walkers), "all stream again")
        self._pumping = False
        await asyncio.sleep(2 * _PUMP_S)

        def have_it() -> bool:
            return all(one.diary.newest >= len(self.said[one.diary.feed]) for one in self.walkers)

        with suppress(AssertionError):  # the judge says more about what is missing
            await self.until(have_it, "the end of the story")

    async def until(self, true: Callable[[], bool], said: str) -> None:
        try:
            async with asyncio.timeout(_SOON_S):
                while not true():  # noqa: ASYNC110 - any condition
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "\n".join(relay.said[-1500:] for relay in self._relays)
            raise AssertionError(f"not within {_SOON_S} s: {said}\n{logs}") from None


async def play(size: Size) -> Outcome:
    """Roll every replica while clients stream, and judge."""
    async with Cluster(size) as cluster:
        await cluster.roll()
        took_s = cluster.since()
        await cluster.finish()
        diaries = [one.diary for one in cluster.walkers]
        return Outcome(
            size=size,
            judgement=judge(diaries, cluster.said),
            chronicle=cluster.chronicle,
            pods=tuple(cluster.pods),
            began_s=cluster.began_s,
            took_s=took_s,
        )


async def _end(task: "asyncio.Task[None]") -> None:
    failed = task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not failed, "a part of the rollout has ended before its time"
