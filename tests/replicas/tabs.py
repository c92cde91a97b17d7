"""Clients that come back: each writes down every number that it gets, and when.

Lean, since a thousand of them share a core with all the rest. That the bytes are well-formed others
hold (tests/e2e); here a whole chunk is a whole frame, as the contract promises, and only
what came whole counts as received.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.replicas.judge import Diary

# A replica that takes a connection and says nothing (it is stopped, say) is given up after this.
_ANSWER_S = 3.0
# What a client waits before it comes back: the hint of a relay that is asked for haste.
_RETRY_S = 0.05


class _Reading(asyncio.Protocol):
    """One connection."""

    def __init__(self, diary: Diary, last_id: Callable[[str], None], request: bytes) -> None:
        self.status = 0
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._diary = diary
        self._last_id = last_id
        self._request = request
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self.status:
            head, blank, rest = self._rest.partition(b"\r\n\r\n")
            if not blank:
                return
            self.status = int(head.split(b" ", 2)[1])
            self._rest = rest
            if not self.answered.done():
                self.answered.set_result(None)
        if self.status == 200:
            self._take_chunks()

    def connection_lost(self, _: Exception | None) -> None:
        for future in (self.answered, self.ended):
            if not future.done():
                future.set_result(None)

    def _take_chunks(self) -> None:
        rest, start = self._rest, 0
        while (end := rest.find(b"\r\n", start)) >= 0:
            size = int(rest[start:end], 16)
            stop = end + 2 + size + 2
            if len(rest) < stop:
                break
            if size > 2:  # a heartbeat is one colon and one line end
                self._take_frame(rest[end + 2 : stop - 2])
            start = stop
        self._rest = rest[start:]

    def _take_frame(self, frame: bytes) -> None:
        if not frame.endswith(b"\n\n"):
            return  # the opening
        event_id = kind = b""
        for line in frame.split(b"\n"):
            if line.startswith(b"id: "):
                event_id = line[4:]
            elif line.startswith(b"event: "):
                kind = line[7:]
            elif line.startswith(b"data: "):
                break
        self._last_id(event_id.decode())
        diary = self._diary
        if kind == b"relay.gap":
            diary.gaps.append(frame.decode().partition("data: ")[2].strip())
        elif not kind.startswith(b"relay."):
            diary.numbers.append(int(event_id.removeprefix(b"evt_")))
            diary.times_s.append(time.monotonic())


@dataclass(frozen=True, slots=True)
class Errand:
    """What a client asks for."""

    feed: int
    path: str
    key: str


class Tab:
    """One client. `ports` are those of the replicas, which it tries in any order; `home` is the one
    it begins at.
    """

    def __init__(self, errand: Errand, ports: Sequence[int], home: int) -> None:
        self.diary = Diary(errand.feed)
        self.port = ports[home]
        self._errand = errand
        self._ports = ports
        self._last_id = ""
        self._reading: _Reading | None = None
        self._task = asyncio.ensure_future(self._run())

    @property
    def open(self) -> bool:
        reading = self._reading
        return reading is not None and reading.status == 200 and not reading.ended.done()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            with suppress(OSError, TimeoutError):
                await self._stay()
            await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1.5))
            self.port = random.choice(self._ports)

    async def _stay(self) -> None:
        cursor = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
        request = (
            f"GET {self._errand.path} HTTP/1.1\r\nHost: relay.example\r\n"
            f"Accept: text/event-stream\r\nx-api-key: {self._errand.key}\r\n{cursor}\r\n"
        ).encode()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_ANSWER_S):
            _, reading = await loop.create_connection(
                lambda: _Reading(self.diary, self._note, request), "127.0.0.1", self.port
            )
        try:
            async with asyncio.timeout(_ANSWER_S):
                await reading.answered
            if reading.status == 200:
                self._reading = reading
                self.diary.connections += 1
                await reading.ended
            elif reading.status:
                self.diary.refusals.append(reading.status)
        finally:
            reading.transport.abort()

    def _note(self, event_id: str) -> None:
        self._last_id = event_id
