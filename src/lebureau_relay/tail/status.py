"""The status line: how the connection stands and how much comes, on the last line of a terminal.

It stands apart because it is the one thing here that is written over. It begins with a return and
ends without a line feed, uses no cursor movement and no mode of the terminal, so that whatever
interrupts the program leaves nothing to be set right. Where no person looks, there is none.
"""

import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, TextIO

from lebureau_relay.tail.cells import cut

WIPE: Final = "\r\x1b[K"
TICK_S: Final = 0.5
# Events come faster than anybody reads; the line is written again at most so often.
_PAUSE_S: Final = 0.1
# What the rate is taken over: long enough for a calm figure, short enough to see a stall.
_RATE_S: Final = 10


class Link(Enum):
    """How the connection stands: its mark and its colour (SGR parameter of ECMA-48)."""

    CONNECTING = ("○", 33)
    CONNECTED = ("●", 32)
    WAITING = ("◌", 33)


class StatusLine:
    """One line on `err`, which is a terminal. `columns` says how wide that is now."""

    def __init__(
        self,
        err: TextIO,
        columns: Callable[[], int],
        *,
        colour: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._err = err
        self._columns = columns
        self._colour = colour
        self._clock = clock
        self._link = Link.CONNECTING
        self._words = "connecting"
        self._until_s = 0.0
        self._drawn_s = -_PAUSE_S
        self._is_there = False
        self._began_s = clock()
        self._seconds: deque[list[int]] = deque(maxlen=_RATE_S + 1)  # second, events in it
        self.events = 0

    def stand(self, link: Link, words: str, for_s: float = 0.0) -> None:
        """The connection stands so now, for so long if that is known."""
        self._link = link
        self._words = words
        self._until_s = self._clock() + for_s if for_s else 0.0
        self.draw(at_once=True)

    def count(self) -> None:
        """An event has come."""
        self.events += 1
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0])
        self._seconds[-1][1] += 1

    def wiped(self) -> str:
        """What must be written before anything else on this terminal."""
        was_there, self._is_there = self._is_there, False
        return WIPE if was_there else ""

    def draw(self, *, at_once: bool = False) -> None:
        """Write the line, unless that was just done."""
        now_s = self._clock()
        if now_s - self._drawn_s < _PAUSE_S and not at_once:
            return
        self._drawn_s = now_s
        self._is_there = True
        mark, sgr = self._link.value
        text = cut(f" {self._text(now_s)}", self._columns() - 2)  # the last column may wrap
        mark = f"\x1b[{sgr}m{mark}\x1b[0m" if self._colour else mark
        self._err.write(f"{WIPE}{mark}{text}")
        self._err.flush()

    def _text(self, now_s: float) -> str:
        parts = [self._words]
        if self._until_s:
            parts[0] += f" {max(self._until_s - now_s, 0):.0f} s"
        if self._link is Link.CONNECTED:
            parts.append(f"{self._rate(now_s):.1f} events/s")
        parts.append(f"{self.events} event{'' if self.events == 1 else 's'}")
        return " · ".join(parts)

    def _rate(self, now_s: float) -> float:
        over_s = min(max(now_s - self._began_s, 1.0), _RATE_S)
        return sum(n for second, n in self._seconds if second > now_s - over_s) / over_s
