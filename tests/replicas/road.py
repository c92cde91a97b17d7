"""The road between one replica and its Redis: it can be closed, as a network does that.

What is on it then waits, and arrives when it opens again, also if its sender has given up since:
that is how TCP behaves, and how a stale owner's last word comes to a server late.
"""

import asyncio
from contextlib import suppress


class Road:
    """A TCP proxy to one port here."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._travellers: set[asyncio.Task[None]] = set()

    async def start(self) -> "Road":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def part(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def end(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._travellers:
            task.cancel()
        await asyncio.gather(*self._travellers, return_exceptions=True)

    async def _carry(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._travellers.add(task)
        ways = [back]
        try:
            await self._open.wait()
            there, on = await asyncio.open_connection("127.0.0.1", self._to_port)
            ways.append(on)
            await asyncio.gather(self._pass(here, on), self._pass(there, back))
        except (OSError, asyncio.CancelledError):
            for way in ways:  # a stream's callback would take a cancelled task for a fault
                way.transport.abort()
        finally:
            self._travellers.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, to its end: the other may still have something on its way."""
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        await self._open.wait()
        writer.close()
