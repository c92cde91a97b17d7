"""Fan-out: the same bytes to every subscriber of a feed, in as few writes as there are subscribers.

A frame was built once, when its entry was made. Here what is new is joined once and handed to each
transport; who fell behind reads the ring from its own cursor by the very same step. This is the hot
path: a write costs some 6 µs of kernel time, so nothing here may cost as much.
"""

from collections.abc import Callable
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


class Fanout:
    """The writing side of one feed."""

    __slots__ = ("_clock", "_feed", "_joins", "_round", "_target", "flushed", "written_at_s")

    def __init__(self, feed: "Feed", clock: Callable[[], float]) -> None:
        self._feed = feed
        self._clock = clock
        self.flushed = feed.shown  # offset that the last whole flush reached
        self.written_at_s = clock()  # when every live subscriber was last written to
        self._round: list[Subscriber] = []  # of an interrupted flush, who is still to come
        self._target = self.flushed  # offset that this flush goes to
        # cursor (bare: -cursor - 1) -> joined bytes, and the offset that they reach
        self._joins: dict[int, tuple[bytes, int]] = {}

    def flush(self, deadline_s: float) -> bool:  # noqa: C901 - a call per subscriber would show
        """Hand what is new to everybody who keeps up; say whether all have it. One write per
        subscriber and 16 KiB.
        """
        if not self._round:
            self._target = self._feed.shown
            if self._target == self.flushed:
                return True
            self._round = list(self._feed.subscribers)
            self._round.reverse()
        waiting, target = self._round, self._target
        start, shared, upto = self._common(target)
        live = State.LIVE  # a member of an enum is looked up by way of its metaclass, each time
        deliveries = size_bytes = writes = 0
        while waiting:
            subscriber = waiting.pop()
            if subscriber.state is live and subscriber.cursor == start and subscriber.chunked:
                # The cursor moves first, as in `_write_next`.
                subscriber.cursor = upto
                subscriber.transport.write(shared)
                deliveries += upto - start
                size_bytes += len(shared)
            writes += 1
            while subscriber.state is live and subscriber.cursor < target:
                sent = self._write_next(subscriber, target)
                if sent:
                    deliveries += sent[0]
                    size_bytes += sent[1]
                writes += 1
                if writes >= _WRITES_PER_LOOK:
                    break
            if writes >= _WRITES_PER_LOOK:
                writes = 0
                if subscriber.state is live and subscriber.cursor < target:
                    waiting.append(subscriber)  # it goes on from its own cursor
                if self._clock() > deadline_s:
                    break
        self._feed.meter.delivered(deliveries, size_bytes)
        return not waiting and self._flushed(target)

    def _flushed(self, target: int) -> bool:
        """Everybody has been offered everything up to `target`."""
        now_s = self._clock()
        oldest = max(self.flushed + 1, self._feed.history.first)
        if self._feed.subscribers and oldest <= self._feed.shown:
            self._feed.meter.delay(now_s - self._feed.history.entry(oldest).at_s)
        self.written_at_s = now_s
        self.flushed = target
        self.forget_joins()
        return self._feed.shown == target

    def _common(self, target: int) -> tuple[int, bytes, int]:
        """Where nearly all stand, what they get next, and how far that reaches. Nobody stands at
        -1.
        """
        start = max(self.flushed, self._feed.history.first - 1)
        if start >= target:
            return -1, b"", -1
        return start, *self._join(start, target, chunked=True)

    def pump(self, subscriber: Subscriber) -> bool:
        """One turn of a replay: one write. Says whether there is more to do for it now."""
        if subscriber.state is not State.REPLAYING:
            return False
        sent = self._write_next(subscriber, self._feed.shown)
        if sent:
            self._feed.meter.delivered(*sent)
        # The write may have paused it, which a type checker can't see.
        if subscriber.paused or subscriber.cursor < self._feed.shown:
            return not subscriber.paused
        # No await since the look at the top: the next entry finds it live.
        subscriber.state = State.LIVE
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
        """The numbering is another now: a flush that was interrupted has no meaning any more."""
        self._round = []
        self._target = self.flushed = offset
        self._joins.clear()

    def forget_joins(self) -> None:
        """Joined bytes serve those who stand at one place at one time; they are not kept."""
        self._joins.clear()
