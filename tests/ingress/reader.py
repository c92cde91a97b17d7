"""A stream read through a proxy, by TLS and HTTP/1.1: what a proxy may do to bytes it may do, such
as cut frames in two; what came, and when, is written down event by event.
"""

import asyncio
import time
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from tests.e2e.clients import DESKTOPS, eventually, head
from tests.ingress.fronts import Front


class Reader:
    """One stream. Use it as a context; `times_s` are those of `ids`, by the monotonic clock."""

    def __init__(
        self, front: Front, *, path: str = DESKTOPS, source: str = "127.0.0.1", **request: object
    ) -> None:
        self.status = 0
        self.head = ""
        self.ids: list[str] = []
        self.times_s: list[float] = []
        self.told: list[str] = []  # what the relay itself said
        self.ended = False  # the answer is over
        self.finished = False  # the last chunk has come
        self._front = front
        self._source = source
        self._request = head(path, **request)

    async def __aenter__(self) -> Self:
        port = urlsplit(self._front.url).port
        trust = self._front.trust()
        self._reader, self._writer = await asyncio.open_connection(
            *("127.0.0.1", port),
            ssl=trust,
            server_hostname="localhost" if trust else None,
            local_addr=(self._source, 0),
        )
        self._writer.write(self._request)
        self._task = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._writer.transport.abort()

    async def opened(self) -> Self:
        await eventually(lambda: self.status or self.ended, said="an answer")
        assert self.status == 200, self.head
        return self

    async def has(self, count: int) -> list[float]:
        """When so many events had come."""
        await eventually(lambda: len(self.ids) >= count, 10, f"{count} events, not {len(self.ids)}")
        return self.times_s

    async def _read(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._read_all()
        self.ended = True

    async def _read_all(self) -> None:
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        self.status = int(self.head.split(" ", 2)[1])
        if "chunked" not in self.head.lower():
            return  # a refusal
        rest = b""
        while chunk := await self._chunk():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                self._take(block.decode())
        self.finished = True

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    def _take(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        kind = fields.get("event", "")
        if kind.startswith("relay."):
            self.told.append(kind)
        else:
            self.ids.append(fields["id"])
            self.times_s.append(time.monotonic())
