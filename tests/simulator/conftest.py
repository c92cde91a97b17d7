"""A simulator on a real port, and a client that sees every byte of the body and how it ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream

TIMEOUT_S = 5


class Wire:
    """One open answer: what came, block by block or byte by byte."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._held = b""
        self.status = answer.status
        self.headers = answer.headers

    async def exactly(self, count: int) -> bytes:
        """The next so many bytes of the body."""
        return await self._take(lambda: count if len(self._held) >= count else 0)

    async def until(self, mark: bytes) -> bytes:
        """The body up to a mark, with it."""
        return await self._take(
            lambda: self._held.find(mark) + len(mark) if mark in self._held else 0
        )

    async def blocks(self, count: int) -> list[dict[str, str]]:
        """The next blocks, their fields by name; comments under an empty name."""
        return [fields(await self.until(b"\n\n")) for _ in range(count)]

    async def ids(self, count: int) -> list[str | None]:
        """The ids of the next events."""
        return [block.get("id") for block in await self.blocks(count)]

    async def events(self, count: int) -> list[tuple[str | None, str, dict[str, object]]]:
        """The next events: id, type and payload."""
        bodies = [
            (block.get("id"), json.loads(block["data"])) for block in await self.blocks(count)
        ]
        return [(name, body["type"], body["payload"]) for name, body in bodies]

    async def end(self) -> tuple[bytes, bool]:
        """What is left, and whether the answer ended in good order."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                while chunk := await self._answer.content.readany():
                    self._held += chunk
            except aiohttp.ClientPayloadError:
                return self._held, False
        return self._held, True

    async def quiet(self, for_s: float) -> bool:
        """Whether nothing at all comes for a while."""
        try:
            async with asyncio.timeout(for_s):
                await self._answer.content.readany()
        except TimeoutError:
            return not self._held
        return False

    async def json(self) -> object:
        """The body as JSON."""
        return await self._answer.json()

    def close(self) -> None:
        """Leave."""
        self._answer.close()

    async def _take(self, enough: Callable[[], int]) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            while not (length := enough()):
                chunk = await self._answer.content.readany()
                assert chunk, f"ended after {self._held!r}"
                self._held += chunk
        taken, self._held = self._held[:length], self._held[length:]
        return taken


def fields(block: bytes) -> dict[str, str]:
    lines = block.decode().removesuffix("\n\n").split("\n")
    return dict(line.split(": ", 1) for line in lines)


@pytest.fixture
async def simulate() -> AsyncIterator[Callable[..., Simulator]]:
    """Starts simulators that emit on request only, unless told otherwise, and stops them."""
    running = []

    async def start(**options) -> Simulator:
        simulator = Simulator(SimulatorOptions(**{"rate": 0, "users": 2} | options))
        running.append(simulator)
        await simulator.start()
        return simulator

    yield start
    for simulator in running:
        await simulator.stop()


@pytest.fixture
async def simulator(simulate) -> Simulator:
    """The plain one."""
    return await simulate()


@pytest.fixture
async def ask() -> AsyncIterator[Callable[..., Wire]]:
    """Sends a request: by default user 1's key for a stream."""
    connector, wires = aiohttp.TCPConnector(limit=0), []
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def send(
            simulator, stream="desktops", *, key=..., cursor=None, path=None, **kw
        ) -> Wire:
            headers = dict(kw.pop("headers", {}))
            if key is ...:
                key = simulator.user().key
            if key is not None:
                headers["x-api-key"] = key
            if cursor is not None:
                headers["Last-Event-ID"] = cursor
            url = simulator.url + (path or Stream(stream).path)
            method = kw.pop("method", "GET")
            kw.setdefault("allow_redirects", False)
            async with asyncio.timeout(TIMEOUT_S):
                wire = Wire(await session.request(method, url, headers=headers, **kw))
            wires.append(wire)
            return wire

        yield send
        for wire in wires:
            wire.close()
