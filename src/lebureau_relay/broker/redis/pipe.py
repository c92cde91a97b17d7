"""The pipe: all calls of one loop turn travel to the server in one pipeline, and none waits for
longer than a second.

A single call costs some 59 µs of CPU, one of a hundred in a pipeline 7.5. While a pipeline is on
its way the next one gathers, so load makes the batches larger, not the queue longer. Where the
server doesn't answer, calls fail at once until a probe has found it again: nobody on the hot path
waits for a time-out that somebody else has had already.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError, ResponseError

from lebureau_relay.broker.redis.servers import Client
from lebureau_relay.relay.ports import BrokerDown

# A hot-path call never waits longer (issue 3, point 7).
CALL_TIMEOUT_S: Final = 1.0
# How often a server that is away is asked whether it is back.
_PROBE_S: Final = 0.25
# Calls that wait while a pipeline is on its way; more is a server that is too slow, which is as
# good as away.
_MAX_WAITING: Final = 20_000
SCRIPTS: Final = ("take", "give", "tick", "read", "append")

Argument = str | bytes | int


@dataclass(slots=True)
class _Call:
    script: str
    keys: Sequence[str]
    arguments: Sequence[Argument]
    answer: asyncio.Future[Any]


class Pipe:
    """Scripts by name, answered in order.

    `on_change` is told when the server goes and comes; `timed` of each pipeline's seconds. `run` is
    its life.
    """

    def __init__(
        self,
        client: Client,
        on_change: Callable[[bool], None],
        timed: Callable[[float], None],
    ) -> None:
        self.up = False
        self._client = client
        self._on_change = on_change
        self._timed = timed
        self._waiting: list[_Call] = []
        self._more = asyncio.Event()
        self._shas: dict[str, str] = {}
        folder = files(__package__) / "lua"
        self._sources = {name: (folder / f"{name}.lua").read_text() for name in SCRIPTS}

    async def call(self, script: str, keys: Sequence[str], *arguments: Argument) -> Any:
        """Run a script. Raises BrokerDown."""
        if not self.up or len(self._waiting) >= _MAX_WAITING:
            raise BrokerDown
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(script, keys, arguments, answer))
        self._more.set()
        return await answer

    async def run(self) -> None:
        """Find the server, serve calls, find it again."""
        try:
            while True:
                await self._find()
                while self.up:
                    await self._more.wait()
                    self._more.clear()
                    await self._send()
        finally:
            self._fail(self._waiting)

    async def check(self) -> bool:
        """Whether the server answers and takes writes, now."""
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._client.set_probe()
                for name, source in self._sources.items():
                    self._shas[name] = await self._client.load(source)
                return True
        return False

    async def _find(self) -> None:
        while not await self.check():  # noqa: ASYNC110 - it asks somebody else's process
            await asyncio.sleep(_PROBE_S)
        self.up = True
        self._on_change(True)

    async def _send(self) -> None:
        """One pipeline with everything that waits."""
        calls, self._waiting = self._waiting, []
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answers = await self._client.run(
                    [(self._shas[one.script], one.keys, one.arguments) for one in calls]
                )
        except (RedisError, OSError, TimeoutError):
            self._fail(calls)
            # We may have been asleep ourselves: believe it only if it is still so.
            if not await self.check():
                self._down()
            return
        self._timed(time.monotonic() - started_s)
        refused = False
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, NoScriptError):  # the server was restarted between
                refused = True
                call.answer.set_exception(BrokerDown())
            elif isinstance(answer, Exception):
                # A full server, a replica that was a master, a slot on the move: it answers and is
                # of no use.
                refused = True
                call.answer.set_exception(BrokerDown(_kind(answer)))
            else:
                call.answer.set_result(answer)
        if refused and not await self.check():
            self._down()

    def _down(self) -> None:
        self.up = False
        self._fail(self._waiting)
        self._waiting = []
        self._on_change(False)

    @staticmethod
    def _fail(calls: Sequence[_Call]) -> None:
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(BrokerDown())


def _kind(error: Exception) -> str:
    """The first word of a server's error: OOM, READONLY, CLUSTERDOWN. The rest may hold a key."""
    return (
        str(error).partition(" ")[0] if isinstance(error, ResponseError) else type(error).__name__
    )
