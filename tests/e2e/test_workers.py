"""`serve --workers`: processes on one port that are one relay, and a parent that keeps them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from tests.e2e.clients import SseClient, address, ask, breaks, eventually
from tests.e2e.conftest import Metrics, Program

SECRET = "a secret that is the same for all replicas"
LEASE_TTL_S = 2.0

pytestmark = pytest.mark.server


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def lives(pid: int) -> bool:
    """Whether it runs; who is dead and not yet taken leave of does not."""
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


class Crew:
    """A parent with its workers, as they tell of themselves."""

    def __init__(self, program: Program, size: int) -> None:
        self.program = program
        self.size = size
        self.pids: set[int] = set()

    async def started(self, times: int = 1) -> "Crew":
        """Wait until every worker has said that it serves, in all so often."""
        said = self.program.said
        await eventually(
            lambda: (
                len(said("relay.started")) >= self.size * times
                or self.program.process.returncode is not None
            ),
            30,
        )
        assert self.program.process.returncode is None, self.program.stderr
        self.pids |= set(self.workers)
        return self

    @property
    def parent(self) -> int:
        return self.program.process.pid

    @property
    def workers(self) -> list[int]:
        return children(self.parent)

    @property
    def public_url(self) -> str:
        (url,) = {str(line["public"]) for line in self.program.said("relay.started")}
        return url

    def admin_url(self, number: int) -> str:
        lines = self.program.said("relay.started")
        return [str(line["admin"]) for line in lines if line["worker"] == number][-1]

    async def streams(self) -> list[int]:
        """How many each worker has open."""
        return [await self.count(n, "subscribers") for n in range(self.size)]

    async def count(self, number: int, name: str, **labels: str) -> int:
        reply = await ask(self.admin_url(number), "/metrics")
        return int(Metrics(reply.body.decode())(name, **labels))

    async def pid_of(self, number: int) -> int:
        """Which process listens on a worker's admin port: the one that hasn't closed it."""
        port = address(self.admin_url(number))[1]
        found = [pid for pid in self.workers if port in listens_on(pid)]
        assert len(found) == 1
        return found[0]

    async def close(self) -> None:
        for pid in self.pids | set(self.workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.program.kill()


def listens_on(pid: int) -> set[int]:
    """Ports of the listening sockets that a process holds."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held.add(link.readlink().name.removeprefix("socket:[").rstrip("]"))
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(one[1].split(":")[1], 16) for one in lines if one[3] == "0A" and one[9] in held}


@pytest.fixture
async def crew(simulator, program, valkey):
    """Starts crews: `crew(2, SECTION__NAME=value)`."""
    made = []

    async def start(size: int = 2, **settings) -> Crew:
        settings = {
            "REDIS__URL": valkey.url,
            "REDIS__HASH_SECRET": SECRET,
            "REDIS__LEASE_TTL": LEASE_TTL_S,
            "STREAM__HEARTBEAT": 0.2,
            "LIMITS__CONNECTS_PER_MINUTE": 0,
            "LIMITS__STREAMS_PER_USER": 1000,
        } | settings
        run = await program(simulator.url, "serve", "--workers", str(size), settings=settings)
        made.append(Crew(run, size))
        return await made[-1].started()

    yield start
    for each in made:
        await each.close()


async def on_every_worker(crew: Crew, connect) -> list[SseClient]:
    """Streams, until each worker has one."""
    clients: list[SseClient] = []
    for _ in range(20):
        clients += await asyncio.gather(*(connect(crew.public_url) for _ in range(10)))
        if all(await crew.streams()):
            return clients
        await asyncio.sleep(1.0)  # scrapes are cached for so long
        if all(await crew.streams()):
            return clients
    raise AssertionError(f"one worker takes them all: {await crew.streams()}")


# -- one relay


async def test_workers_share_one_subscription_and_one_history(simulator, user, crew, connect):
    one = await crew(2)
    clients = await on_every_worker(one, connect)
    simulator.emit(user.id, "desktops", 30)
    expected = [record.id for record in simulator.log(user.id, "desktops")]
    for client in clients:
        await client.has(30)
        assert client.ids == expected
    assert simulator.subscriptions_total == 1
    late = [await connect(one.public_url, cursor=expected[9]) for _ in range(6)]
    for client in late:
        await client.has(20)
        assert (client.ids, client.gaps) == (expected[10:], [])
    assert simulator.subscriptions_peak(user.id, "desktops") == 1


async def test_limits_hold_for_all_of_them(simulator, crew, connect):
    one = await crew(3, LIMITS__STREAMS_PER_USER=5, LIMITS__FAILED_AUTH_PER_MINUTE=3)
    clients = await asyncio.gather(*(connect(one.public_url) for _ in range(5)))
    key = simulator.user(1).key
    for _ in range(12):
        reply = await ask(one.public_url, key=key)
        assert (reply.status, reply.code) == (429, "too_many_streams")
    clients[0].close()

    async def let_in() -> bool:
        client = await connect(one.public_url, opened=False)
        await eventually(lambda: client.status)
        return client.status == 200

    async with asyncio.timeout(5):
        while not await let_in():  # noqa: ASYNC110 - the answer is another process's
            await asyncio.sleep(0.05)
    for n in range(3):
        assert (await ask(one.public_url, key=f"lb_k_bad{n}")).code == "invalid_credential"
    for n in range(12):
        assert (await ask(one.public_url, key=f"lb_k_late{n}")).code == "too_many_failures"


async def test_the_oldest_stream_goes_whichever_worker_has_it(crew, connect):
    one = await crew(2, LIMITS__STREAMS_PER_USER=4, LIMITS__ON_EXCESS="retire_oldest")
    clients = []
    for _ in range(12):
        clients.append(await connect(one.public_url))
        await asyncio.sleep(0.01)
    for client in clients[:-4]:
        await client.ended()
        assert client.reason == "retired"
    assert not [client for client in clients[-4:] if client.closed]


async def test_each_worker_has_an_admin_port_of_its_own(crew):
    one = await crew(3)
    urls = [one.admin_url(number) for number in range(3)]
    assert len(set(urls)) == 3
    for url in urls:
        assert (await ask(url, "/readyz")).status == 200


async def test_admin_ports_count_up_from_the_setting(crew):
    for _ in range(5):  # three ports in a row that nobody has: seldom not at once
        first = 20_000 + os.getpid() % 10_000 + int.from_bytes(os.urandom(1)) * 4
        with suppress(AssertionError):
            one = await crew(3, ADMIN__PORT=first)
            break
    urls = [one.admin_url(number) for number in range(3)]
    assert urls == [f"http://127.0.0.1:{first + number}" for number in range(3)]


# -- one of them dies


async def test_a_killed_worker_is_replaced_and_nothing_is_lost(simulator, user, crew, tab):
    one = await crew(2)
    tabs = [tab(one.public_url) for _ in range(30)]
    await eventually(lambda: all(each.connections and each.client.retry_ms for each in tabs))
    simulator.emit(user.id, "desktops", 10)
    await eventually(lambda: all(len(each.ids) == 10 for each in tabs))
    (number,) = [n for n in range(2) if await one.count(n, "feeds", role="owner")]
    admin_url, killed = one.admin_url(number), await one.pid_of(number)
    os.kill(killed, signal.SIGKILL)
    simulator.emit(user.id, "desktops", 10)
    await eventually(lambda: len(one.program.said("relay.started")) == 3, 20)
    simulator.emit(user.id, "desktops", 10)
    await eventually(lambda: all(len(each.ids) >= 30 for each in tabs), 20)
    order = [record.id for record in simulator.log(user.id, "desktops")]
    for each in tabs:
        assert (each.ids, breaks(each.seen, order)) == (order, [])
    (line,) = one.program.said("worker.ended")
    assert (line["worker"], line["why"]) == (number, "SIGKILL")
    assert one.admin_url(number) == admin_url
    assert await one.pid_of(number) != killed
    assert (await ask(admin_url, "/readyz")).status == 200
    await eventually(lambda: simulator.subscriptions_total == 1)


async def test_a_killed_workers_streams_stop_counting(simulator, crew, connect):
    one = await crew(2, LIMITS__STREAMS_PER_USER=6)
    clients = [await connect(one.public_url) for _ in range(6)]
    for pid in one.workers:
        os.kill(pid, signal.SIGKILL)
    for client in clients:
        await client.ended()
    await one.started(times=2)
    key = simulator.user(1).key
    again: list[SseClient] = []
    async with asyncio.timeout(LEASE_TTL_S + 5):
        while len(again) < 6:
            client = await connect(one.public_url, opened=False)
            await eventually(lambda client=client: client.status)
            if client.status == 200:
                again.append(client)
            await asyncio.sleep(0.02)
    assert (await ask(one.public_url, key=key)).code == "too_many_streams"


async def test_a_worker_that_is_told_to_stop_is_replaced_too(crew, connect):
    one = await crew(2)
    client = await connect(one.public_url)
    for pid in one.workers:
        os.kill(pid, signal.SIGTERM)
    await client.ended()
    assert client.reason == "draining"
    await one.started(times=2)
    assert (await connect(one.public_url)).status == 200


# -- the end of all


async def drained(one: Crew, clients: Sequence[SseClient]) -> None:
    assert await one.program.exit() == 0
    for client in clients:
        await client.ended()
        assert (client.reason, client.finished) == ("draining", True)
    assert not [pid for pid in one.pids if lives(pid)]
    assert one.program.log[-1]["event"] == "workers.stopped"
    assert len(one.program.said("relay.stopped")) == one.size
    assert "Traceback" not in one.program.stderr
    assert "Warning" not in one.program.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_parent_drains_all(crew, connect, number):
    one = await crew(2)
    clients = await on_every_worker(one, connect)
    one.program.signal(number)
    await drained(one, clients)


async def test_a_signal_to_all_of_the_group_is_no_hurry(crew, connect):
    """As terminals and supervisors do it: each worker is told twice."""
    one = await crew(2, DRAIN__SPREAD=1)
    clients = await on_every_worker(one, connect)
    for pid in (*one.workers, one.parent):
        os.kill(pid, signal.SIGINT)
    await drained(one, clients)


async def test_a_second_signal_is_one(crew, connect):
    one = await crew(2, DRAIN__SPREAD=600)
    clients = await on_every_worker(one, connect)
    one.program.signal()
    await eventually(lambda: len(one.program.said("relay.draining")) == 2)
    assert [client for client in clients if not client.closed]
    one.program.signal()
    assert await one.program.exit() == 0
    assert not [pid for pid in one.pids if lives(pid)]


async def test_who_is_left_without_a_parent_ends_in_good_order(crew, connect):
    one = await crew(2)
    clients = await on_every_worker(one, connect)
    os.kill(one.parent, signal.SIGKILL)
    for client in clients:
        await client.ended()
        assert client.reason == "draining"
    await eventually(lambda: not [pid for pid in one.pids if lives(pid)])


async def test_no_secret_is_an_argument(crew):
    one = await crew(2)
    for pid in (one.parent, *one.workers):
        line = Path(f"/proc/{pid}/cmdline").read_bytes()  # noqa: ASYNC240 - no disk behind it
        assert b"--workers" in line
        assert SECRET.encode() not in line
        assert b"redis://" not in line


# -- how it does not start


async def test_without_redis_it_says_what_is_missing(program):
    run = await program("", "serve", "--workers", "2")
    assert await run.exit() == 2
    assert run.stderr.startswith("error: --workers: 2 processes share")
    assert "redis.url is empty" in run.stderr


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ({"LISTEN__PORT": 9091, "ADMIN__PORT": 9090}, "9090 to 9092, meet listen.port, 9091"),
        ({"ADMIN__PORT": 65_534}, "65534 leaves no ports for 3 workers"),
    ],
)
async def test_ports_that_do_not_fit_are_mistakes(program, ports, said):
    settings = {"REDIS__URL": "redis://127.0.0.1:1", "REDIS__HASH_SECRET": SECRET}
    run = await program("", "serve", "--workers", "3", settings=settings | ports)
    assert await run.exit() == 2
    assert said in run.stderr


@pytest.mark.parametrize("size", ["0", "65", "two"])
async def test_how_many_is_a_number_within_reason(program, size):
    run = await program("", "serve", "--workers", size)
    assert await run.exit() == 2
    assert "--workers" in run.stderr


async def test_a_taken_port_is_told_once(program):
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"REDIS__URL": "redis://127.0.0.1:1", "REDIS__HASH_SECRET": SECRET}
    run = await program("", "serve", "--workers", "3", settings=settings | {"LISTEN__PORT": port})
    assert await run.exit() == 1
    assert run.stderr.count("error: ") == 1
    assert f"listen.port: {port} on 127.0.0.1 is taken" in run.stderr
    server.close()


# A crew whose workers do nothing but what is put in their place.
CREW = """
import os, signal, sys
from lebureau_relay import workers
from lebureau_relay.config import Settings

def life(settings, post):
    {life}

workers.live = life
workers.random.random = lambda: 1.0
given = {{
    "listen": {{"host": "127.0.0.1", "port": 0}},
    "admin": {{"port": 0}},
    "redis": {{"url": "redis://127.0.0.1:1", "hash_secret": "secret"}},
    "log": {{"format": "json"}},
}}
sys.exit(workers.serve_together(Settings.model_validate(given), 2))
"""


@pytest.fixture
def stub():
    running = []

    def start(life: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", CREW.format(life=life)]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.communicate()


def test_a_worker_that_cannot_start_ends_all(stub):
    crew = stub("return 1 if post.number == 0 else signal.sigwait({signal.SIGTERM}) * 0")
    _, said = crew.communicate(timeout=20)
    assert crew.returncode == 1
    assert said.count("workers.draining") == 1
    assert "worker.ended" not in said


def test_a_worker_that_dies_at_once_is_started_ever_more_seldom(stub):
    crew = stub("os.kill(os.getpid(), signal.SIGKILL)")
    told: list[tuple[datetime, float]] = []
    assert crew.stderr is not None
    while len(told) < 5:
        line = json.loads(crew.stderr.readline())
        if line["event"] == "worker.ended" and line["worker"] == 0:
            told.append((datetime.fromisoformat(line["timestamp"]), line["again_in_s"]))
    assert [wait_s for _, wait_s in told] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2])
    for (at, wait_s), (then, _) in pairwise(told):
        assert (then - at).total_seconds() > wait_s - 0.05
    crew.terminate()
    assert "workers.stopped" in crew.communicate(timeout=20)[1]


def test_a_worker_that_fails_at_the_end_fails_all(stub):
    crew = stub("return int(signal.sigwait({signal.SIGTERM}) == signal.SIGTERM)")
    assert crew.stderr is not None
    assert "workers.started" in crew.stderr.readline()
    crew.terminate()
    crew.communicate(timeout=20)
    assert crew.returncode == 1
