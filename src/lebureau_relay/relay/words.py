"""What a short request brings, as much at a time as comes without a pause.

An API that answers every cursor with all that it has is found out by the cursor's own event, which
stands late in that; and a long answer comes in many pieces. So nothing is believed of a piece
before those that follow at once are here, too.
"""

import asyncio
from collections.abc import Sequence

from lebureau_relay.core.event import Event
from lebureau_relay.errors import SourceFailure
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.ports import Subscription


class Words:
    """Of one request: `pause_s` without a word (0: the first read), or `most_bytes` of data, end
    what comes together.
    """

    def __init__(self, request: Subscription, pause_s: float, most_bytes: int) -> None:
        self._request = request
        self._pause_s = pause_s
        self._most_bytes = most_bytes
        # Goes on where a wait is given up: one that is cancelled may have taken something already.
        self._reading: asyncio.Task[Sequence[Event]] | None = None

    async def come(self) -> Sequence[Event]:
        """The next that came together. Raises SourceFailure where nothing came before it."""
        found = [*await self._read(None)]
        size_bytes = _size_bytes(found)
        try:
            while self._pause_s and size_bytes < self._most_bytes:
                more = await self._read(self._pause_s)
                if not more:
                    break
                found += more
                size_bytes += _size_bytes(more)
        except SourceFailure:  # whoever asks for more is told
            pass
        return found

    async def _read(self, within_s: float | None) -> Sequence[Event]:
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._request.read(_leave_all))
        await asyncio.wait({self._reading}, timeout=within_s)
        if not self._reading.done():
            return ()
        try:
            return self._reading.result()
        finally:
            self._reading = None

    def close(self) -> None:
        """Nothing more is wanted."""
        if self._reading is not None:
            self._reading.add_done_callback(_forget)
            self._reading.cancel()
            self._reading = None


def words_of(request: Subscription, timings: StreamTimings) -> Words:
    """As a deployment's timings want it: of data half of what a stream may be behind, which is more
    in frames.
    """
    return Words(request, timings.pause_s, timings.buffer_bytes // 2)


def _forget(reading: "asyncio.Task[Sequence[Event]]") -> None:
    """How it ended nobody wants to know."""
    if not reading.cancelled():
        reading.exception()


def _size_bytes(events: Sequence[Event]) -> int:
    return sum(len(one.data or b"") for one in events)


def _leave_all(events: Sequence[Event]) -> Sequence[Event]:
    """They are taken at the pace of who waits for them."""
    return events
