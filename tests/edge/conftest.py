"""A public server on a real socket, an observer that remembers, and a client that writes bytes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from lebureau_relay.edge.app import Guard, build_app
from lebureau_relay.edge.cors import Cors
from lebureau_relay.edge.credentials import CredentialRules
from lebureau_relay.edge.listener import listen
from lebureau_relay.edge.server import build_runner, serve_on
from lebureau_relay.relay.ports import StreamSpec

STREAM = StreamSpec("desktops", "/api/desktops/stream", forward_query=("view", "apiKey"))


@dataclass
class Remembering:
    """An Observer that keeps what it is told."""

    codes: list[str] = field(default_factory=list)
    notes: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    connects: list[tuple[str, str]] = field(default_factory=list)

    def refused(self, code):
        self.codes.append(code.value)

    def note(self, level, event, **facts):
        self.notes.append((level, event, facts))

    def stream(self, name):
        return _Meter(name, self.connects)


@dataclass
class _Meter:
    name: str
    connects: list[tuple[str, str]]

    def connect(self, outcome):
        self.connects.append((self.name, outcome))


@dataclass
class Reply:
    """One response as it came."""

    raw: bytes

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode()

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.split("\r\n")[1:]
        pairs = [line.split(": ", 1) for line in lines]
        assert len({name for name, _ in pairs}) == len(pairs), "a header came twice"
        return {name.lower(): value for name, value in pairs}

    @property
    def problem(self) -> dict[str, object]:
        assert self.headers["content-type"] == "application/problem+json"
        document = json.loads(self.body)
        assert document["status"] == self.status
        return document


@dataclass
class Edge:
    """A server that runs, and how to talk to it."""

    port: int
    observer: Remembering
    runner: web.AppRunner

    async def send(self, request: bytes) -> Reply:
        """Write these bytes, read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            return Reply(await asyncio.wait_for(reader.read(), 5))
        finally:
            writer.close()

    async def get(
        self, target: str = STREAM.path, *fields: str | bytes, method: str = "GET"
    ) -> Reply:
        """A well-formed request; a field is a whole line."""
        lines = [f"{method} {target} HTTP/1.1", "Host: relay.test", "Connection: close", *fields]
        raw = [line if isinstance(line, bytes) else line.encode() for line in lines]
        return await self.send(b"\r\n".join(raw) + b"\r\n\r\n")


Serve = Callable[..., Awaitable[Edge]]


async def hello(request: web.Request, stream: StreamSpec) -> web.StreamResponse:
    return web.Response(text=f"hello from {stream.name}")


@pytest.fixture
async def serve():
    """Start a server: `await serve(handler, origins=…, soft=…)`."""
    runners = []

    async def start(handler=hello, *, origins=(), soft=True, rules=None, head_timeout_s=5.0):
        observer = Remembering()
        app = build_app([STREAM], handler, cors=Cors(origins))
        guard = Guard([STREAM], rules or CredentialRules(), observer, soft=soft)
        runner = build_runner(app, guard, head_timeout_s=head_timeout_s)
        runners.append(runner)
        sockets = listen("127.0.0.1", 0, user_timeout_ms=30_000)
        await serve_on(runner, sockets)
        return Edge(sockets[0].getsockname()[1], observer, runner)

    yield start
    for runner in runners:
        await runner.cleanup()
