"""Clients that come back, by the thousand: each writes down every number that it gets, and when.

Lean, since a thousand of them share a core with all the rest. They read any event stream, in any
chunks, and say where they are when they come back; what the libraries do is `library`'s.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bench.chaos.judge import Diary

# A server that takes a connection and says nothing (it is stopped, say) is given up after this.
_ANSWER_S = 3.0
Heard = Callable[[int, str, int], None]  # on a feed, by that id, the event of that number


# Of an event's id, type and data the number that it has in a diary. Raises ValueError, KeyError,
# TypeError or AttributeError for what belongs into none.
Number = Callable[[str, str, str], int]


def number_of(_id: str, kind: str, text: str) -> int:
    """`n`, as the kit's upstream says it: in the payload where there is one."""
    if kind != "message":
        raise ValueError(kind)
    said = json.loads(text)
    return int(said.get("payload", said)["n"])


def write_down(
    diary: Diary, number: Number, event_id: str, kind: str, text: str, at_s: float
) -> None:
    """What a client has read, into its diary."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):  # not of this story
        if kind == "relay.gap":
            gap = json.loads(text)["payload"]
            diary.gap(str(gap["cause"]), gap.get("lastEventId") or "")
        else:
            diary.note(number(event_id, kind, text), at_s)


class Parser:
    """Bytes of an event stream become (id, type, data), by the letter of the HTML standard; the id
    of the connection before goes on to hold, as browsers have it.
    """

    def __init__(self, last_id: str = "") -> None:
        self._rest = b""
        self._begun = self._after_cr = False
        self.last_id = last_id

    def feed(self, data: bytes) -> list[tuple[str, str, str]]:
        text = data.removeprefix(b"\n") if self._after_cr else data
        self._after_cr = data.endswith(b"\r")
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, self._rest = (self._rest + text).split(b"\n\n")
        if blocks and not self._begun:
            blocks[0], self._begun = blocks[0].removeprefix(b"\xef\xbb\xbf"), True
        return [event for event in map(self._event, blocks) if event is not None]

    def _event(self, block: bytes) -> tuple[str, str, str] | None:
        kind, data = "message", list[str]()
        for line in block.decode(errors="replace").split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                kind = value or "message"
            elif name == "id" and "\0" not in value:
                self.last_id = value
        return (self.last_id, kind, "\n".join(data)) if data else None


class _Reading(asyncio.Protocol):
    """One connection."""

    def __init__(self, tab: "Tab", request: bytes) -> None:
        self.status = 0
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard_s = time.monotonic()
        self.transport: asyncio.Transport
        self._tab = tab
        self._request = request
        self._rest = b""
        self._chunked = False
        self._parser = Parser(tab.last_id)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.heard_s = time.monotonic()
        if self.status:
            self._take(data)
            return
        self._rest += data
        head, blank, rest = self._rest.partition(b"\r\n\r\n")
        if not blank:
            return
        self._rest = b""
        self.status = int(head.split(b" ", 2)[1])
        self._chunked = b"transfer-encoding:chunked" in head.lower().replace(b" ", b"")
        if not self.answered.done():
            self.answered.set_result(None)
        self._take(rest)

    def connection_lost(self, _: Exception | None) -> None:
        for future in (self.answered, self.ended):
            if not future.done():
                future.set_result(None)

    def _take(self, data: bytes) -> None:
        if self.status != 200:
            return
        body = self._unchunked(data) if self._chunked else data
        for event_id, kind, text in self._parser.feed(body):
            self._tab.take(event_id, kind, text)

    def _unchunked(self, data: bytes) -> bytes:
        """A chunk's bytes count when the chunk is whole: what broke off may be half an event."""
        rest, start, whole = self._rest + data, 0, []
        while (end := rest.find(b"\r\n", start)) >= 0:
            size = int(rest[start:end].partition(b";")[0], 16)
            stop = end + 2 + size + 2
            if len(rest) < stop:
                break
            whole.append(rest[end + 2 : stop - 2])
            start = stop
            if not size:
                self.transport.close()
        self._rest = rest[start:]
        return b"".join(whole)


@dataclass(frozen=True, slots=True)
class Errand:
    """What a client asks for, and how it behaves: `retry_s` before it comes back, `silence_s` after
    which it gives a connection up (heartbeats count as life), `answer_s` for headers to come.
    """

    feed: int
    path: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    host: str = "127.0.0.1"
    retry_s: float = 0.05
    silence_s: float = 0.0
    answer_s: float = _ANSWER_S
    number: Number = number_of


class Tab:
    """One client. `ports` are those of the replicas, which it tries in any order; `home` is the one
    it begins at. What it chooses is drawn from `seed`; None: from chance.
    """

    def __init__(
        self,
        errand: Errand,
        ports: Sequence[int],
        home: int,
        seed: int | None = None,
        heard: Heard | None = None,
    ) -> None:
        self.diary = Diary(errand.feed)
        self._heard = heard
        self.port = ports[home]
        self.last_id = ""
        self._errand = errand
        self._ports = ports
        self._dice = random.Random(seed)
        self._reading: _Reading | None = None
        self._task = asyncio.ensure_future(self._run())

    @property
    def open(self) -> bool:
        reading = self._reading
        return reading is not None and reading.status == 200 and not reading.ended.done()

    @property
    def given_up(self) -> bool:
        """Never, unlike real clients."""
        return False

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def take(self, event_id: str, kind: str, text: str) -> None:
        """What its connection has read."""
        self.last_id = event_id
        known = len(self.diary.numbers)
        write_down(self.diary, self._errand.number, event_id, kind, text, time.time())
        if self._heard and len(self.diary.numbers) > known:
            self._heard(self.diary.feed, event_id, self.diary.numbers[-1])

    def freeze(self) -> None:
        """Stop reading, as a laptop that sleeps does; the kernel's buffers fill."""
        if self._reading is not None and self.open:
            self._reading.transport.pause_reading()

    def thaw(self) -> None:
        if self._reading is not None and self.open:
            self._reading.heard_s = time.monotonic()
            self._reading.transport.resume_reading()

    async def _run(self) -> None:
        while True:
            with suppress(OSError, TimeoutError, ValueError):  # broken chunks are broken roads
                await self._stay()
            await asyncio.sleep(self._errand.retry_s * self._dice.uniform(0.5, 1.5))
            self.port = self._dice.choice(self._ports)

    async def _stay(self) -> None:
        errand = self._errand
        headers = {"Host": errand.host, "Accept": "text/event-stream"} | errand.headers
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET {errand.path} HTTP/1.1\r\n{lines}\r\n".encode()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(errand.answer_s):
            _, reading = await loop.create_connection(
                lambda: _Reading(self, request), "127.0.0.1", self.port
            )
        try:
            async with asyncio.timeout(errand.answer_s):
                await reading.answered
            if reading.status == 200:
                self._reading = reading
                self.diary.connections += 1
                self.diary.trail.append((len(self.diary.numbers), self.port, self.last_id))
                if not self.last_id:
                    self.diary.claims.append((time.time(), 0))
                await self._until_over(reading)
            elif reading.status:
                self.diary.refusals.append(reading.status)
        finally:
            reading.transport.abort()

    async def _until_over(self, reading: _Reading) -> None:
        patience_s = self._errand.silence_s
        while not reading.ended.done():
            waited_s = time.monotonic() - reading.heard_s
            if patience_s and waited_s > patience_s:
                return
            await asyncio.wait(
                [reading.ended], timeout=patience_s - waited_s if patience_s else None
            )
