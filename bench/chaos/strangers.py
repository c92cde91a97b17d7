"""Who comes and is none of the clients that are judged: sockets that say nothing, programs that
guess keys, more tabs of a user.
"""

import asyncio
from contextlib import suppress

# A guess after an answer, or after none; some thirty a second by a hundred guessers.
_PAUSE_S = 3.0
_ANSWER_S = 5.0
# Each from an address of its own, so that none takes the clients' share, nor all one's.
_FIRST_ADDRESS = 2


class Strangers:
    """At relays, by their ports, until `leave`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def sit(self, port: int, count: int, said: bytes = b"") -> None:
        """So many connections that say this and no more, and come back when they are dropped."""
        self._tasks |= {asyncio.ensure_future(self._sit(port, one, said)) for one in range(count)}

    def guess(self, port: int, path: str, count: int) -> None:
        """So many, each trying one key after the other."""
        self._tasks |= {
            asyncio.ensure_future(self._try_keys(port, path, one)) for one in range(count)
        }

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _sit(self, port: int, number: int, said: bytes) -> None:
        while True:
            await self._talk(port, number, said, None)
            await asyncio.sleep(_PAUSE_S)

    async def _try_keys(self, port: int, path: str, number: int) -> None:
        guess = 0
        while True:
            request = (
                f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
                f"x-api-key: guess-{port}-{number}-{guess}\r\nConnection: close\r\n\r\n"
            )
            await self._talk(port, number, request.encode(), _ANSWER_S)
            guess += 1
            await asyncio.sleep(_PAUSE_S * (0.5 + number % 10 / 10))

    async def _talk(self, port: int, number: int, said: bytes, patience_s: float | None) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(patience_s):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(f"127.0.0.{_FIRST_ADDRESS + number % 200}", 0)
                )
                try:
                    writer.write(said)
                    await reader.read()
                finally:
                    writer.transport.abort()
