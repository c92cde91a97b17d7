"""One open stream: reads its channel on, and writes it as well, or as badly, as ordered.

aiohttp-sse gives the response: headers, the check for dead peers, the end in good order. The bytes
are made here rather than by its `send`, because most faults are about bytes, because what piled up
in one turn of the loop leaves as one write (half the cost per event), and because its ping would
fall into the middle of a frame that leaves in pieces.
"""

import asyncio
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Final

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from lebureau_relay.simulator.catalogue import Fault
from lebureau_relay.simulator.channel import Channel
from lebureau_relay.simulator.faults import FaultOrder
from lebureau_relay.simulator.options import Stream

# Records per write: a long replay yields to others between them.
_BATCH: Final = 256
# Between the pieces of a slow stream, so that each is a segment of its own and a frame still ends
# within a second.
_PIECE_PAUSE_S: Final = 0.001
_GARBAGE_BYTES: Final = 256
_BOM: Final = b"\xef\xbb\xbf"
_HEARTBEAT: Final = b": heartbeat\n\n"
_LF: Final = (b"\n",)
# LF never follows CR here: the two would be one line end.
_LINE_ENDS: Final = {
    Fault.CR: (b"\r",),
    Fault.CRLF: (b"\r\n",),
    Fault.MIXED: (b"\n", b"\r", b"\r\n"),
}


@dataclass(slots=True)
class _Manner:
    """How one connection is written."""

    silent: bool = False
    end: bool = False
    cut_after: int | None = None  # bytes of the body that may still go
    cut_inside: bool = False
    piece_bytes: int = 0
    line_ends: tuple[bytes, ...] = _LF
    aside: bytes = b""  # goes out before the next frame


class Subscription:
    """One client's connection to one channel.

    Wake it when there is something to do; it ends with its connection.
    """

    __slots__ = (
        "_awake",
        "_channel",
        "_cursor",
        "_heartbeat_due",
        "_line_ends",
        "_manner",
        "_noise",
        "_transport",
        "secret",
        "stream",
        "user",
        "written_at_s",
    )

    def __init__(
        self, user: str, stream: Stream, channel: Channel, cursor: int, secret: str
    ) -> None:
        self.user = user
        self.stream = stream
        self.secret = secret
        self.written_at_s = asyncio.get_running_loop().time()
        self._channel = channel
        self._cursor = cursor
        self._awake = asyncio.Event()
        self._heartbeat_due = False
        self._noise = Random(cursor)  # noqa: S311 - noise, the same in every run
        self._transport: asyncio.Transport | None = None
        self._calm()

    def _calm(self) -> None:
        self._manner = _Manner()
        self._line_ends = cycle(self._manner.line_ends)

    def wake(self) -> None:
        """There is something to do."""
        self._awake.set()

    def heartbeat(self) -> None:
        """Send a comment."""
        self._heartbeat_due = True
        self._awake.set()

    def recover(self) -> None:
        """Behave again; what was held back goes out."""
        self._calm()
        self._awake.set()

    def order(self, order: FaultOrder) -> None:
        """Misbehave from now on, in this way beside the others ordered before."""
        manner = self._manner
        match order.fault:
            case Fault.CUT if order.argument == "mid":
                manner.cut_inside = True
            case Fault.CUT:
                manner.cut_after = order.number(0)
            case Fault.END:
                manner.end = True
            case Fault.SILENCE:
                manner.silent = True
            case Fault.SLOW:
                manner.piece_bytes = order.number(1)
            case Fault.GARBAGE:
                manner.aside += self._noise.randbytes(order.number(_GARBAGE_BYTES)) + b"\n\n"
            case Fault.BOM:
                manner.aside = _BOM + manner.aside
            case Fault.CR | Fault.CRLF | Fault.MIXED as fault:
                self._line_ends = cycle(_LINE_ENDS[fault])
                manner.line_ends = _LINE_ENDS[fault]
        self._awake.set()

    def cut(self) -> None:
        """Break the connection now: no last chunk, and what the kernel has not taken is lost."""
        self._manner.end = True
        if self._transport is not None:
            self._transport.abort()

    async def serve(
        self, request: web.Request, response: EventSourceResponse, opening: bytes
    ) -> None:
        """Write until the client leaves (cancelled), the connection breaks, or an order ends it.

        `response` is prepared; `opening` goes out before everything else.
        """
        self._transport = request.transport
        self._manner.aside += self._lines(opening)
        self._awake.set()
        while not self._manner.end:
            await self._awake.wait()
            self._awake.clear()
            try:
                await self._deliver(response)
            except ConnectionResetError:
                return

    async def _deliver(self, response: EventSourceResponse) -> None:
        if self._manner.cut_after == 0:
            self.cut()
        if self._heartbeat_due and not self._manner.silent:
            self._heartbeat_due = False
            self._manner.aside += self._lines(_HEARTBEAT)
        while self._has_more():
            await self._write(response, self._take())

    def _has_more(self) -> bool:
        manner = self._manner
        if self._cursor < self._channel.oldest:
            # The log went on without this reader. It may come back and say what it has.
            manner.end = True
        if manner.end or manner.silent:
            return False
        return self._cursor < self._channel.top or bool(manner.aside)

    def _take(self) -> bytes:
        """What goes out next, as one write: what stands aside, then a batch of frames."""
        manner = self._manner
        records = self._channel.read(self._cursor, _BATCH)
        self._cursor += len(records)
        frames = [
            record.frame if record.raw is not None else self._lines(record.frame)
            for record in records
        ]
        if manner.cut_inside and frames:
            manner.cut_after = len(manner.aside) + len(frames[0]) // 2
        taken = b"".join((manner.aside, *frames))
        manner.aside = b""
        return taken

    def _lines(self, text: bytes) -> bytes:
        if self._manner.line_ends == _LF:
            return text
        lines = text.split(b"\n")
        return b"".join(line + next(self._line_ends) for line in lines[:-1]) + lines[-1]

    async def _write(self, response: EventSourceResponse, data: bytes) -> None:
        self.written_at_s = asyncio.get_running_loop().time()
        manner = self._manner
        if manner.cut_after is not None:
            data = data[: manner.cut_after]
            manner.cut_after -= len(data)
        if manner.piece_bytes:
            for start in range(0, len(data), manner.piece_bytes):
                await response.write(data[start : start + manner.piece_bytes])
                await asyncio.sleep(_PIECE_PAUSE_S)
        elif data:
            await response.write(data)
        if manner.cut_after == 0:
            self.cut()
