"""Who has appended: the server's own word for every append that it took, and under which fence.

`MONITOR` shows each script call with its token, and after it what the script did. So an append that
was refused is not counted, and one that was taken can't hide. (A feed's name has 32 digits; what
replicas try out on `{0}` is no feed.)
"""

import asyncio
import re
from contextlib import suppress

_CALL = re.compile(
    rb'\] "EVALSHA" "[0-9a-f]+" "4" "[^"]+\{([0-9a-f]{32})\}:lease" .*?:fence" "([^"]+)"'
)
_ADDED = re.compile(rb'lua\] "XADD" "[^"]+\{([0-9a-f]{32})\}:log"')
_RETRY_S = 0.1


class Fences:
    """Watches one server for as long as it lives, and again when it has come back, empty."""

    def __init__(self, port: int) -> None:
        self.appends = 0
        self.violations: list[str] = []
        self.watching = asyncio.Event()
        self._port = port
        self._newest: dict[bytes, tuple[int, bytes]] = {}  # feed -> the newest fence, its token
        self._calling: dict[bytes, bytes] = {}  # feed -> token of the call that is going on
        self._task = asyncio.ensure_future(self._run())

    async def end(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._watch()
            self.watching.clear()
            await asyncio.sleep(_RETRY_S)

    async def _watch(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=64 << 20)
        try:
            writer.write(b"MONITOR\r\n")
            if await reader.readuntil(b"\r\n") != b"+OK\r\n":
                raise ConnectionResetError
            self._newest.clear()
            self.watching.set()
            while line := await reader.readline():
                self._hear(line)
        finally:
            writer.close()

    def _hear(self, line: bytes) -> None:
        if b'"EVALSHA"' in line:
            call = _CALL.search(line)
            if call is not None:
                self._calling[call[1]] = call[2]
        elif b'lua] "XADD"' in line:
            added = _ADDED.search(line)
            if added is not None:
                self._took(added[1], self._calling[added[1]])
        elif b'"FLUSHALL"' in line:
            self._newest.clear()

    def _took(self, feed: bytes, token: bytes) -> None:
        fence = int(token.split(b":")[1])
        known, by = self._newest.get(feed, (0, token))
        if fence < known or (fence == known and token != by):
            self.violations.append(
                f"{feed.decode()[:8]}: {token.decode()} appended after {by.decode()}"
            )
        self._newest[feed] = max((fence, token), (known, by))
        self.appends += 1
