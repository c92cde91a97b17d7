"""A path to a server that can swallow what travels on it, or break."""

import asyncio
from contextlib import suppress


class _Pair:
    """One connection through the proxy."""

    def __init__(self, here: asyncio.StreamWriter, there: asyncio.StreamWriter) -> None:
        self.writers = (here, there)
        self.listens = False  # it has subscribed to something
        self.mute = False


class Proxy:
    """A TCP proxy to one port here."""

    def __init__(self, port: int) -> None:
        self._to_port = port
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.mute_all = False

    async def start(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def mute_listeners(self) -> int:
        """Swallow from now on what travels on the connections that listen now; how many."""
        chosen = [pair for pair in self._pairs if pair.listens]
        for pair in chosen:
            pair.mute = True
        return len(chosen)

    def cut(self) -> None:
        """Break every connection."""
        for pair in self._pairs:
            for writer in pair.writers:
                writer.transport.abort()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, here: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            from_server, there = await asyncio.open_connection("127.0.0.1", self._to_port)
            pair = _Pair(here, there)
            self._pairs.add(pair)
            with suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, there, pair))
                    both.create_task(self._pump(from_server, here, pair))
            self._pairs.discard(pair)
            there.transport.abort()
        here.transport.abort()
        self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair
    ) -> None:
        while data := await reader.read(65536):
            pair.listens |= b"SUBSCRIBE\r\n" in data
            if not (self.mute_all or pair.mute):
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError
