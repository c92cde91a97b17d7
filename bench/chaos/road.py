"""The road between two parties, one TCP port to another: it breaks in every way that a network has.

What is on a parted road waits, and arrives when it is open again, also if its sender has given up
since: that is how TCP behaves, and how a stale owner's last word comes to a server late.
"""

import asyncio
import random
import re
import socket
import ssl
import struct
import time
from contextlib import suppress
from urllib.parse import unquote

# Small, so that a road on which nobody reads fills up soon; the kernel doubles it.
_BUFFER_BYTES = 8192
_PIECE_BYTES = 65_536
# With `linger` on and zero, a close is a RST.
_RESET = struct.pack("ii", 1, 0)

# As a header, or in the query of who opens a new stream at a place.
_CURSOR = re.compile(rb"(?i)last-?event-?id[:=]\s*([^\r\n& ]+)")
_HOST = re.compile(rb"(?i)(\r\nhost: *)[^\r\n]+")


class _Trip:
    """One connection and its two directions. `lost`: nothing gets through any more."""

    def __init__(self, here: asyncio.StreamWriter, there: asyncio.StreamWriter) -> None:
        self.here = here
        self.there = there
        self.lost = False
        self.left_bytes: int | None = None  # what may still go to `here` before it breaks


class Road:
    """A TCP proxy to one port here, or to the first of several that takes a connection, in any
    order, as a load balancer does. Set `delay_s`, `piece_bytes` (to send in such pieces) and
    `bytes_per_s` at any time; 0 is off.
    """

    def __init__(
        self,
        *to_ports: int,
        seed: int = 0,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        onward_tls: ssl.SSLContext | None = None,
        host_header: str = "",
    ) -> None:
        self._to = host, to_ports
        self._onward_tls = onward_tls
        self._host_header = host_header.encode()
        self.delay_s = 0.0
        self.piece_bytes = 0
        self.bytes_per_s = 0
        self.arrivals: list[tuple[float, str]] = []  # requests: when, and with which cursor
        self.port = 0
        self._tls = tls
        self._dice = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._trips: set[_Trip] = set()
        self._travellers: set[asyncio.Task[None]] = set()

    async def start(self) -> "Road":
        """Take connections; again on the same port after `refuse`."""
        if self._server is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            listener.bind(("127.0.0.1", self.port))
            self._server = await asyncio.start_server(
                self._carry, sock=listener, ssl=self._tls, backlog=4096
            )
            self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    @property
    def open(self) -> int:
        """How many connections go by it now."""
        return len(self._trips)

    def refuse(self) -> None:
        """Close the port; what is on the road goes on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def part(self) -> None:
        """Let nothing pass, and keep it."""
        self._open.clear()

    def heal(self) -> None:
        """Let pass what waits; no delay, pieces or slowness any more."""
        self.delay_s, self.piece_bytes, self.bytes_per_s = 0.0, 0, 0
        self.let_pass()

    def let_pass(self) -> None:
        """What waits."""
        self._open.set()

    def reset(self) -> None:
        """RST to both ends of every connection."""
        for trip in tuple(self._trips):
            _reset(trip.here)
            _reset(trip.there)

    def lose(self) -> None:
        """The connections that are open now carry nothing any more, and neither end is told."""
        for trip in self._trips:
            trip.lost = True

    def half_open(self) -> None:
        """The far end of every connection is closed, and the near end is not told."""
        for trip in self._trips:
            trip.lost = True
            _reset(trip.there)

    def cut(self, most_bytes: int = 600) -> None:
        """Each connection breaks after some more bytes, another number for each."""
        for trip in self._trips:
            trip.left_bytes = self._dice.randrange(most_bytes)

    async def end(self) -> None:
        self.refuse()
        for task in self._travellers:
            task.cancel()
        await asyncio.gather(*self._travellers, return_exceptions=True)

    async def _carry(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._travellers.add(task)
        trip: _Trip | None = None
        try:
            await self._open.wait()
            there, on = await self._onward()
            trip = _Trip(back, on)
            self._trips.add(trip)
            await asyncio.gather(self._out(here, trip), self._back(there, trip))
        except (OSError, RuntimeError, asyncio.CancelledError):
            # uvloop's word for a transport that is closed already is a RuntimeError; and a stream's
            # callback would take a cancelled task for a fault.
            pass
        finally:
            back.transport.abort()
            if trip is not None:
                trip.there.transport.abort()
                self._trips.discard(trip)
            self._travellers.discard(task)

    async def _onward(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, ports = self._to
        for port in self._dice.sample(ports, len(ports)):
            with suppress(OSError):
                return await asyncio.open_connection(host, port, ssl=self._onward_tls)
        raise ConnectionRefusedError

    async def _out(self, reader: asyncio.StreamReader, trip: _Trip) -> None:
        """Towards the port; its end leaves the other direction what may still be on its way."""
        while data := await _read(reader):
            if data.startswith(b"GET "):
                found = _CURSOR.search(data)
                cursor = found[1].decode(errors="replace") if found else ""  # latin-1 comes, too
                self.arrivals.append((time.time(), unquote(cursor)))
                if self._host_header:  # the far end isn't where the client believes it to be
                    data = _HOST.sub(rb"\g<1>" + self._host_header, data, count=1)
            await self._open.wait()
            if not trip.lost:
                trip.there.write(data)
                await trip.there.drain()
        if trip.lost:
            raise ConnectionResetError  # the near end has given it up
        trip.there.close()

    async def _back(self, reader: asyncio.StreamReader, trip: _Trip) -> None:
        while data := await _read(reader):
            if self.delay_s:
                await asyncio.sleep(self.delay_s * self._dice.uniform(0.5, 1.5))
            size = self.piece_bytes or len(data)  # it may change while these are under way
            for start in range(0, len(data), size):
                await self._open.wait()
                await self._deliver(data[start : start + size], trip)
        while trip.lost and not trip.here.transport.is_closing():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.1)
        await self._open.wait()
        trip.here.close()

    async def _deliver(self, piece: bytes, trip: _Trip) -> None:
        if trip.lost:
            return
        if trip.left_bytes is not None:
            trip.here.write(piece[: trip.left_bytes])
            trip.left_bytes -= len(piece)
            if trip.left_bytes <= 0:
                await trip.here.drain()
                trip.here.transport.close()  # what was let through should arrive
                trip.there.transport.abort()
                raise ConnectionResetError
        else:
            trip.here.write(piece)
        await trip.here.drain()
        if self.bytes_per_s:
            await asyncio.sleep(len(piece) / self.bytes_per_s)
        elif self.piece_bytes:
            await asyncio.sleep(0)  # each piece a segment of its own


async def _read(reader: asyncio.StreamReader) -> bytes:
    with suppress(OSError):
        return await reader.read(_PIECE_BYTES)
    return b""


def _reset(writer: asyncio.StreamWriter) -> None:
    made = writer.get_extra_info("socket")
    if made is not None:
        with suppress(OSError, ValueError):  # it may be closed
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
