"""The pulse of the consoles: one look a second, shared by all that are open.

It stands apart because it bounds what consoles cost, however many there are. While none is open
nobody looks at feeds; only the few numbers of the charts are kept, so that who opens a console in
the middle of an incident sees its beginning.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from lebureau_relay.edge.picture import PAST, Picture
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import Clock

PERIOD_S: Final = 1.0
# Consoles open at once: more than a team has, each costs a small answer a second.
MAX_CONSOLES: Final = 20
# Of what goes wrong here, a line in the log so often: it would go wrong every second.
_TELL_EVERY_S: Final = 60.0


class Pulse:
    """Looks every second. `run` is its life; `stop` ends the streams of those who watch."""

    def __init__(self, picture: Picture, observer: Observer, clock: Clock) -> None:
        self._picture = picture
        self._observer = observer
        self._clock = clock
        self._watching = 0
        self._shown = ""
        self._shown_s = -PERIOD_S
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wake = asyncio.Event()
        self._stopped = False
        self._tell_again_s = 0.0

    async def run(self) -> None:
        """Until cancelled. What goes wrong in a look is told, and tried again."""
        while True:
            try:
                self._picture.mark()
                if self._watching:
                    await self._look()
            except Exception as error:  # noqa: BLE001 - a console must not end what it looks at
                self._tell(error)
            self._wake.clear()
            with suppress(TimeoutError):  # and no `wait_for`, which may forget that it is to end
                async with asyncio.timeout(PERIOD_S):
                    await self._wake.wait()

    def stop(self) -> None:
        """End what `watch` gives, or it would hold up the listener's end."""
        self._stopped = True
        self._beat()

    @contextmanager
    def seat(self) -> Iterator[None]:
        """A place for one console. Raises Refusal where all are taken."""
        if self._watching >= MAX_CONSOLES:
            raise Refusal(RefusalCode.AT_CAPACITY, f"{MAX_CONSOLES} consoles are open already.")
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1

    async def watch(self) -> AsyncGenerator[tuple[str, str], None]:
        """Names of events and their data: the past of the charts, then a screen a second. Whoever
        is slower misses some.
        """
        yield "past", json.dumps({"most": PAST, "points": list(self._picture.past)})
        if self._clock() - self._shown_s < PERIOD_S:
            yield "message", self._shown
        else:
            self._wake.set()
        while not self._stopped:
            await asyncio.shield(self._next)
            if not self._stopped:
                yield "message", self._shown

    async def _look(self) -> None:
        self._shown = json.dumps(await self._picture.screen())
        self._shown_s = self._clock()
        self._beat()

    def _beat(self) -> None:
        """Let all who wait go on."""
        told, self._next = self._next, asyncio.get_running_loop().create_future()
        told.set_result(None)

    def _tell(self, error: Exception) -> None:
        now_s = self._clock()
        if now_s >= self._tell_again_s:
            self._tell_again_s = now_s + _TELL_EVERY_S
            self._observer.note("error", "console.failed", error=type(error).__name__)
