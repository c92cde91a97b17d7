"""The lobby: connections that are no streams yet, bounded so that they can't take streams' room.

A socket that says nothing costs a descriptor until the head time-out, and whoever opens thousands
costs the process all it has: then nobody is let in, upstream can't be asked, probes fail. It stands
apart from the server because it knows nothing of HTTP, only who has said something.
"""

from collections.abc import Callable
from typing import Final, Protocol

from lebureau_relay.relay.ports import Clock

# After an outage as many as the kernel's queue holds (listener.BACKLOG) may come together, and all
# be honest. With the longest heads (server._MAX_HEAD_BYTES) they are 200 MiB, silent some 50.
MAX_WAITING: Final = 4096
# However few descriptors there are: enough to tell newcomers that there is no room.
MIN_WAITING: Final = 64
# An attack is a line in the log a minute, not one per socket.
_TELL_EVERY_S: Final = 60.0


class Guest(Protocol):
    """A connection as the lobby sees it."""

    def drop(self) -> None:
        """End at once, whatever is unsent."""


class Lobby:
    """Who waits: the silent ones (no head yet, or none again) and those that are being answered.

    `most` says how many may wait at this moment. Over it the longest silent one is dropped: an
    honest head comes with its connection or a round trip later. Where nobody is silent the newcomer
    goes, since the others are about to be answered, each within time-outs of its own. `told` hears
    of every drop, and once a minute that it should be written down: (first, most).
    """

    def __init__(
        self, most: Callable[[], int], told: Callable[[bool, int], None], clock: Clock
    ) -> None:
        self._most = most
        self._told = told
        self._clock = clock
        self._silent: dict[Guest, None] = {}  # the longest silent first
        self._answering: set[Guest] = set()
        self._tell_again_s = 0.0

    def __len__(self) -> int:
        return len(self._silent) + len(self._answering)

    def enter(self, guest: Guest) -> None:
        """A connection was accepted; it may be dropped within this call, or another one."""
        self._silent[guest] = None
        most = max(self._most(), MIN_WAITING)
        # Those being answered alone may be more than there is room for: streams take of it, too.
        while self._silent and len(self) > most:
            self._drop(next(iter(self._silent)), most)

    def begin(self, guest: Guest) -> None:
        """Its request has come whole and is being answered."""
        if guest in self._silent:
            del self._silent[guest]
            self._answering.add(guest)

    def end(self, guest: Guest) -> None:
        """It was answered and may ask again. Nothing happens if it has left, as streams do."""
        if guest in self._answering:
            self._answering.remove(guest)
            self._silent[guest] = None

    def leave(self, guest: Guest) -> None:
        """It has gone, or is a stream from now on. May be called twice."""
        self._silent.pop(guest, None)
        self._answering.discard(guest)

    def _drop(self, guest: Guest, most: int) -> None:
        self.leave(guest)
        guest.drop()
        now_s = self._clock()
        first = now_s >= self._tell_again_s
        if first:
            self._tell_again_s = now_s + _TELL_EVERY_S
        self._told(first, most)
