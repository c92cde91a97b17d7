"""Real processes, and an ear at everything they say: what leak tests search when all is over."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from redis import Redis
from tests.broker.programs import Program as Server
from tests.e2e.clients import address, ask, eventually, head
from tests.e2e.conftest import Program

SIMULATOR = """
import sys
from lebureau_relay.simulator import SimulatorOptions, run
options = SimulatorOptions(rate=0, connects_per_minute=0, failed_auth_per_minute=0)
sys.exit(run(port=int(sys.argv[1]), options=options))
"""
# Loud, patient with strangers, quick to come back.
LOUD = {
    "LISTEN__HOST": "127.0.0.1",
    "LISTEN__PORT": 0,
    "ADMIN__PORT": 0,
    "LOG__LEVEL": "debug",
    "UPSTREAM__RETRY_MIN": 0.01,
    "UPSTREAM__RETRY_MAX": 0.05,
    "LIMITS__CONNECTS_PER_MINUTE": 0,
    "LIMITS__FAILED_AUTH_PER_MINUTE": 10_000,
    "LIMITS__UPSTREAM_AUTH_FAILURES_PER_MINUTE": 10_000,
    "STREAM__HEARTBEAT": 0.2,
    "STREAM__RETRY": 0.05,
    "DRAIN__SPREAD": 0,
}


class Told:
    """Everything that was said, with where: (place, text)."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, bytes]] = []

    def add(self, place: str, text: bytes | bytearray | str) -> None:
        self.texts.append((place, text.encode() if isinstance(text, str) else bytes(text)))

    async def look_at(self, relay: Program, name: str) -> None:
        """All that a relay shows to operators and to the system that it runs on."""
        accept = [("Accept", "application/openmetrics-text")]
        for path, headers in (
            ("/metrics", ()),
            ("/metrics", accept),
            ("/status", ()),
            ("/", ()),
            ("/console.js", ()),
            ("/readyz", ()),
        ):
            reply = await ask(relay.admin_url, path, headers=headers)
            assert reply.status == 200
            self.add(f"{name} {path}", reply.raw)
        self.add(f"{name} /events", await _first_event(relay.admin_url))
        self.add(f"{name} /explain", await _explained(relay.admin_url))
        for what in ("cmdline", "environ", "comm", "status"):
            path = Path(f"/proc/{relay.process.pid}/{what}")
            self.add(f"{name} {path}", path.read_bytes())

    def look_into(self, server: Server, password: str) -> None:
        """Every key of a Redis with its value, its channels and its clients."""
        with Redis("127.0.0.1", server.port, password=password) as redis:
            readers = {
                b"string": redis.get,
                b"hash": redis.hgetall,
                b"set": redis.smembers,
                b"stream": redis.xrange,
                b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
                b"list": lambda key: redis.lrange(key, 0, -1),
            }
            for key in redis.scan_iter():
                kind = redis.type(key)
                if kind != b"none":  # it has just run out
                    self.add("Redis key", repr((key, readers[kind](key))))
            self.add("Redis channels", repr(redis.pubsub_channels()))
            self.add("Redis clients", repr(redis.client_list()))


async def _first_event(url: str) -> bytes:
    """The console's stream up to its first screen."""
    reader, writer = await asyncio.open_connection(*address(url))
    try:
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            return await reader.readuntil(b'"feed_list": ') + await reader.readline()
    finally:
        writer.transport.abort()


async def _explained(url: str) -> bytes:
    """Everybody whose hash begins with a digit, in detail."""
    told = b""
    for digit in "0123456789abcdef":
        body = json.dumps({"find": digit}).encode()
        fields = [("Content-Length", str(len(body))), ("Connection", "close")]
        reply = await ask(url, raw=head("/explain", method="POST", headers=fields) + body)
        assert reply.status == 200
        told += reply.raw
    return told


class Ear:
    """A connection to Redis that only listens, as `MONITOR` and `PSUBSCRIBE` do."""

    def __init__(self, server: Server, password: str, command: str) -> None:
        self.heard = bytearray()
        self._server, self._hello = server, f"AUTH {password}\r\n{command}\r\n".encode()
        self._task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            writer.write(self._hello)
            while data := await reader.read(1 << 16):
                self.heard += data
        finally:
            writer.close()

    async def listening(self) -> "Ear":
        await eventually(lambda: self.heard.count(b"\r\n") >= 2, said="an answer of Redis")
        return self

    async def end(self) -> bytes:
        self._task.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await self._task
        return bytes(self.heard)


async def launch(folder: Path, settings: dict[str, object], *command: str) -> Program:
    """A relay as a process that keeps what it says to stdout and stderr; `command` instead of
    `-m lebureau_relay serve`.
    """
    chosen = {f"LEBUREAU_RELAY_{k}": str(v) for k, v in (LOUD | settings).items()}
    ours = {k: v for k, v in os.environ.items() if not k.startswith("LEBUREAU_RELAY_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *(command or ("-m", "lebureau_relay", "serve"))),
        env=ours | chosen | {"PYTHONFAULTHANDLER": "1"},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    process.stderr = process.stdout  # where Program reads
    return Program(process)


async def send(url: str, raw: bytes) -> bytes:
    """Send bytes, however wrong; all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(*address(url))
    got = bytearray()
    try:
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                writer.write(raw)
                done = b"\r\n\r\n" not in raw and b"\n\n" not in raw
                if done:  # a head that never ends is waited for
                    writer.write_eof()
                while data := await reader.read(1 << 16):
                    got += data
                    if not done and _is_whole(got):
                        done = True
                        writer.write_eof()
    except TimeoutError:
        raise AssertionError(
            f"no end of an answer to {raw[:200]!r}: {bytes(got[:200])!r}"
        ) from None
    finally:
        writer.transport.abort()
    return bytes(got)


def _is_whole(answer: bytearray) -> bool:
    """Whether the first answer has come; one without a length ends with the connection."""
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    _, named, length = head.lower().partition(b"content-length: ")
    if not end or not named:
        return bool(end) and b" 204 " in head[:16]
    return len(body) >= int(length.split(b"\r\n", 1)[0])


async def order(url: str, verb: str, **body: object) -> object:
    """An order to a simulator in another process."""
    text = json.dumps(body)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(text)))]
    raw = f"POST /_sim/{verb} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    raw += "".join(f"{name}: {value}\r\n" for name, value in headers) + f"\r\n{text}"
    reply = await ask(url, raw=raw.encode())
    assert reply.status == 200, reply.raw
    return json.loads(reply.body)


async def look(url: str, what: str) -> list[dict[str, object]]:
    """What a simulator in another process knows."""
    reply = await ask(url, f"/_sim/{what}")
    assert reply.status == 200
    return json.loads(reply.body)


def operator_order(token: str) -> bytes:
    """The request that ends all streams."""
    body = b'{"all": true, "reason": "to see it"}'
    return (
        f"POST /operator/end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
