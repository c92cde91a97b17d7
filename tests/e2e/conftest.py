"""A simulated API, relays here and as programs, and strict clients, for black-box tests."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

import pytest
from aiohttp import web
from playwright.async_api import async_playwright
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tests.broker.programs import VALKEY
from tests.broker.programs import Program as Server
from tests.e2e.clients import SseClient, Tab, ask, eventually
from tests.e2e.veneer import Veneer

from lebureau_relay.config import Settings
from lebureau_relay.main import Relay
from lebureau_relay.simulator import Simulator, SimulatorOptions

# Short enough for tests, long enough that a loaded machine doesn't take one for another.
QUICK = {
    "listen": {"host": "127.0.0.1", "port": 0},
    "admin": {"host": "127.0.0.1", "port": 0},
    "upstream": {"connect_timeout": 2, "retry_min": 0.01, "retry_max": 0.05},
    "limits": {"connects_per_minute": 0},
    "replay": {"catchup_timeout": 2},
    "stream": {"heartbeat": 0.2, "retry": 0.05},
    "drain": {"spread": 0},
}

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_CREDENTIALS = {"key", "cookie", "x-api-key", "authorization"}


def settings_for(upstream_url: str, **sections: object) -> Settings:
    """Quick settings, and over them those of a test, section by section."""
    merged: dict[str, object] = {**QUICK, **sections}
    for name, section in sections.items():
        if isinstance(section, dict):
            merged[name] = {**QUICK.get(name, {}), **section}
    merged["upstream"] = {**merged["upstream"], "base_url": upstream_url}
    return Settings.model_validate(merged)


@pytest.fixture
async def simulate():
    """Starts simulated APIs that emit on request only and limit nothing."""
    running = []

    async def start(**options) -> Simulator:
        calm = {"rate": 0, "heartbeat_s": 0, "connects_per_minute": 0, "failed_auth_per_minute": 0}
        simulator = Simulator(SimulatorOptions(**(calm | options)))
        await simulator.start()
        running.append(simulator)
        return simulator

    yield start
    for simulator in running:
        await simulator.stop()


@pytest.fixture
async def simulator(simulate) -> Simulator:
    return await simulate()


@pytest.fixture
def user(simulator):
    return simulator.user(1)


@pytest.fixture
async def serve():
    """Starts relays in this process: `serve(upstream_url, extra=…, section={…})`."""
    running = []

    async def start(upstream_url: str, extra=None, **sections) -> Relay:
        relay = Relay(settings_for(upstream_url, **sections), extra)
        await relay.start()
        running.append(relay)
        return relay

    yield start
    for relay in running:
        await relay.stop()


@pytest.fixture
async def relay(serve, simulator) -> Relay:
    return await serve(simulator.url)


@pytest.fixture
def valkey():
    """A server that replicas share."""
    server = Server(VALKEY)
    yield server.start()
    server.end()


@pytest.fixture
async def connect(simulator):
    """Opens strict clients, with the first user's key unless told otherwise; none may have found
    a fault at the end.
    """
    clients = []

    async def start(relay, path="/api/desktops/stream", *, opened=True, **request) -> SseClient:
        names = {name.lower() for name, _ in request.get("headers", ())} | request.keys()
        if "apiKey=" not in path and names.isdisjoint(_CREDENTIALS):
            request["key"] = simulator.user(1).key
        url = relay if isinstance(relay, str) else relay.public_url
        client = await SseClient.connect(url, path, **request)
        clients.append(client)
        return await client.opened() if opened else client

    yield start
    for client in clients:
        client.close()
    assert not [fault for client in clients for fault in client.faults]


@pytest.fixture
async def tab(simulator):
    """Opens clients that come back by themselves."""
    tabs = []

    def start(relay, path="/api/desktops/stream", **request) -> Tab:
        request.setdefault("key", simulator.user(1).key)
        url = relay if isinstance(relay, str) else relay.public_url
        tabs.append(Tab(url, path, **request))
        return tabs[-1]

    yield start
    for each in tabs:
        await each.close()
    assert not [fault for each in tabs for fault in each.faults]


class Metrics:
    """What one scrape says: `metrics["name", label=value]` by calling it."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of one name with these labels."""
        name = f"lebureau_relay_{name}"
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture
def scrape():
    async def get(relay) -> Metrics:
        reply = await ask(relay.admin_url, "/metrics")
        assert reply.status == 200
        return Metrics(reply.body.decode())

    return get


@pytest.fixture
def counts(scrape):
    """Waits until a metric has a value; scrapes are cached for a second."""

    async def wait(relay, value: float, name: str, **labels: str) -> None:
        got = None
        for _ in range(40):
            got = (await scrape(relay))(name, **labels)
            if got == value:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{name} {labels} is {got}, not {value}")

    return wait


class Program:
    """`python -m lebureau_relay` as a process; `lines` is what it wrote to stderr so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.public_url = self.admin_url = ""
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode().rstrip("\n"))

    @property
    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    @property
    def stderr(self) -> str:
        return "\n".join(self.lines)

    def said(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.log if line["event"] == event]

    async def started(self) -> "Program":
        await eventually(
            lambda: self.said("relay.started") or self.process.returncode is not None, 40
        )
        (line,) = self.said("relay.started")
        self.public_url, self.admin_url = str(line["public"]), str(line["admin"])
        return self

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def exit(self, timeout_s: float = 15.0) -> int:
        async with asyncio.timeout(timeout_s):
            code = await self.process.wait()
            await self._reading
        return code

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


@pytest.fixture
async def program(tmp_path):
    """Starts the program: `program(upstream_url, SECTION__NAME=value)`, in an empty directory."""
    running = []

    async def start(
        upstream_url: str = "", *arguments: str, settings: Mapping[str, object] | None = None
    ) -> Program:
        quiet = {
            "LISTEN__HOST": "127.0.0.1",
            "LISTEN__PORT": 0,
            "ADMIN__PORT": 0,
            "UPSTREAM__RETRY_MIN": 0.01,
            "UPSTREAM__RETRY_MAX": 0.05,
            "STREAM__RETRY": 0.05,
            "DRAIN__SPREAD": 0,
        }
        if upstream_url:
            quiet["UPSTREAM__BASE_URL"] = upstream_url
        chosen = {f"LEBUREAU_RELAY_{k}": str(v) for k, v in (quiet | (settings or {})).items()}
        ours = {k: v for k, v in os.environ.items() if not k.startswith("LEBUREAU_RELAY_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lebureau_relay", *(arguments or ("serve",))),
            env=ours | chosen,
            cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        running.append(Program(process))
        return running[-1]

    yield start
    for each in running:
        await each.kill()


class RawUpstream:
    """An API that says exactly what a test wants, byte for byte, and keeps what it was asked."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.answers: list[bytes] = []
        self.left = 0  # connections that the relay has ended
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        self.writers.append(writer)
        if self.answers:
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        with suppress(ConnectionError):
            await reader.read()
        self.left += 1
        writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        await self._server.wait_closed()


@pytest.fixture
async def veneer(simulator):
    """The simulated API, some of whose answers a test may replace."""
    async with Veneer(simulator).serving() as veneer:
        yield veneer


@pytest.fixture
def log():
    """The log lines of relays in this process, as records."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
async def raw_upstream():
    upstream = RawUpstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


def pages(routes: Mapping[str, tuple[str, str]]):
    """What `Relay(extra=…)` takes, to serve pages by path: (content type, text)."""

    def add(app: web.Application) -> None:
        for path, (content_type, text) in routes.items():

            async def page(_request, content_type=content_type, text=text):
                return web.Response(text=text, content_type=content_type)

            app.router.add_get(path, page)

    return add


@pytest.fixture
async def browser():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM
        )
        yield browser
        await browser.close()
