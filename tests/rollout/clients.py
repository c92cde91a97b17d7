"""Clients that live through a rollout: EventSource's behaviour over a proxy, thousands of them in
one process. Each writes down every number it gets and every time it is without a stream; it comes
back after what `retry:` last told it, with the id it had last.
"""

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bench.chaos.crowd import Errand
from bench.chaos.judge import Diary

# A browser gives up a connection that brings no headers; here it would be a failure.
_ANSWER_S = 15.0


@dataclass(slots=True)
class Chronicle:
    """What happened to all clients together; times by the monotonic clock."""

    opened_s: list[float] = field(default_factory=list)  # every stream, also the first ones
    away_s: list[float] = field(default_factory=list)  # from the end of a stream to the next one
    hints_ms: list[int] = field(default_factory=list)  # `retry:` of each goodbye
    goodbyes: Counter[str] = field(default_factory=Counter)  # by reason
    cuts: int = 0  # ends without a goodbye, or without the last chunk
    strays: int = 0  # goodbyes whose id was not the client's own place
    refusals: Counter[str] = field(default_factory=Counter)


class Walker:
    """One client at `port`. `chronicle` is everybody's."""

    def __init__(self, errand: Errand, port: int, chronicle: Chronicle) -> None:
        self.diary = Diary(errand.feed)
        self.open = False
        self.last_id = ""
        self.retry_ms = 3000  # EventSource's own
        self.chronicle = chronicle
        self._errand = errand
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in errand.headers.items())
        self._port = port
        self._ended_s = 0.0
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._stay()
            except (OSError, TimeoutError) as error:
                self.chronicle.refusals[type(error).__name__] += 1
            await asyncio.sleep(self.retry_ms / 1000)

    async def _stay(self) -> None:
        cursor = f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else ""
        request = (
            f"GET {self._errand.path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: text/event-stream\r\n{self._headers}{cursor}\r\n"
        ).encode()
        _, reading = await asyncio.get_running_loop().create_connection(
            lambda: _Reading(self, request), "127.0.0.1", self._port
        )
        try:
            async with asyncio.timeout(_ANSWER_S):
                await reading.answered
            await reading.ended
            self._leave(reading)
        finally:
            reading.transport.abort()

    def begin(self) -> None:
        """The opening has come: this is a stream."""
        now_s = time.monotonic()
        self.open = True
        self.diary.connections += 1
        self.chronicle.opened_s.append(now_s)
        if self._ended_s:
            self.chronicle.away_s.append(now_s - self._ended_s)

    def _leave(self, reading: "_Reading") -> None:
        chronicle = self.chronicle
        if reading.status != 200:
            chronicle.refusals[str(reading.status)] += 1
            return
        self.open = False
        self._ended_s = time.monotonic()
        if reading.reason and reading.finished:
            chronicle.goodbyes[reading.reason] += 1
            chronicle.hints_ms.append(self.retry_ms)
        else:
            chronicle.cuts += 1


class _Reading(asyncio.Protocol):
    """One connection: chunks as the proxy cuts them, blocks as the relay wrote them."""

    def __init__(self, walker: Walker, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.status = 0
        self.reason = ""  # of relay.closing
        self.finished = False
        self.answered: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport
        self._walker = walker
        self._request = request
        self._raw = b""
        self._body = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def connection_lost(self, _: Exception | None) -> None:
        for future in (self.answered, self.ended):
            if not future.done():
                future.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if not self.status:
            head, blank, rest = self._raw.partition(b"\r\n\r\n")
            if not blank:
                return
            self.status, self._raw = int(head.split(b" ", 2)[1]), rest
            self.answered.set_result(None)
        if self.status != 200:
            self.connection_lost(None)
            return
        self._take_chunks()
        *blocks, self._body = self._body.split(b"\n\n")
        if not blocks and not self._walker.open and self._body.startswith(b"retry: "):
            self._take_opening()
        for block in blocks:
            self._take(block)
        if self.finished:
            self.connection_lost(None)

    def _take_opening(self) -> None:
        line, end, rest = self._body.partition(b"\n")
        if end:
            self._body = rest
            self._walker.retry_ms = int(line[7:])
            self._walker.begin()

    def _take_chunks(self) -> None:
        raw, start = self._raw, 0
        while (end := raw.find(b"\r\n", start)) >= 0:
            size = int(raw[start:end], 16)
            stop = end + 2 + size + 2
            if len(raw) < stop:
                break
            self._body += raw[end + 2 : stop - 2]
            self.finished = self.finished or size == 0
            start = stop
        self._raw = raw[start:]

    def _take(self, block: bytes) -> None:
        lines = (line for line in block.decode().split("\n") if ": " in line)
        fields = dict(line.split(": ", 1) for line in lines)
        event_id, kind = fields["id"], fields.get("event", "")
        walker = self._walker
        walker.retry_ms = int(fields.get("retry", walker.retry_ms))
        if not walker.open:  # the opening joined the first event's block
            walker.begin()
        if kind == "relay.closing":
            self.reason = json.loads(fields["data"])["payload"]["reason"]
            walker.chronicle.strays += bool(walker.last_id) and event_id != walker.last_id
        elif kind == "relay.gap":
            walker.diary.gap(json.loads(fields["data"])["payload"]["cause"])
        elif kind == "relay.refused":
            walker.chronicle.refusals[json.loads(fields["data"])["payload"]["code"]] += 1
        else:
            walker.diary.note(int(event_id.removeprefix("evt_")), time.time())
        walker.last_id = event_id
