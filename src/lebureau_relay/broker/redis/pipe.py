"""The pipe: all calls of one loop turn travel to the server in one pipeline, and none waits for
longer than a second.

A pipeline costs as much as ten calls in it. While one is on its way the next one gathers, so load
makes the batches larger, not the queue longer. Where the server doesn't answer, calls fail at once
until a probe has found it again: nobody on the hot path waits for a time-out that somebody else has
had already.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from redis.exceptions import NoPermissionError, ResponseError

from lebureau_relay.broker.redis.servers import Argument, Client
from lebureau_relay.relay.ports import BrokerDown

# A call may wait for the pipeline before its own, and then for its own: a second together, the most
# that anybody on the hot path waits (issue 3, point 7).
_PIPELINE_S: Final = 0.5
# A server that seems to be away is asked for so long whether it is, while calls fail at once.
_DOUBT_S: Final = 1.0
# How often a server that is away is asked whether it is back, and how long it may take: Sentinels
# that are dead too are waited for one by one.
_PROBE_EVERY_S: Final = 0.25
_PROBE_S: Final = 5.0
# Pipelines don't begin faster than this: at thousands of events a second it halves their cost, and
# costs each of them less than the network does.
_PACE_S: Final = 0.001
# What travels in one pipeline: a deployment that begins all its logs anew must not stand still.
_MAX_CALLS: Final = 2_000
_MAX_BYTES: Final = 8 * 1024 * 1024
# Calls that wait while a pipeline is on its way; more is a server that is too slow, which is as
# good as away.
_MAX_WAITING: Final = 20_000
# The word that an error begins with; before 7, one from within a script stands in another's text.
_ERROR_WORD: Final = re.compile(r"(?:^|-)([A-Z]{2,}) ")
_FORBIDDEN: Final = "executing the script can't"  # the one error of ACLs that has no such word
_SCRIPTS: Final = (
    *("take", "give", "tick", "read", "append", "probe"),
    *("sit", "seats", "strike", "places", "census"),
)

Request = tuple[str, Sequence[str], Sequence[Argument]]  # a script's name, its keys, its arguments


@dataclass(slots=True)
class _Call:
    script: str
    keys: Sequence[str]
    arguments: Sequence[Argument]
    size_bytes: int
    at_s: float
    answer: asyncio.Future[Any]


class Pipe:
    """Scripts by name, answered in order.

    `probes` says how to try each server, `on_change` is told when it goes and comes, `timed` of
    each pipeline's seconds. `run` is its life.
    """

    def __init__(
        self,
        client: Client,
        probes: Callable[[], Iterable[Request]],
        on_change: Callable[[bool], None],
        timed: Callable[[float], None],
    ) -> None:
        self.up = False
        self.why = ""  # the last trouble, as one word
        self._client = client
        self._probes = probes
        self._on_change = on_change
        self._timed = timed
        self._in_doubt = False
        self._waiting: deque[_Call] = deque()
        self._more = asyncio.Event()
        self._shas: dict[str, str] = {}
        folder = files(__package__) / "lua"
        self._sources = {name: (folder / f"{name}.lua").read_text() for name in _SCRIPTS}

    async def call(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        size_bytes: int = 0,
    ) -> Any:
        """Run a script. `size_bytes` is about what travels, there or back. Raises BrokerDown."""
        if not self.up or self._in_doubt or len(self._waiting) >= _MAX_WAITING:
            raise BrokerDown(self.why)
        return await self._put(script, keys, arguments, size_bytes)

    def _put(
        self, script: str, keys: Sequence[str], arguments: Sequence[Argument], size_bytes: int
    ) -> asyncio.Future[Any]:
        """Into the queue. Who waits for the answer doesn't name it: as a failure it would hold
        itself by that frame.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        now_s = time.monotonic()
        self._waiting.append(_Call(script, keys, arguments, size_bytes, now_s, answer))
        self._more.set()
        return answer

    async def run(self) -> None:
        """Find the server, serve calls, find it again."""
        try:
            while True:
                while not await self._check(_PROBE_S):  # noqa: ASYNC110 - another's process
                    await asyncio.sleep(_PROBE_EVERY_S)
                self._turn(up=True)
                while self.up:
                    await self._more.wait()
                    await self._send()
        finally:
            self.up = False
            self._fail(self._waiting)

    async def _check(self, patience_s: float) -> bool:
        """Whether every server answers, knows our scripts, and lets them do what they do."""
        try:
            async with asyncio.timeout(patience_s):
                for name, source in self._sources.items():
                    self._shas[name] = await self._client.load(source)
                for answer in await self._run(self._probes()):
                    if isinstance(answer, Exception):
                        raise answer  # noqa: TRY301 - one more reason among those below
        except Exception as error:  # noqa: BLE001 - whatever the client says: it is of no use now
            self.why = _kind(error)
            return False
        return True

    async def _send(self) -> None:
        """One pipeline with what waits."""
        calls = self._batch()
        if not self._waiting:
            self._more.clear()
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(_PIPELINE_S):
                answers = await self._run((one.script, one.keys, one.arguments) for one in calls)
        except Exception as error:  # noqa: BLE001 - whatever the client says: there is no answer
            self.why = _kind(error)
            self._fail(calls)
            await self._doubt()
            return
        except asyncio.CancelledError:
            self._fail(calls)
            raise
        spent_s = time.monotonic() - started_s
        self._timed(spent_s)
        if self._settle(calls, answers):
            await asyncio.sleep(max(_PACE_S - spent_s, 0.0))
        else:
            await self._doubt()

    def _batch(self) -> list[_Call]:
        """Those that go next: as many as travel well together. Who has waited too long has failed,
        who has gone away is forgotten.
        """
        late_s = time.monotonic() - _PIPELINE_S
        calls: list[_Call] = []
        size_bytes = 0
        while self._waiting and len(calls) < _MAX_CALLS and size_bytes < _MAX_BYTES:
            call = self._waiting.popleft()
            if call.at_s < late_s:
                self._fail([call])
            elif not call.answer.done():
                calls.append(call)
                size_bytes += call.size_bytes
        return calls

    async def _run(self, requests: Iterable[Request]) -> Sequence[Any]:
        return await self._client.run(
            [(self._shas[script], keys, arguments) for script, keys, arguments in requests]
        )

    def _settle(self, calls: Sequence[_Call], answers: Sequence[Any]) -> bool:
        """Hand out the answers; whether all are."""
        good = True
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                # Full, no longer the master, restarted without our scripts: it answers and is of no
                # use.
                good = False
                self.why = _kind(answer)
                self._fail([call])
            elif not call.answer.done():
                call.answer.set_result(answer)
        return good

    async def _doubt(self) -> None:
        """Something went wrong. We may have been asleep ourselves: believe it only if it is still
        so.
        """
        self._fail(self._waiting)
        self._waiting.clear()
        self._in_doubt = True
        try:
            good = await self._check(_DOUBT_S)
        finally:
            self._in_doubt = False
        if not good:
            self._turn(up=False)

    def _turn(self, *, up: bool) -> None:
        self.up = up
        self._on_change(up)

    def _fail(self, calls: Iterable[_Call]) -> None:
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(BrokerDown(self.why))


def _kind(error: Exception) -> str:
    """One word for it: ReadOnlyError, OOM. The rest of a server's sentence may hold a key."""
    if isinstance(error, ResponseError) and _FORBIDDEN in str(error):
        return NoPermissionError.__name__
    words = _ERROR_WORD.findall(str(error)) if isinstance(error, ResponseError) else ()
    return words[-1] if words else type(error).__name__
