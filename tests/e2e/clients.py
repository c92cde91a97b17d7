"""Clients that forgive nothing: HTTP and event streams over raw sockets, every byte accounted for.

Libraries mend what servers get wrong; these write it down. They know the relay by its contract
only, and share no code with it.
"""

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

PATHS = {"desktops": "/api/desktops/stream", "activity": "/api/mission-control/activity/stream"}
DESKTOPS = PATHS["desktops"]
ACTIVITY = PATHS["activity"]

Headers = Iterable[tuple[str, str | bytes]]

# What may stand in a stream, whole: a heartbeat, the opening, or one block in canonical form.
_PIECE = re.compile(
    rb"(?P<beat>:\n)"
    rb"|(?P<opening>retry: (?P<hint>\d+)\n:\n)"
    rb"|(?:retry: (?P<retry>\d+)\n)?"
    rb"id: (?P<id>[^\r\n\0]*)\n"
    rb"(?:event: (?P<type>[^\r\n]+)\n)?"
    rb"(?P<data>(?:data: [^\r\n]*\n)+)\n"
)
_LONGEST_PIECE_BYTES = 8 * 1024 * 1024


async def eventually(true: Callable[[], Any], timeout_s: float = 5.0, said: str = "") -> None:
    """Wait until something has come true; a failure says what had to."""
    try:
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110 - any condition, also one that nobody signals
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {said or 'the condition'}") from None


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def head(
    path: str = DESKTOPS,
    *,
    key: str = "",
    cookie: str = "",
    cursor: str | bytes | None = None,
    method: str = "GET",
    version: str = "1.1",
    headers: Headers = (),
) -> bytes:
    """A request head, byte for byte."""
    fields: list[tuple[str, str | bytes]] = [("Host", "localhost")]
    fields += [("x-api-key", key)] if key else []
    fields += [("Cookie", cookie)] if cookie else []
    fields += [("Last-Event-ID", cursor)] if cursor is not None else []
    lines = [f"{method} {path} HTTP/{version}".encode()]
    for name, value in (*fields, *headers):
        lines.append(name.encode() + b": " + (value.encode() if isinstance(value, str) else value))
    return b"\r\n".join((*lines, b"", b""))


class Block(NamedTuple):
    """One event as it came. `type` is empty for an unnamed one."""

    id: str
    type: str
    data: str
    retry_ms: int | None = None

    @property
    def payload(self) -> dict[str, Any]:
        return json.loads(self.data)["payload"]


@dataclass
class Reply:
    """The answer to one request, read to its end."""

    raw: bytes

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        return _headers(self.raw.partition(b"\r\n\r\n")[0])

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        document = json.loads(self.body)
        assert document["status"] == self.status
        return document

    @property
    def code(self) -> str:
        return self.problem["code"]


def _headers(text: bytes) -> dict[str, str]:
    pairs = [line.split(": ", 1) for line in text.decode("ascii").split("\r\n")[1:]]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "a header came twice"
    return {name.lower(): value for name, value in pairs}


async def ask(url: str, path: str = DESKTOPS, *, raw: bytes = b"", **request: Any) -> Reply:
    """Send one request (or `raw`) and read until the server closes."""
    if not raw:
        closing = ("Connection", "close")
        request["headers"] = (*request.get("headers", ()), closing)
    reader, writer = await asyncio.open_connection(*address(url))
    try:
        writer.write(raw or head(path, **request))
        async with asyncio.timeout(20):
            return Reply(await reader.read())
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@dataclass(eq=False)
class SseClient(asyncio.Protocol):
    """One stream. Whatever breaks the contract's form of a stream is in `faults`.

    `segments` are what single reads brought, `chunks` the bodies of HTTP chunks, `blocks` the
    events in order, and `timeline` says what came in which order: block, beat.
    """

    raw: bytearray = field(default_factory=bytearray)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    segments: list[bytes] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    timeline: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    heartbeats: int = 0
    retry_ms: int | None = None
    finished: bool = False  # the last chunk has come
    closed: bool = False  # the connection has ended
    transport: Any = None
    _rest: bytearray = field(default_factory=bytearray)
    _body: bytearray = field(default_factory=bytearray)
    _used: int = 0

    @classmethod
    async def connect(
        cls,
        url: str,
        path: str = DESKTOPS,
        *,
        receive_bytes: int = 0,
        source: str = "",
        **request: Any,
    ) -> Self:
        """Send the request; `opened` waits for what it brings. `receive_bytes` bounds the kernel's
        buffer of a client that reads slowly; `source` is a local address.
        """
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if source:
            sock.bind((source, 0))
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, address(url))
        except BaseException:
            sock.close()
            raise
        accept = ("Accept", "text/event-stream")
        request["headers"] = (accept, *request.get("headers", ()))
        _, client = await loop.create_connection(cls, sock=sock)
        client.transport.write(head(path, **request))
        return client

    async def opened(self) -> Self:
        """Wait for the headers of a stream, and for its opening: the relay has attached us."""
        await eventually(lambda: self.status or self.closed, said="headers")
        assert self.status == 200, bytes(self.raw)
        assert self.headers["content-type"] == "text/event-stream", bytes(self.raw)
        await eventually(lambda: self.retry_ms is not None, said="the opening")
        return self

    @property
    def events(self) -> list[Block]:
        """What upstream said."""
        return [block for block in self.blocks if not block.type.startswith("relay.")]

    @property
    def told(self) -> list[Block]:
        """What the relay itself said."""
        return [block for block in self.blocks if block.type.startswith("relay.")]

    @property
    def gaps(self) -> list[str]:
        """The causes of the gaps that were told."""
        return [block.payload["cause"] for block in self.told if block.type == "relay.gap"]

    @property
    def reason(self) -> str:
        """Why the relay ended this stream; empty while it hasn't said."""
        last = self.blocks[-1] if self.blocks else None
        return last.payload["reason"] if last and last.type == "relay.closing" else ""

    @property
    def ids(self) -> list[str]:
        return [block.id for block in self.events]

    @property
    def last_id(self) -> str:
        """Where it stands, as every client library would say it."""
        return self.blocks[-1].id if self.blocks else ""

    async def has(self, count: int, timeout_s: float = 10.0) -> list[Block]:
        """Wait until so many events have come."""
        try:
            await eventually(lambda: len(self.events) >= count, timeout_s)
        except AssertionError:
            seen, said = len(self.events), [(b.type, b.data) for b in self.told]
            raise AssertionError(f"{seen} of {count} events; told {said}") from None
        return self.events

    async def ended(self, timeout_s: float = 10.0) -> Self:
        await eventually(lambda: self.closed, timeout_s, "the end of the stream")
        return self

    def close(self) -> None:
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self.segments.append(data)
        self._rest += data
        if not self.status:
            if b"\r\n\r\n" not in self._rest:
                return
            text, _, rest = bytes(self._rest).partition(b"\r\n\r\n")
            self._rest = bytearray(rest)
            self.headers = _headers(text)
            self.status = int(text.split(b" ", 2)[1])
        if self.headers.get("transfer-encoding") == "chunked":
            self._take_chunks()
        elif self.headers.get("content-type") == "text/event-stream":
            self._body += self._rest
            self._rest.clear()
            self._take_bare()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True

    # What came

    def _take_chunks(self) -> None:
        start = 0
        while (end := self._rest.find(b"\r\n", start)) >= 0:
            size = int(self._rest[start:end], 16)
            stop = end + 2 + size
            if len(self._rest) < stop + 2:
                break
            if self._rest[stop : stop + 2] != b"\r\n":
                self.faults.append(f"a chunk that doesn't end: {bytes(self._rest[start:][:80])!r}")
            self._take_chunk(bytes(self._rest[end + 2 : stop]))
            start = stop + 2
        del self._rest[:start]

    def _take_chunk(self, chunk: bytes) -> None:
        if self.finished:
            self.faults.append(f"after the last chunk: {chunk[:80]!r}")
        if not chunk:
            self.finished = True
            return
        self.chunks.append(chunk)
        piece = _PIECE.fullmatch(chunk)
        if piece is None:
            self.faults.append(f"a chunk that is no frame: {chunk[:200]!r}")
        else:
            self._take_piece(piece)

    def _take_bare(self) -> None:
        while piece := _PIECE.match(self._body, self._used):
            self._used = piece.end()
            self._take_piece(piece)
        if len(self._body) - self._used > _LONGEST_PIECE_BYTES:
            self.faults.append("bytes that are no frame")

    def _take_piece(self, piece: re.Match[bytes]) -> None:
        if piece["beat"]:
            self.heartbeats += 1
            self.timeline.append("beat")
            return
        if piece["opening"]:
            if self.timeline:
                self.faults.append("an opening in the middle")
            self.retry_ms = int(piece["hint"])
            self.timeline.append("opening")
            return
        if not self.timeline and "content-length" not in self.headers:
            self.faults.append("a block before the opening")
        lines = [line.removeprefix(b"data: ") for line in piece["data"].split(b"\n")[:-1]]
        retry_ms = int(piece["retry"]) if piece["retry"] else None
        texts = (piece["id"], piece["type"] or b"", b"\n".join(lines))
        self.blocks.append(Block(*(text.decode() for text in texts), retry_ms))
        self.timeline.append("block")


class Tab:
    """A client that comes back: EventSource's behaviour, over the strict client.

    `seen` is what the application got, in order, over all its connections.
    """

    def __init__(self, url: str, path: str = DESKTOPS, **request: Any) -> None:
        self.url = url
        self.path = path
        self.request = request
        self.last_id = request.pop("cursor", None)
        self.seen: list[Block] = []
        self.connections: list[SseClient] = []
        self.refusals: list[int] = []
        self._taken = 0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            with suppress(OSError):
                await self._stay()
            await asyncio.sleep(0.02)

    async def _stay(self) -> None:
        client = await SseClient.connect(
            self.url, self.path, cursor=self.last_id or None, **self.request
        )
        self.connections.append(client)
        self._taken = 0
        try:
            while not client.closed:
                await asyncio.sleep(0.005)
                self._collect(client)
        finally:
            self._collect(client)
            if client.status not in {0, 200}:
                self.refusals.append(client.status)
            client.close()

    def _collect(self, client: SseClient) -> None:
        new = client.blocks[self._taken :]
        self._taken += len(new)
        self.seen += new
        if new:
            self.last_id = new[-1].id

    @property
    def client(self) -> SseClient:
        return self.connections[-1]

    @property
    def events(self) -> list[Block]:
        return [block for block in self.seen if not block.type.startswith("relay.")]

    @property
    def ids(self) -> list[str]:
        return [block.id for block in self.events]

    @property
    def gaps(self) -> list[str]:
        return [block.payload["cause"] for block in self.seen if block.type == "relay.gap"]

    @property
    def faults(self) -> list[str]:
        return [fault for client in self.connections for fault in client.faults]

    def drop(self) -> None:
        """Lose the connection, rudely; it comes back."""
        self.client.abort()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def breaks(seen: Iterable[Block], order: Iterable[str]) -> list[str]:
    """Where a story jumps without a word of it, or goes back after a gap; `order` is what upstream
    emitted, by ids that are all different.
    """
    places = {event_id: place for place, event_id in enumerate(order)}
    wrong: list[str] = []
    last, told = -1, True
    for block in seen:
        if block.type.startswith("relay."):
            told = told or block.type == "relay.gap"
            continue
        here = places[block.id]
        if here <= last or (here != last + 1 and not told):
            wrong.append(f"{last} then {here}{' after a gap' if told else ''}")
        last, told = here, False
    return wrong
