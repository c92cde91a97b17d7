"""The hub: the registry of feeds.

Here feeds are opened once for however many ask at the same moment, given turns to flush, kept warm
after their last subscriber, and let go. One flush per loop turn, bounded in time (`turns`); one
timer for everything that is due "in about a second" (`rounds`).
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from lebureau_relay.core.backoff import spread
from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import upstream_cursor
from lebureau_relay.core.history import History, HistoryLimits
from lebureau_relay.errors import CloseReason, Refusal, RefusalCode
from lebureau_relay.relay.catchup import CatchUp
from lebureau_relay.relay.farewells import Farewells
from lebureau_relay.relay.feed import Feed, FeedState
from lebureau_relay.relay.heldoff import HeldOff
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.letgo import LetGo
from lebureau_relay.relay.observer import HubFacts
from lebureau_relay.relay.owner import Outside, Owner
from lebureau_relay.relay.ports import FeedKey, Identity
from lebureau_relay.relay.rounds import SLOT_S, Rounds
from lebureau_relay.relay.share import Role, Share, Shared
from lebureau_relay.relay.subscriber import Subscriber
from lebureau_relay.relay.survey import Tally
from lebureau_relay.relay.turns import Turns

# Over the bound of all histories, shrink to this share of it, so that the next event doesn't find
# it full again.
_SHRINK_TO = 0.9
# How long a 403 on a stream answers for upstream (contract, section 5).
_FORBIDDEN_S = 60.0
_LEAVING = "The relay is leaving service."
# A feed may end while it is being joined; it is then opened anew. More often is a fault upstream.
_TRIES = 3
# Why a client should stay away for long: tabs would otherwise retire each other in turn (contract,
# section 6).
_RETIRED_RETRY_S = 300.0


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds over all feeds."""

    history: HistoryLimits = field(default_factory=HistoryLimits)
    total_bytes: int = 268_435_456


class Hub:
    """Feeds by key, and everything that keeps them going.

    Made and used on one event loop. `start` before the first `join`, `close` at the end.
    """

    def __init__(
        self,
        outside: Outside,
        timings: StreamTimings,
        limits: HubLimits,
        shared: Shared | None = None,
    ) -> None:
        self.timings = timings
        # Not the loop's clock: uvloop's stands still within a turn, so no turn would ever be over.
        self.clock: Callable[[], float] = time.monotonic
        self.draining = False
        self._closed = False
        self.history_bytes = 0
        self._shrink_above = limits.total_bytes
        self._outside = outside
        self._limits = limits
        self._shared = shared
        self._feeds: dict[FeedKey, Feed] = {}
        self._ended: dict[Feed, None] = {}  # closed, but some of their streams still say goodbye
        self._unfinished: set[Feed] = set()  # closed, but their owners are not done yet
        self._tasks: dict[FeedKey, asyncio.Task[None]] = {}
        self._held_off = HeldOff(lambda: self.clock())  # noqa: PLW0108 - tests drive the clock
        self.turns = Turns(self.clock)
        self._farewells = Farewells(outside.observer, self.turns)
        self._letting_go: LetGo | None = None
        self._rounds = Rounds(self, self._close_feed, outside.uniform)

    # -- life

    def start(self) -> None:
        """Begin to keep time."""
        self._rounds.start()

    async def close(self) -> None:
        """End everything at once: streams that are left are aborted, subscriptions closed."""
        self.draining = self._closed = True
        self._rounds.stop()
        tasks = list(self._tasks.values())
        for feed in self.feeds():
            for subscriber in list(feed.subscribers):
                subscriber.abort(CloseReason.DRAINING)
            self._close_feed(feed)
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._farewells.finish()

    async def drain(self, spread_s: float) -> None:
        """End all streams, evenly over `spread_s`, and wait until they are gone or their time is
        up.
        """
        self.draining = True
        subscribers = [one for feed in self._feeds.values() for one in feed.subscribers]
        started_s = self.clock()
        for count, subscriber in enumerate(subscribers):
            due_s = started_s + spread_s * count / len(subscribers)
            if due_s > self.clock():
                await asyncio.sleep(due_s - self.clock())
            subscriber.feed.end(subscriber, CloseReason.DRAINING)
        deadline_s = self.clock() + 5.0  # the feed aborts by then whoever doesn't read
        while self._busy() and self.clock() < deadline_s + 2 * SLOT_S:
            self.end(None, CloseReason.DRAINING)  # those that were opening when it began
            await asyncio.sleep(SLOT_S)

    def _busy(self) -> bool:
        return bool(self.streams) or any(feed.joining for feed in self._feeds.values())

    # -- requests

    async def join(self, key: FeedKey, credential: Credential, cursor: bytes | None) -> Feed:
        """The feed for this key, open. A warm one is returned without waiting; a new one is opened,
        once for all who ask.

        Raises Refusal with what upstream answered. A caller that is cancelled disturbs nobody.
        """
        self._attempt((key, credential.digest), credential)
        for _ in range(_TRIES):
            if self._closed:  # who waited until now, or comes from a request that is still read
                raise Refusal(RefusalCode.DRAINING, _LEAVING, retry_after_s=1.0)
            feed = self._feeds.get(key)
            if feed is None:
                feed = self._open(key, credential, cursor)
            accepted = False
            if feed.state is FeedState.OPENING:
                await self._opening(feed, credential)
                accepted = not feed.over and feed.owner.accepted == credential
            if feed.share is not None:
                feed.share.joined()
            if not accepted:  # upstream has just accepted somebody else's, or nobody's just now
                await self._outside.identities.ensure_fresh(credential)
            feed.used_at_s = self.clock()
            if feed.state is not FeedState.CLOSED:
                return feed
        raise Refusal(RefusalCode.UPSTREAM_UNAVAILABLE, "The stream keeps ending; try again later.")

    def _opening(self, feed: Feed, credential: Credential) -> asyncio.Future[None]:
        """What upstream will answer. Nobody who waits names it: a refusal would hold itself then,
        by the frames that it has passed, and all that they know.
        """
        answer = asyncio.get_running_loop().create_future()
        feed.joining.append((answer, credential))
        self._run(feed)
        return answer

    def is_warm(self, key: FeedKey) -> bool:
        """Whether a join would need no answer from upstream."""
        feed = self._feeds.get(key)
        return feed is not None and feed.state is FeedState.OPEN

    @property
    def streams(self) -> int:
        """Open streams of this process."""
        return sum(len(feed.subscribers) for feed in self.feeds())

    def revoke(self, credential: Credential) -> int:
        """End every stream that holds a credential; how many. Others of the same identity stay, and
        their feeds go on with theirs.
        """
        ended = 0
        for feed in list(self._feeds.values()):
            ended += feed.end_all(CloseReason.CREDENTIAL_REVOKED, credential)
            feed.owner.drop(credential)
        return ended

    def end(self, identity: str | None, reason: CloseReason) -> int:
        """End the streams of one identity, or all; how many."""
        return sum(
            feed.end_all(reason)
            for feed in list(self._feeds.values())
            if identity is None or feed.key.identity == identity
        )

    def let_go(self, most: int) -> None:
        """End up to so many streams, the oldest idle ones, so that they begin again elsewhere; in
        turns that hold nobody up. Who is still at the last ones does no more.
        """
        if self._letting_go is None or self._letting_go.done:
            feeds, min_age_s = self._feeds.values(), self.timings.settle_s
            self._letting_go = LetGo(feeds, most, min_age_s, self.clock)
            self.turns.job(self._letting_go)

    # -- what feeds ask for (host.Host)

    def watch(self, subscriber: Subscriber, after_s: float) -> None:
        """Look at a subscriber again after that."""
        self._rounds.later(after_s, partial(subscriber.feed.check, subscriber))

    def joined(self, subscriber: Subscriber) -> bool:
        """A stream has begun; False if its credential has lost its right meanwhile."""
        if subscriber.feed.state is FeedState.CLOSED:
            self._ended[subscriber.feed] = None
        self._rounds.see_grow_old(subscriber)
        key, credential = subscriber.feed.key, subscriber.credential
        may = self._outside.identities.hold(credential, Identity(key.identity))
        return may and not self._held_off.holds((key, credential.digest))

    def left(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """A stream has ended."""
        feed = subscriber.feed
        self._outside.identities.release(subscriber.credential)
        if not feed.subscribers and feed.state is FeedState.CLOSED:
            self._ended.pop(feed, None)
            self._part_with(feed)
        if feed.share is not None and not feed.in_use:
            feed.share.left()
        age_s = self.clock() - subscriber.opened_at_s
        feed.meter.closed(reason, age_s)
        self._farewells.add(feed.key, reason, age_s)

    def forbidden(self, key: FeedKey, credential: Credential, refusal: Refusal) -> None:
        """Upstream does not let this credential read this stream: it must not come back to where
        others of its identity hold it open.
        """
        self._held_off.add((key, credential.digest), refusal, _FORBIDDEN_S)

    def hang_up(self, transport: asyncio.Transport) -> None:
        """Close the socket of a client that has gone."""
        self._farewells.close(transport)

    def grown(self, size_bytes: int) -> None:
        """Count it; over the bound of all histories, the least recently used shrink."""
        self.history_bytes += size_bytes
        if self.history_bytes <= self._shrink_above:
            return
        self.history_bytes = sum(feed.history.memory_bytes for feed in self._feeds.values())
        for feed in sorted(self._feeds.values(), key=lambda one: one.used_at_s):
            while (
                self.history_bytes > self._limits.total_bytes * _SHRINK_TO and len(feed.history) > 1
            ):
                before_bytes = feed.history.memory_bytes
                feed.history.shrink()
                self.history_bytes += feed.history.memory_bytes - before_bytes
        # Newest entries are held whatever the bound: where they alone are over it, looking at every
        # feed for each event would not help.
        self._shrink_above = max(self._limits.total_bytes, int(self.history_bytes / _SHRINK_TO))

    def retry_ms(self, reason: CloseReason) -> int:
        """A jittered reconnect hint for one client."""
        base_s = _RETIRED_RETRY_S if reason is CloseReason.RETIRED else self.timings.retry_s
        if reason is CloseReason.RETIRED:
            return int(1000 * (base_s + base_s * self._outside.uniform()))
        return int(1000 * spread(base_s, self._outside.uniform))

    # -- facts

    @property
    def owned(self) -> int:
        """Feeds that are subscribed to upstream here."""
        follower = Role.FOLLOWER
        return sum(
            1
            for feed in self._feeds.values()
            if feed.share is None or feed.share.role is not follower
        )

    def facts(self) -> HubFacts:
        """The hub at this moment."""
        tally = Tally()
        for feed in self.feeds():
            tally.add(feed)
        return tally.facts(self)

    def feeds(self) -> list[Feed]:
        """All feeds; of those that are closed, the ones with streams that still say goodbye."""
        return [*self._feeds.values(), *self._ended]

    # -- feeds

    def _open(self, key: FeedKey, credential: Credential, cursor: bytes | None) -> Feed:
        """A new feed; its owner starts with the first request that waits for it."""
        attempt = self._attempt(key, credential)
        history = self._new_history(self._outside.new_epoch())
        feed = Feed(key, history, self, self._outside.observer.stream(key.stream.name))
        first_cursor = upstream_cursor(cursor) if cursor else b""
        feed.owner = Owner(feed, self._outside, first_cursor, attempt)
        feed.catchup = CatchUp(feed, self._outside, self.timings.catchup_timeout_s)
        if self._shared is not None:
            feed.share = Share(feed, self._shared, self._outside, self._new_history)
        self._feeds[key] = feed
        return feed

    def _attempt(self, what: Hashable, credential: Credential) -> int:
        """Which try it is, if upstream may be asked now. Raises the Refusal otherwise."""
        try:
            return self._held_off.attempt(what)
        except Refusal:
            self._outside.identities.undecided(credential)
            raise

    def _new_history(self, epoch: str) -> History:
        return History(self._limits.history, epoch)

    def _run(self, feed: Feed) -> None:
        if feed.key in self._tasks:
            return
        life = feed.owner.run() if feed.share is None else feed.share.run()
        task = asyncio.ensure_future(life)
        self._tasks[feed.key] = task
        task.add_done_callback(partial(self._owner_done, feed))
        self._rounds.visit(feed)

    def _owner_done(self, feed: Feed, task: asyncio.Task[None]) -> None:
        """The owner can't go on: nobody's credential is good any more, upstream said no, or it was
        cancelled.
        """
        owner = feed.owner
        if not task.cancelled() and task.exception() is not None:
            self._outside.observer.note(
                "error", "feed.failed", error=type(task.exception()).__name__
            )
            feed.end_all(CloseReason.INTERNAL_ERROR)
            feed.refuse_joining(
                Refusal(RefusalCode.INTERNAL_ERROR, "The relay failed; its log says more.")
            )
        elif owner.refusal is not None:
            self._held_off.add(feed.key, owner.refusal, owner.hold_s, owner.attempt + 1)
        self._close_feed(feed)
        self._unfinished.discard(feed)
        self._part_with(feed)

    def _close_feed(self, feed: Feed) -> None:
        if feed.state is FeedState.CLOSED:
            return
        feed.state = FeedState.CLOSED
        refusal = feed.owner.refusal
        if refusal is None and self.draining:
            refusal = Refusal(RefusalCode.DRAINING, _LEAVING, retry_after_s=1.0)
        elif refusal is None:
            detail = "The stream ended while it was being joined."
            refusal = Refusal(RefusalCode.UPSTREAM_UNAVAILABLE, detail, retry_after_s=1.0)
        feed.refuse_joining(refusal)
        if refusal.code is not RefusalCode.UPSTREAM_ENDED:
            feed.closed_as = CloseReason.DRAINING if self.draining else CloseReason.REBALANCED
        feed.end_all(feed.closed_as)
        feed.catchup.close()
        if feed.subscribers:
            self._ended[feed] = None
        self.history_bytes -= feed.history.memory_bytes
        feed.history.let_go()  # a stream may be long in saying goodbye
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]
            task = self._tasks.pop(feed.key, None)
            if task is not None and not task.done():
                self._unfinished.add(feed)
                task.cancel()

    def _part_with(self, feed: Feed) -> None:
        if not feed.subscribers and feed not in self._unfinished:
            feed.fall_apart()
