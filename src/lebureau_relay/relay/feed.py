"""A feed: one identity's stream in this replica. Its history, its subscribers, and what passes from
one to the other.

The feed is told of entries by its owner (`accept`), and the hub gives it turns to `flush` them. It
doesn't know where events come from. Nothing here waits: every method mutates synchronously, so no
entry can fall between replay and live.
"""

from asyncio import Future
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from lebureau_relay.core import sse
from lebureau_relay.core.continuity import gap_block
from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Entry, GapCause
from lebureau_relay.core.history import History, Standing
from lebureau_relay.errors import CloseReason, Refusal
from lebureau_relay.relay.fanout import Fanout
from lebureau_relay.relay.host import Host
from lebureau_relay.relay.observer import FeedFacts, StreamMeter
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.subscriber import State, Subscriber

if TYPE_CHECKING:
    from lebureau_relay.relay.catchup import CatchUp
    from lebureau_relay.relay.owner import Owner
    from lebureau_relay.relay.share import Share

# A goodbye that the socket has not taken by now never will (contract, section 3, "Ends").
_ENDING_TIMEOUT_S = 5.0


class FeedState(StrEnum):
    """Where a feed is in its life."""

    OPENING = "opening"  # upstream has not accepted anybody's credential yet
    OPEN = "open"  # it has; the connection may be down and coming back
    CLOSED = "closed"


class Feed:
    """One identity's stream in this replica."""

    __slots__ = (
        "catchup",
        "closed_as",
        "fanout",
        "history",
        "host",
        "joining",
        "key",
        "meter",
        "open_since_s",
        "opened_at_s",
        "opening_offset",
        "over",
        "owner",
        "publish",
        "share",
        "shown",
        "state",
        "subscribers",
        "used_at_s",
    )

    def __init__(self, key: FeedKey, history: History, host: Host, meter: StreamMeter) -> None:
        self.key = key
        self.history = history
        self.host = host
        self.meter = meter
        self.state = FeedState.OPENING
        self.closed_as = CloseReason.UPSTREAM_ENDED  # what to tell who comes when it is CLOSED
        self.owner: Owner
        self.catchup: CatchUp
        self.share: Share | None = None  # its part in the deployment, where there are others
        self.over = False  # its parts are gone
        self.subscribers: dict[Subscriber, None] = {}  # in order of arrival
        # requests that wait for the answer of upstream
        self.joining: list[tuple[Future[None], Credential]] = []
        self.opened_at_s = host.clock()
        # when a client last joined or left: linger counts from here
        self.used_at_s = self.opened_at_s
        self.shown = history.top  # offset that subscribers may see: what the log has taken
        # That offset when upstream accepted the first credential, and when it did so.
        self.opening_offset = self.shown
        self.open_since_s = inf
        self.fanout = Fanout(self, host.clock)
        # What the source's entries go to once the history holds them: straight on, or by the log.
        self.publish: Callable[[Sequence[Entry]], None] = self.accept

    # -- entries in

    def accept(self, entries: Iterable[Entry]) -> None:
        """Entries of the history have been taken by the log: they are due to every subscriber."""
        for entry in entries:
            self.shown = entry.offset
            if entry.gap is not None:
                self.meter.gap(entry.gap)
            if self.catchup.waiting:
                self.catchup.seen(entry)
        self.host.turns.dirty(self.fanout)

    # -- subscribers in and out

    def attach(self, subscriber: Subscriber, cursor: bytes | None, *, waited: bool = False) -> None:
        """Take a new stream: fix its verdict and its cursor in this one step, and let it begin to
        read.

        `cursor` is what the client asked to go on after; None for a first connect. `waited` says
        that it came before the feed was open: what upstream said at once was said to it, too.
        """
        subscriber.opened_at_s = self.used_at_s = self.host.clock()
        self.subscribers[subscriber] = None
        welcome = self.host.joined(subscriber)
        subscriber.say(sse.opening(self.host.retry_ms(CloseReason.CLIENT_GONE)))
        if not welcome:  # it goes on from where it was, somewhere else
            subscriber.resume_id = cursor or b""
            self.end(subscriber, CloseReason.CREDENTIAL_REVOKED)
            return
        if self.state is FeedState.CLOSED:  # it ended while the headers were on their way
            subscriber.cursor, subscriber.resume_id = self.shown, cursor or b""
            self.end(subscriber, self.closed_as)
            return
        history = self.history
        if cursor is None:
            offset = max(self.opening_offset, history.first - 1) if waited else self.shown
            self.resume(subscriber, offset, "fresh")
            return
        standing, offset = history.find(cursor)
        if standing is Standing.HELD and offset <= self.shown:
            self.resume(subscriber, offset, "resumed")
        elif standing in (Standing.HELD, Standing.UNKNOWN):
            # Held, but not taken by the log yet: it may still be taken back, or be followed by
            # something else there.
            self.ask_upstream(subscriber, cursor)
        elif standing is Standing.EVICTED:
            self.resume_with_gap(subscriber, GapCause.EVICTED, history.first - 1, cursor)
        else:
            self.resume_with_gap(subscriber, GapCause.UNKNOWN_ID, self.shown, cursor)

    def resume(self, subscriber: Subscriber, offset: int, outcome: str) -> None:
        """Go on after `offset`, which continues what the client has."""
        self._judged(subscriber, outcome, offset)
        self._go(subscriber, offset)

    def move(self, subscriber: Subscriber, offset: int) -> None:
        """The same place has another offset now."""
        self._go(subscriber, offset)

    def ask_upstream(self, subscriber: Subscriber, cursor: bytes) -> None:
        """Let it wait until its cursor turns up, or upstream says what follows it."""
        subscriber.state = State.WAITING
        subscriber.cursor = self.shown
        subscriber.resume_id = cursor
        self.catchup.wait(subscriber, cursor)

    def resume_with_gap(
        self, subscriber: Subscriber, cause: GapCause, offset: int, last_id: bytes | None
    ) -> None:
        """Go on after `offset`, and say that something may be missing before."""
        self._judged(subscriber, "gap", offset)
        self.tell_gap(subscriber, cause, offset, last_id)
        self._go(subscriber, offset)

    def left(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """Its socket is gone."""
        self.subscribers.pop(subscriber, None)
        self.used_at_s = self.host.clock()
        self.host.left(subscriber, reason)
        if subscriber.paused and not self.over:
            self.catchup.resumed()

    def end(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """End one stream in good order; once, so that a second wish doesn't put off the abort."""
        if subscriber.state in (State.ENDING, State.GONE):
            return
        subscriber.stalled_since_s = self.host.clock()
        subscriber.end(reason, self.host.retry_ms(reason))
        self.host.watch(subscriber, _ENDING_TIMEOUT_S)

    def hung_up(self, subscriber: Subscriber) -> None:
        """Its client has closed its side: what is unsent may still go, as long as at any end."""
        subscriber.stalled_since_s = self.host.clock()
        if subscriber.transport.get_write_buffer_size():
            self.host.watch(subscriber, _ENDING_TIMEOUT_S)
        self.host.hang_up(subscriber.transport)

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
        """Upstream will not have them: answer those who wait, or those with `credential`."""
        waiting, self.joining = self.joining, []
        for future, theirs in waiting:
            if credential is not None and theirs != credential:
                self.joining.append((future, theirs))
            elif not future.done():
                future.set_exception(refusal)

    def opened(self) -> None:
        """Upstream has accepted a credential: requests that wait go on."""
        if self.state is FeedState.OPENING:
            self.opening_offset = self.shown
            self.open_since_s = self.host.clock()
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

    def _judged(self, subscriber: Subscriber, outcome: str, offset: int) -> None:
        waited_s = self.host.clock() - subscriber.opened_at_s
        self.meter.replay(outcome, max(self.shown - offset, 0), waited_s)

    def _go(self, subscriber: Subscriber, offset: int) -> None:
        subscriber.cursor = offset
        subscriber.resume_id = b""
        if subscriber.paused:
            subscriber.state = State.PAUSED
        elif offset == self.fanout.level:
            self.fanout.enter(subscriber)
        else:
            subscriber.state = State.REPLAYING
            self.replay(subscriber)

    def tell_gap(
        self, subscriber: Subscriber, cause: GapCause, offset: int, last_id: bytes | None
    ) -> None:
        """Say that something may be missing before `offset`, where the subscriber goes on."""
        self.meter.gap(cause)
        subscriber.say(gap_block(cause, last_id, self.history.place_id(offset)))

    # -- time

    def replay(self, subscriber: Subscriber) -> None:
        """Let it read the ring, in turns with others."""
        self.host.turns.replay(subscriber)

    def stalled(self, subscriber: Subscriber) -> None:
        """Its socket takes no more: watch whether it ever does."""
        subscriber.stalled_since_s = self.host.clock()
        subscriber.stalled_bytes = subscriber.transport.get_write_buffer_size()
        if not subscriber.watched:  # one that pauses often is looked at no oftener
            self._watch(subscriber)

    def _watch(self, subscriber: Subscriber) -> None:
        subscriber.watched = True
        self.host.watch(subscriber, self.host.timings.write_timeout_s / 8)

    def check(self, subscriber: Subscriber) -> None:
        """A moment that somebody asked for has come: see whether this stream should go on."""
        subscriber.watched = False
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
        if unsent < subscriber.stalled_bytes:  # more is no progress: we have said something to it
            subscriber.stalled_since_s = now_s
        subscriber.stalled_bytes = unsent
        if now_s - subscriber.stalled_since_s >= timeout_s:
            subscriber.abort(CloseReason.SLOW)
        else:
            self._watch(subscriber)

    def fall_apart(self) -> None:
        """Let go of its parts, once it is closed, its owner done and nobody left. They and the feed
        name each other: together they would wait for the collector, which comes by seldom.
        """
        if not self.over:
            self.over = True
            self.share = None
            del self.owner, self.catchup, self.fanout, self.publish

    @property
    def role(self) -> str:
        """What this replica is to the feed: owner, follower or solo."""
        return "solo" if self.share is None else self.share.role.value

    def facts(self) -> FeedFacts:
        """What operators may see."""
        history = self.history
        return FeedFacts(
            identity=self.key.identity,
            stream=self.key.stream.name,
            role=self.role,
            owner="" if self.share is None else self.share.owner_elsewhere,
            state=self.owner.state,
            subscribers=len(self.subscribers),
            events=len(history),
            history_bytes=history.memory_bytes,
            last_id=history.place_id(history.top).decode("utf-8", "replace"),
            age_s=self.host.clock() - self.opened_at_s,
        )
