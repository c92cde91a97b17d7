"""Fan-out: the same bytes to every subscriber of a feed, in as few writes as there are subscribers.

Nearly all of them stand at one place. They go together: what is new is joined once and handed to
each transport, and where they stand is known once, here, not in each of them. Who falls behind gets
a cursor of its own, reads the ring from there, and comes back when it has caught up. This is the
hot path: a write costs some 6 µs of kernel time, so nothing here may cost as much.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from lebureau_relay.core import sse
from lebureau_relay.core.event import GapCause
from lebureau_relay.relay.subscriber import State, Subscriber

if TYPE_CHECKING:
    from lebureau_relay.relay.feed import Feed

# Whole frames that go out in one write, together: a naive chunk reader meets few cuts (contract,
# section 3).
MAX_JOIN_BYTES = 16 * 1024
# How many writes between two looks at the clock: some 0.3 ms of them at the kernel's price.
_WRITES_PER_LOOK = 64
# Different cursors whose joined bytes are kept for the moment; a storm of replays shares them.
_MAX_JOINS = 64

Crowd = dict[Subscriber, asyncio.Transport]


class Fanout:
    """The writing side of one feed.

    A flush goes in passes: one piece, of up to 16 KiB, to everybody who is LIVE. `level` is where
    they stand when the pass is over, and `flushed` where they stood before it; between passes the
    two are one.
    """

    __slots__ = (
        "_ahead",
        "_bare",
        "_chunked",
        "_clock",
        "_feed",
        "_joins",
        "_rest",
        "_since_s",
        "flushed",
        "level",
        "written_at_s",
    )

    def __init__(self, feed: "Feed", clock: Callable[[], float]) -> None:
        self._feed = feed
        self._clock = clock
        self.flushed = self.level = feed.shown
        self.written_at_s = clock()  # when every live subscriber was last written to
        # those who go together: over HTTP/1.1, and over 1.0
        self._chunked: Crowd = {}
        self._bare: Crowd = {}
        # of an interrupted pass, who is still to come, and what each gets
        self._rest: list[tuple[Collection[asyncio.Transport], bytes]] = []
        # who stands beyond `level`, and can do nothing until it has come there
        self._ahead: list[Subscriber] = []
        self._since_s: float | None = None  # when the oldest entry of this flush came
        # cursor (bare: -cursor - 1) -> joined bytes, and the offset that they reach
        self._joins: dict[int, tuple[bytes, int]] = {}

    # -- who goes together

    def enter(self, subscriber: Subscriber) -> None:
        """It stands at `level` and goes with the others from now on."""
        crowd = self._chunked if subscriber.chunked else self._bare
        crowd[subscriber] = subscriber.transport
        subscriber.state = State.LIVE

    def leave(self, subscriber: Subscriber) -> None:
        """It goes alone from now on, with a cursor of its own; the caller gives it its state."""
        subscriber.cursor = self.where(subscriber)
        crowd = self._chunked if subscriber.chunked else self._bare
        del crowd[subscriber]
        for transports, _ in self._rest:
            if isinstance(transports, dict):
                transports.pop(subscriber.transport, None)

    def where(self, subscriber: Subscriber) -> int:
        """The offset at which one of those who go together stands."""
        transport = subscriber.transport
        waits = any(transport in transports for transports, _ in self._rest)
        return self.flushed if waits else self.level

    def _scatter(self) -> None:
        """Each goes alone: where they stand is no longer in the ring, or means something else."""
        for subscriber in (*self._chunked, *self._bare):
            self.leave(subscriber)
            subscriber.state = State.REPLAYING

    # -- flushing

    def flush(self, deadline_s: float) -> bool:
        """Hand what is new to all who go together; say whether they have it. One write each and
        16 KiB.
        """
        while self._rest or self._begin():
            if not self._pass(deadline_s):
                return False
            self._arrive(self.level)
            if self._clock() > deadline_s:
                break
        return self.flushed == self._feed.shown

    def _begin(self) -> bool:
        """Prepare a pass of what is new, if there is something, and somebody to have it."""
        start, target = self.flushed, self._feed.shown
        if start == target:
            return False
        if (self._chunked or self._bare) and start < self._feed.history.first - 1:
            fallen = (*self._chunked, *self._bare)
            self._scatter()
            for subscriber in fallen:
                self._feed.replay(subscriber)
        if not (self._chunked or self._bare):
            self._arrive(target)
            return False
        if self._since_s is None:
            self._since_s = self._feed.history.entry(start + 1).at_s
        for crowd, chunked in ((self._chunked, True), (self._bare, False)):
            if crowd:
                piece, self.level = self._join(start, target, chunked=chunked)
                self._rest.append((list(crowd.values()), piece))
        return True

    def _pass(self, deadline_s: float) -> bool:
        """Write to everybody who is still to come; False where the time was up before."""
        rounds, self._rest = self._rest, []
        events = self.level - self.flushed
        while rounds:
            waiting, piece = rounds.pop()
            transports = list(waiting)
            written = 0
            while written < len(transports):
                # While it is written to, `write` may call pause_writing: it has had this piece.
                for transport in transports[written : written + _WRITES_PER_LOOK]:
                    transport.write(piece)
                written = min(written + _WRITES_PER_LOOK, len(transports))
                if self._clock() > deadline_s and (rounds or written < len(transports)):
                    rounds.append((transports[written:], piece))
                    # To be asked for one by one, by who leaves meanwhile.
                    self._rest = [(dict.fromkeys(who), what) for who, what in rounds if who]
                    break
            self._feed.meter.delivered(written * events, written * len(piece))
            if self._rest:
                return False
        return True

    def _arrive(self, offset: int) -> None:
        """All who go together have had everything up to `offset`."""
        now_s = self._clock()
        self.flushed = self.level = offset
        self.written_at_s = now_s
        self.forget_joins()
        ahead, self._ahead = self._ahead, []
        for subscriber in ahead:
            self._feed.replay(subscriber)
        if self._since_s is not None and offset == self._feed.shown:
            self._feed.meter.delay(now_s - self._since_s)
            self._since_s = None

    # -- those who go alone

    def pump(self, subscriber: Subscriber) -> bool:
        """One turn of a replay: one write. Says whether there is more to do for it now."""
        if subscriber.state is not State.REPLAYING:
            return False
        sent = self._write_next(subscriber, self.level)
        if sent:
            self._feed.meter.delivered(*sent)
        # The write may have paused it, which a type checker can't see.
        if subscriber.paused:
            return False
        if subscriber.cursor > self.level:  # it came in the middle of a flush, or before the log
            self._ahead.append(subscriber)
            return False
        if subscriber.cursor < self.level:
            return True
        # No await since the look at the level: the next pass finds it there.
        self.enter(subscriber)
        return False

    def _write_next(self, subscriber: Subscriber, target: int) -> tuple[int, int] | None:
        """Write the next frames, 16 KiB at most; how many events and bytes. A cursor that fell off
        the ring is a gap.
        """
        cursor = subscriber.cursor
        if cursor < self._feed.history.first - 1:
            floor = self._feed.history.first - 1
            # Its last id is evicted with all that stood there.
            self._feed.tell_gap(subscriber, GapCause.SLOW, floor, None)
            subscriber.cursor = floor
            return None
        if cursor >= target:
            return None
        data, upto = self._join(cursor, target, chunked=subscriber.chunked)
        # The cursor moves first: `write` may call pause_writing, whose reader must find it true.
        subscriber.cursor = upto
        subscriber.transport.write(data)
        return upto - cursor, len(data)

    def _join(self, cursor: int, target: int, *, chunked: bool) -> tuple[bytes, int]:
        """The next frames after `cursor` as one piece of bytes, shared by all who stand there."""
        memo = cursor if chunked else -cursor - 1
        known = self._joins.get(memo)
        if known is not None and known[1] <= target:
            return known
        entries = self._feed.history.window(cursor, target, MAX_JOIN_BYTES)
        frames = [entry.frame if chunked else sse.unchunk(entry.frame) for entry in entries]
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        if len(self._joins) >= _MAX_JOINS:
            self._joins.clear()
        self._joins[memo] = known = joined, entries[-1].offset
        return known

    def heartbeat(self) -> Callable[[float], bool]:
        """A comment to everybody who is live and has nothing unsent, as a job for the hub."""
        self.written_at_s = self._clock()
        waiting = list(self._feed.subscribers)
        chunked = sse.chunk(sse.HEARTBEAT)

        def beat(deadline_s: float) -> bool:
            looked = 0
            while waiting:
                subscriber = waiting.pop()
                if subscriber.state is State.LIVE or subscriber.state is State.WAITING:
                    transport = subscriber.transport
                    if not transport.get_write_buffer_size():
                        transport.write(chunked if subscriber.chunked else sse.HEARTBEAT)
                looked += 1
                if looked % _WRITES_PER_LOOK == 0 and self._clock() > deadline_s:
                    break
            return not waiting

        return beat

    def restart(self, offset: int) -> None:
        """The numbering is another now: everybody has a cursor in the old one, and the caller finds
        each its place.
        """
        self._scatter()
        self._rest = []
        self._ahead = []
        self._since_s = None
        self.flushed = self.level = offset
        self._joins.clear()

    def forget_joins(self) -> None:
        """Joined bytes serve those who stand at one place at one time; they are not kept."""
        self._joins.clear()
