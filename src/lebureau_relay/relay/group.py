"""Who waits for a catch-up together, what an event that it brings means for them, and how it may
end.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from lebureau_relay.core.continuity import same
from lebureau_relay.core.event import Event, derived_id, trim
from lebureau_relay.core.history import History, Standing
from lebureau_relay.relay.subscriber import State, Subscriber


class Outcome(StrEnum):
    """How a catch-up ended; the label of `catchups_total`."""

    FILLED = "filled"  # what it brought ran into what the ring continues
    SEEN = "seen"  # the feed's own subscription brought the cursor's event meanwhile
    IGNORED = "ignored"  # upstream ignored the cursor
    FAILED = "failed"  # upstream refused, or the connection broke
    TIMEOUT = "timeout"  # the ring was not met in time


class Step(NamedTuple):
    """What to do about one event: send it on, and perhaps end with an outcome and the offset where
    the ring goes on.
    """

    outcome: Outcome | None = None
    offset: int | None = None
    send: bool = False


_PASS = Step()
_SEND = Step(send=True)


@dataclass(slots=True, eq=False)
class Group:
    """Subscribers that wait with one cursor."""

    cursor: bytes
    start: int  # the feed's top when the first of them came
    since_s: float  # when that was
    base: bytes = b""  # what upstream is asked for
    skip: int = 0  # events without ids that the clients have seen since `base`
    passed: int = 0  # of these, how many have come back
    own: bool = False  # the feed's own subscription is bringing what it needs
    # The ring has its cursor, but the log has not taken it yet: `seen` will say so.
    coming: bool = False
    sent: int = 0  # so many events, so far
    sent_before: int = 0  # of these, by requests that broke
    last_id: bytes = b""  # of the last of them
    # brought, and not sent before all that came with it is judged
    held: list[Event] = field(default_factory=list)
    held_bytes: int = 0
    subscribers: list[Subscriber] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def alive(self) -> list[Subscriber]:
        """Those that still wait; with another group they may again, when this one is done."""
        if self.done.is_set():
            return []
        return [one for one in self.subscribers if one.state is State.WAITING]

    def hold(self, event: Event) -> None:
        """Keep what upstream brought until what came with it is judged."""
        self.held.append(event)
        self.held_bytes += len(event.data or b"")

    def let_go(self) -> list[Event]:
        """What was held, which is held no longer."""
        held, self.held, self.held_bytes = self.held, [], 0
        return held

    def place(self, history: History) -> int | None:
        """Where the ring goes on for a group, if it holds all from the cursor on: a replica that
        lags may get the cursor's event later than the client. Then as many as were sent follow it,
        and the last is the last.
        """
        standing, offset = history.find(self.cursor)
        offset += self.sent
        if standing is not Standing.HELD or offset > history.top:
            return None
        met = not self.sent or history.entry(offset).key == trim(self.last_id)
        return offset if met else None

    def judge(self, history: History, event: Event) -> Step:
        """What one event that upstream brought means for those who wait."""
        if self.coming:
            return _PASS
        if self.passed < self.skip:
            self.passed += 1
            passed = event.id == derived_id(self.base, self.passed)
            return _PASS if passed else Step(Outcome.IGNORED)
        oldest = history.oldest_from_upstream()
        if oldest is not None and same(oldest, event):
            # A cursor that is ignored brings what is live; so an oldest entry that came after the
            # question, as the first thing and without the place before it, proves nothing.
            ran_on = self.held or self.sent > self.sent_before
            proved = oldest.offset <= self.start or ran_on or not history.floor_id
            return Step(Outcome.FILLED if proved else Outcome.IGNORED, oldest.offset - 1)
        # Where the ring goes on with an event of upstream's, that is met next, and surer: an id may
        # have been used before.
        floor_only = oldest is None or oldest.offset > history.first
        if floor_only and event.id and trim(event.id) == trim(history.floor_id):
            return Step(Outcome.FILLED, history.first - 1, send=True)
        if not event.id or event.id in history or trim(event.id) == self.base:
            self.coming = self.cursor in history and self.place(history) is not None
            return _PASS if self.coming else Step(Outcome.IGNORED)
        # The ring has the cursor by now, and will bring the rest itself.
        self.coming = bool(self.last_id) and self.cursor in history
        return _PASS if self.coming else _SEND
