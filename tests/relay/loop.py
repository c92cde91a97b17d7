"""A uvloop whose timers belong to the test: time passes when it says so, and never by itself.

Every callback of asyncio's futures and tasks goes through `call_soon`, so counting there tells when
nothing is left to do. That makes `settle` exact, where a sleep would be luck.

What runs in a context that names a process can be frozen, as SIGSTOP does it, while the rest goes
on.
"""

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any

import uvloop

# Work that goes on for so many turns at one moment never ends: a busy loop in what is tested.
_MAX_TURNS = 20_000

# The process that a callback would belong to, where several are played on one loop.
PROCESS: ContextVar[str] = ContextVar("process", default="")


class StillLoop(uvloop.Loop):
    """Runs what is ready, for as long as it takes; what is due later waits for `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0
        self.faults: list[dict[str, Any]] = []  # what would have been logged as an error
        self._scheduled = 0
        self._frozen: dict[str, list[asyncio.Handle]] = {}  # process -> what waits for it to go on
        self._order = count()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self.set_exception_handler(lambda _, context: self.faults.append(context))

    def time(self) -> float:
        return self.now_s

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self._frozen:
            context = context or copy_context()
            held = self._frozen.get(context.get(PROCESS, ""))
            if held is not None:
                held.append(asyncio.Handle(callback, args, self, context))
                return held[-1]
        self._scheduled += 1
        return super().call_soon(callback, *args, context=context)

    def freeze(self, process: str) -> None:
        """SIGSTOP: nothing of it runs, and what becomes due waits."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: str) -> None:
        """SIGCONT: all that has become due, in order, at once."""
        for handle in self._frozen.pop(process, ()):
            self._due(handle)

    def _due(self, handle: asyncio.Handle) -> None:
        """A handle's moment has come; it runs in a context of its own."""
        held = self._frozen.get(handle._context.get(PROCESS, ""))
        if held is not None:
            held.append(handle)
        elif not handle.cancelled():
            self.call_soon(handle._run)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context or copy_context())
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """What a cancelled TimerHandle calls on its loop; `advance` passes over it."""

    async def settle(self) -> None:
        """Return once no callback is left that could run at this moment."""
        for _ in range(_MAX_TURNS):
            before = self._scheduled
            await asyncio.sleep(0)
            # Callbacks run in order, so all that stood before us have run; they scheduled nothing.
            if self._scheduled == before + 1:
                return
        message = f"still busy after {_MAX_TURNS} turns at one moment"
        raise AssertionError(message)

    async def advance(self, seconds: float) -> None:
        """Let time pass, settling at every moment at which something is due."""
        until_s = self.now_s + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= until_s:
            self.now_s = max(self.now_s, self._timers[0][0])
            while self._timers and self._timers[0][0] <= self.now_s:
                _, _, handle = heapq.heappop(self._timers)
                self._due(handle)
            await self.settle()
        self.now_s = max(self.now_s, until_s)
