"""A feed: one identity's stream in this replica. Its history, its subscribers, and what passes from
one to the other.

The feed is told of entries by its owner (`accept`), and the hub gives it turns to `flush` them. It
doesn't know where events come from. Nothing here waits: every method mutates synchronously, so no
entry can fall between replay and live.
"""

from asyncio import Future
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from lebureau_relay.core import sse
from lebureau_relay.core.continuity import gap_block
from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Entry, GapCause
from lebureau_relay.core.history import History, Standing
from lebureau_relay.errors import CloseReason, Refusal
from lebureau_relay.relay.ports import FeedFacts, FeedKey, StreamMeter
from lebureau_relay.relay.subscriber import State, Subscriber

if TYPE_CHECKING:
    from lebureau_relay.relay.catchup import CatchUp
    from lebureau_relay.relay.owner import Owner

# Whole frames that go out in one write, together: a naive chunk reader meets few cuts (contract,
# section 3).
MAX_JOIN_BYTES = 16 * 1024
# How many writes between two looks at the clock: some 0.3 ms of them at the kernel's price.
_WRITES_PER_LOOK = 64
# A goodbye that the socket has not taken by now never will (contract, section 3, "Ends").
_ENDING_TIMEOUT_S = 5.0
# Different cursors whose joined bytes are kept during one turn; a storm of replays shares them.
_MAX_JOINS = 64


class FeedState(StrEnum):
    """Where a feed is in its life."""

    OPENING = "opening"  # upstream has not accepted anybody's credential yet
    OPEN = "open"  # it has; the connection may be down and coming back
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class StreamTimings:
    """How streams to clients behave. Durations in seconds."""

    heartbeat_s: float = 15.0
    retry_s: float = 3.0
    buffer_bytes: int = 262_144
    write_timeout_s: float = 30.0
    max_age_s: float = 0.0
    linger_s: float = 30.0
    catchup_timeout_s: float = 5.0


class Host(Protocol):
    """What a feed asks of its hub."""

    clock: Callable[[], float]
    timings: StreamTimings

    def dirty(self, feed: "Feed") -> None:
        """There is something to flush."""

    def job(self, work: Callable[[float], bool]) -> None:
        """Give `work` turns, each up to a deadline, until it says that it is done."""

    def replay(self, subscriber: Subscriber) -> None:
        """Give this subscriber turns to read the ring."""

    def watch(self, subscriber: Subscriber, after_s: float) -> None:
        """Call `feed.check` with it then."""

    def left(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """A stream of this feed has ended."""

    def joined(self, subscriber: Subscriber) -> None:
        """A stream of this feed has begun."""

    def grown(self, size_bytes: int) -> None:
        """The histories have grown by so much."""

    def retry_ms(self, reason: CloseReason) -> int:
        """A jittered reconnect hint for one client."""


class Feed:
    """One identity's stream in this replica."""

    def __init__(self, key: FeedKey, history: History, host: Host, meter: StreamMeter) -> None:
        self.key = key
        self.history = history
        self.host = host
        self.meter = meter
        self.state = FeedState.OPENING
        self.owner: Owner
        self.catchup: CatchUp
        self.subscribers: dict[Subscriber, None] = {}  # in order of arrival
        # requests that wait for the answer of upstream
        self.joining: list[tuple[Future[None], Credential]] = []
        self.opened_at_s = host.clock()
        # when a client last joined or left: linger counts from here
        self.used_at_s = self.opened_at_s
        self.written_at_s = self.opened_at_s  # when every live subscriber was last written to
        self.flushed = history.top  # offset that the last whole flush reached
        self._round: list[Subscriber] = []  # of an interrupted flush, who is still to come
        self._target = history.top  # offset that this flush goes to
        # cursor (bare: -cursor - 1) -> bytes, offset they reach
        self._joins: dict[int, tuple[bytes, int]] = {}

    # -- entries in

    def accept(self, entries: Iterable[Entry]) -> None:
        """Entries have been appended to the history: they are due to every subscriber."""
        for entry in entries:
            if entry.gap is not None:
                self.meter.gap(entry.gap)
            if self.catchup.waiting:
                self.catchup.seen(entry)
        self.host.dirty(self)

    # -- subscribers in and out

    def attach(self, subscriber: Subscriber, cursor: bytes | None) -> None:
        """Take a new stream: fix its verdict and its cursor in this one step, and let it begin to
        read.

        `cursor` is what the client asked to go on after; None for a first connect.
        """
        subscriber.opened_at_s = self.used_at_s = self.host.clock()
        self.subscribers[subscriber] = None
        self.host.joined(subscriber)
        subscriber.say(sse.opening(self.host.retry_ms(CloseReason.CLIENT_GONE)))
        if self.state is FeedState.CLOSED:  # it ended while the headers were on their way
            subscriber.end(
                CloseReason.UPSTREAM_ENDED, self.host.retry_ms(CloseReason.UPSTREAM_ENDED)
            )
            return
        history = self.history
        subscriber.cursor = history.top
        if cursor is None:
            self.resume(subscriber, history.top, "fresh")
            return
        standing, offset = history.find(cursor)
        if standing is Standing.HELD:
            self.resume(subscriber, offset, "resumed")
        elif standing is Standing.UNKNOWN:
            subscriber.state = State.WAITING
            subscriber.resume_id = cursor
            self.catchup.wait(subscriber, cursor)
        elif standing is Standing.EVICTED:
            self.resume_with_gap(subscriber, GapCause.EVICTED, history.first - 1, cursor)
        else:
            self.resume_with_gap(subscriber, GapCause.UNKNOWN_ID, history.top, cursor)

    def resume(self, subscriber: Subscriber, offset: int, outcome: str) -> None:
        """Go on after `offset`, which continues what the client has."""
        self.meter.replay(outcome, self.history.top - offset)
        self._go(subscriber, offset)

    def resume_with_gap(
        self, subscriber: Subscriber, cause: GapCause, offset: int, last_id: bytes | None
    ) -> None:
        """Go on after `offset`, and say that something may be missing before."""
        self.meter.replay("gap", self.history.top - offset)
        self._tell_gap(subscriber, cause, offset, last_id)
        self._go(subscriber, offset)

    def left(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """Its socket is gone."""
        self.subscribers.pop(subscriber, None)
        self.used_at_s = self.host.clock()
        self.host.left(subscriber, reason)
        if subscriber.paused:
            self.catchup.resumed()

    def end(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """End one stream in good order."""
        subscriber.stalled_since_s = self.host.clock()
        subscriber.end(reason, self.host.retry_ms(reason))
        self.host.watch(subscriber, _ENDING_TIMEOUT_S)

    def end_all(self, reason: CloseReason, credential: Credential | None = None) -> int:
        """End every stream, or those that hold `credential`. Returns how many."""
        chosen = [
            subscriber
            for subscriber in self.subscribers
            if credential is None or subscriber.credential == credential
        ]
        for subscriber in chosen:
            self.end(subscriber, reason)
        return len(chosen)

    def refuse_joining(self, refusal: Refusal, credential: Credential | None = None) -> None:
        """Upstream will not have them: answer the requests that wait, or those with `credential`."""
        waiting, self.joining = self.joining, []
        for future, theirs in waiting:
            if credential is not None and theirs != credential:
                self.joining.append((future, theirs))
            elif not future.done():
                future.set_exception(refusal)

    def opened(self) -> None:
        """Upstream has accepted a credential: requests that wait go on."""
        self.state = FeedState.OPEN
        for future, _ in self.joining:
            if not future.done():
                future.set_result(None)
        self.joining = []

    def credentials(self) -> Iterable[Credential]:
        """Whose credentials the feed may use, the longest-standing first."""
        for subscriber in self.subscribers:
            if subscriber.state is not State.ENDING:
                yield subscriber.credential
        for future, credential in self.joining:
            if not future.done():
                yield credential

    @property
    def in_use(self) -> bool:
        """Whether anybody reads it or waits for it."""
        return bool(self.subscribers) or any(not future.done() for future, _ in self.joining)

    # -- entries out

    def flush(self, deadline_s: float) -> bool:
        """Hand what is new to everybody who keeps up; say whether all have it. One write per
        subscriber and 16 KiB.
        """
        if not self._round:
            self._target = self.history.top
            if self._target == self.flushed:
                return True
            self._round = list(self.subscribers)
            self._round.reverse()
        waiting, target = self._round, self._target
        deliveries = size_bytes = looked = 0
        while waiting:
            subscriber = waiting.pop()
            while subscriber.state is State.LIVE and subscriber.cursor < target:
                sent = self._write_next(subscriber, target)
                if sent:
                    deliveries += sent[0]
                    size_bytes += sent[1]
            looked += 1
            if looked % _WRITES_PER_LOOK == 0 and waiting and self.host.clock() > deadline_s:
                break
        self.meter.delivered(deliveries, size_bytes)
        return not waiting and self._flushed(target)

    def _flushed(self, target: int) -> bool:
        """Everybody has been offered everything up to `target`."""
        now_s = self.host.clock()
        oldest = max(self.flushed + 1, self.history.first)
        if self.subscribers and oldest <= self.history.top:
            self.meter.delay(now_s - self.history.entry(oldest).at_s)
        self.written_at_s = now_s
        self.flushed = target
        self.forget_joins()
        return self.history.top == target

    def pump(self, subscriber: Subscriber) -> bool:
        """One turn of a replay: one write. Says whether there is more to do for it now."""
        if subscriber.state is not State.REPLAYING:
            return False
        sent = self._write_next(subscriber, self.history.top)
        if sent:
            self.meter.delivered(*sent)
        # The write may have paused it, which a type checker can't see.
        if subscriber.paused or subscriber.cursor < self.history.top:
            return not subscriber.paused
        # No await since the look at the top: the next entry finds it live.
        subscriber.state = State.LIVE
        return False

    def _write_next(self, subscriber: Subscriber, target: int) -> tuple[int, int] | None:
        """Write the next frames, 16 KiB at most; how many events and bytes. A cursor that fell off
        the ring is a gap.
        """
        cursor = subscriber.cursor
        if cursor < self.history.first - 1:
            floor = self.history.first - 1
            self._tell_gap(subscriber, GapCause.SLOW, floor, self.history.place_id(cursor))
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
        entries = self.history.window(cursor, target, MAX_JOIN_BYTES)
        frames = [entry.frame if chunked else sse.unchunk(entry.frame) for entry in entries]
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        if len(self._joins) >= _MAX_JOINS:
            self._joins.clear()
        self._joins[memo] = known = joined, entries[-1].offset
        return known

    def _go(self, subscriber: Subscriber, offset: int) -> None:
        subscriber.cursor = offset
        subscriber.resume_id = b""
        if subscriber.paused:
            subscriber.state = State.PAUSED
        elif offset == self.history.top:
            subscriber.state = State.LIVE
        else:
            subscriber.state = State.REPLAYING
            self.host.replay(subscriber)

    def forget_joins(self) -> None:
        """Joined bytes serve those who stand at one place at one time; they are not kept."""
        self._joins.clear()

    def _tell_gap(
        self, subscriber: Subscriber, cause: GapCause, offset: int, last_id: bytes | None
    ) -> None:
        self.meter.gap(cause)
        subscriber.say(gap_block(cause, last_id, self.history.place_id(offset)))

    # -- time

    def replay(self, subscriber: Subscriber) -> None:
        """Its socket takes bytes again."""
        self.host.replay(subscriber)

    def stalled(self, subscriber: Subscriber) -> None:
        """Its socket takes no more: watch whether it ever does."""
        subscriber.stalled_since_s = self.host.clock()
        subscriber.stalled_bytes = subscriber.transport.get_write_buffer_size()
        self.host.watch(subscriber, self.host.timings.write_timeout_s / 8)

    def check(self, subscriber: Subscriber) -> None:
        """A moment that somebody asked for has come: see whether this stream should go on."""
        if subscriber.state is State.ENDING:
            if self.host.clock() - subscriber.stalled_since_s >= _ENDING_TIMEOUT_S:
                subscriber.abort(CloseReason.SLOW)
        elif subscriber.paused:
            self._check_progress(subscriber)

    def _check_progress(self, subscriber: Subscriber) -> None:
        """A slow stream that has made no progress for the write time-out is closed; a slow one that
        moves is not.
        """
        now_s = self.host.clock()
        timeout_s = self.host.timings.write_timeout_s
        unsent = subscriber.transport.get_write_buffer_size()
        if unsent != subscriber.stalled_bytes:
            subscriber.stalled_bytes = unsent
            subscriber.stalled_since_s = now_s
        if now_s - subscriber.stalled_since_s >= timeout_s:
            subscriber.abort(CloseReason.SLOW)
        else:
            self.host.watch(subscriber, timeout_s / 8)

    def heartbeat(self) -> Callable[[float], bool]:
        """A comment to everybody who is live and has nothing unsent, as a job for the hub."""
        self.written_at_s = self.host.clock()
        waiting = list(self.subscribers)
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
                if looked % _WRITES_PER_LOOK == 0 and self.host.clock() > deadline_s:
                    break
            return not waiting

        return beat

    def facts(self, role: str) -> FeedFacts:
        """What operators may see."""
        history = self.history
        return FeedFacts(
            identity=self.key.identity,
            stream=self.key.stream.name,
            role=role,
            state=self.owner.state,
            subscribers=len(self.subscribers),
            events=len(history),
            history_bytes=history.size_bytes,
            last_id=history.place_id(history.top).decode("utf-8", "replace"),
            age_s=self.host.clock() - self.opened_at_s,
        )
