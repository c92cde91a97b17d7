"""What upstream says: on every feed events with numbers, and when each was said."""

import asyncio
import time
from collections.abc import Callable

# Pads tell clients nothing; they fill buffers.
_USUAL_BYTES = 60
Tell = Callable[[int, dict[str, object]], str]


class Story:
    """Feeds by number. `tell(feed, payload)` says a payload on a feed, in order, and returns the id
    that it got; "" if that is known later or never.
    """

    def __init__(self, feeds: int, tell: Tell) -> None:
        self.said: list[list[float]] = [[] for _ in range(feeds)]
        self.silent = False
        self._numbers: list[dict[str, int]] = [{} for _ in range(feeds)]  # by id
        self._tell = tell

    def say(self, feed: int, pad_bytes: int = _USUAL_BYTES) -> None:
        """The next event of a feed."""
        said = self.said[feed]
        said.append(time.time())
        event_id = self._tell(feed, {"n": len(said), "pad": "x" * pad_bytes})
        if event_id:
            self._numbers[feed][event_id] = len(said)

    def name(self, feed: int, event_id: str, number: int) -> None:
        """A relay gives an event an id of its own."""
        self._numbers[feed].setdefault(event_id, number)

    def number(self, feed: int, cursor: str) -> int:
        """Which event a cursor names; 0 for none, -1 if nobody knows."""
        return self._numbers[feed].get(cursor, -1) if cursor else 0

    def say_everywhere(self) -> None:
        for feed in range(len(self.said)):
            self.say(feed)

    async def go_on(self, per_feed_s: float) -> None:
        """One feed after the other, each so many times a second, until cancelled."""
        clock = asyncio.get_running_loop().time
        begun_s, turn = clock(), 0
        while True:
            await asyncio.sleep(0.01)
            due = int((clock() - begun_s) * per_feed_s * len(self.said))
            while turn < due:
                if not self.silent:
                    self.say(turn % len(self.said))
                turn += 1
