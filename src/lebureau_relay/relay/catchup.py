"""Catch-up: asking upstream, by a short request of its own, for what a cursor needs and the ring
lacks.

Tabs come back to a restarted relay in any order: the first one's cursor opened the feed, the next
one's may be older. What the request brings goes to its waiters, under back-pressure, not into the
log. It has succeeded once it runs into what the ring continues; meeting anything later first proves
that upstream ignored the cursor (contract, section 3). At most one request a feed at a time, the
owner's own included; one that fails for a moment is made again for as long as there is time.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress

from lebureau_relay.core import sse
from lebureau_relay.core.continuity import gap_block
from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import (
    Entry,
    GapCause,
    split_derived,
    trim,
    upstream_cursor,
)
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.relay.doubts import PASSING, withdraw
from lebureau_relay.relay.feed import Feed
from lebureau_relay.relay.group import Group, Outcome
from lebureau_relay.relay.owner import Outside
from lebureau_relay.relay.ports import Subscription
from lebureau_relay.relay.share import Role
from lebureau_relay.relay.subscriber import Subscriber
from lebureau_relay.relay.words import Words, words_of

# Upstream said nothing of the cursor; if the ring has let entries go, it is likeliest that it was
# one of these.
_UNKNOWABLE = (Outcome.TIMEOUT, Outcome.FAILED)

# A group is asked for at least so much of the time-out, however long it stood in the queue.
_LEAST_SHARE = 0.05


class CatchUp:
    """The waiters of one feed, and the one task that serves them group by group."""

    __slots__ = (
        "_feed",
        "_outside",
        "_request",
        "_resumed",
        "_source",
        "_task",
        "_timeout_s",
        "waiting",
    )

    def __init__(self, feed: Feed, outside: Outside, timeout_s: float) -> None:
        self.waiting: list[Group] = []
        self._feed = feed
        self._source = outside.source
        self._outside = outside
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | asyncio.Task[Outcome] | None = None
        self._request: Subscription | None = None  # the one that is open
        self._resumed: asyncio.Event | None = None  # while somebody's socket is waited for

    def wait(self, subscriber: Subscriber, cursor: bytes) -> None:
        """Serve a subscriber whose cursor the ring lacks."""
        key = trim(cursor)
        for group in self.waiting:
            # Those that have been sent something are ahead of a newcomer with the same cursor.
            if group.cursor == key and not group.last_id:
                group.subscribers.append(subscriber)
                return
        base, skip = split_derived(key)
        feed = self._feed
        group = Group(key, feed.shown, feed.host.clock(), base, skip, subscribers=[subscriber])
        group.own = self._is_own(group)  # now: in a burst the floor moves on
        self.waiting.append(group)
        self.resumed()  # whoever was waited for alone no longer is
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def seen(self, entry: Entry) -> None:
        """The feed's own subscription has brought an entry, which may settle a wait."""
        for group in list(self.waiting):
            if group.last_id:
                self._compare(group, entry)
            elif group.cursor == entry.key:
                self._finish(group, Outcome.SEEN, entry.offset)
            elif group.own and split_derived(entry.key)[0] != group.base:
                self._finish(group, Outcome.IGNORED, group.start)

    def _compare(self, group: Group, entry: Entry) -> None:
        """The feed's own subscription brings what the catch-up has brought before."""
        if trim(group.last_id) == entry.key:
            # else it was live: the cursor was ignored
            ran_on = group.place(self._feed.history) == entry.offset
            self._finish(group, Outcome.FILLED if ran_on else Outcome.IGNORED, entry.offset)

    def resumed(self) -> None:
        """A waiter's socket takes bytes again, or is gone."""
        if self._resumed is not None:
            self._resumed.set()

    def close(self) -> None:
        """The feed ends."""
        if self._task is not None:
            self._task.cancel()
        self.waiting = []

    async def in_turn(
        self, request: Callable[[], Coroutine[None, None, Outcome]]
    ) -> Outcome | None:
        """Make a request of the owner's own (`doubts`); how it went. One request a feed at a time:
        waiters are served after it, and while they are it is not made (None).
        """
        if self._task is not None:
            return None
        self._task = asking = asyncio.ensure_future(request())
        try:
            await asyncio.wait({asking})
        finally:
            asking.cancel()
            for group in self.waiting:  # their time begins now
                group.since_s = self._feed.host.clock()
            self._task = asyncio.ensure_future(self._run()) if self.waiting else None
        if asking.cancelled():  # the feed ends
            return None
        outcome = asking.result()
        self._feed.meter.catchup(outcome.value)
        return outcome

    async def at_rest(self) -> None:
        """Wait until nobody is served, but for no longer than one may be, nor for who reads slowly,
        which costs others nothing.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while self._task is not None and self._resumed is None:
                    await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while self.waiting:
                group = self.waiting[0]
                outcome, offset = await self._serve(group)
                self._finish(group, outcome, offset)
        finally:
            self._task = None
            for group in list(self.waiting):  # it failed: nobody is left to wait for nothing
                self._finish(group, Outcome.FAILED, None)

    def rebased(self, top: int) -> None:
        """The feed's history is another now, with another numbering, and may hold what a group
        waits for. What that has been sent is believed as far as the new one says the same.
        """
        for group in list(self.waiting):
            group.start = top
            group.own = self._is_own(group)
            for subscriber in group.alive():
                subscriber.cursor = top
            place = group.place(self._feed.history)
            if place is not None:
                self._finish(group, Outcome.FILLED if group.sent else Outcome.SEEN, place)
            elif group.sent and group.last_id in self._feed.history:
                self._finish(group, Outcome.IGNORED, None)

    def _is_own(self, group: Group) -> bool:
        """Whether the feed's own subscription has been asked for what this group needs: a cold
        start.
        """
        return bool(group.skip) and group.base == trim(self._feed.history.floor_id)

    def _is_ours(self) -> bool:
        """Whether the feed's subscription is run here, and not by another replica."""
        share = self._feed.share
        return share is None or share.role is not Role.FOLLOWER

    async def _serve(self, group: Group) -> tuple[Outcome, int | None]:
        """Fill one group; how it went, and where the ring was met."""
        history = self._feed.history
        if not group.alive():
            return Outcome.FAILED, None
        if not len(history) and not history.floor_id and self._is_ours():
            # Nothing to run into, nothing to lose: this request becomes the subscription itself.
            self._feed.owner.replace(upstream_cursor(group.base))
            if not group.skip:
                return Outcome.FILLED, history.top
            group.own = True
        # The time-out runs from when the first came, so that a queue of them behind an upstream
        # that hangs doesn't wait for one after the other; but each is asked for a moment at least.
        waited_s = self._feed.host.clock() - group.since_s
        left_s = max(self._timeout_s - waited_s, self._timeout_s * _LEAST_SHARE)
        try:
            async with asyncio.timeout(left_s) as limit:
                if group.own:
                    await group.done.wait()
                    return Outcome.SEEN, None
                return await self._ask(group, limit)
        except TimeoutError:
            return Outcome.TIMEOUT, None

    async def _ask(self, group: Group, limit: asyncio.Timeout) -> tuple[Outcome, int | None]:
        attempt = 0
        while waiters := group.alive():
            credential = waiters[0].credential
            try:
                return await self._ask_once(group, credential, limit)
            except SourceFailure as failure:
                # Those who hold that credential are out; others may have good ones.
                out = withdraw(self._feed.owner, failure, credential)
                if not out and failure.problem not in (*PASSING, SourceProblem.REPLACED):
                    return Outcome.FAILED, None
                if group.sent:  # go on from there
                    group.base, group.skip = split_derived(trim(group.last_id))
                    if not upstream_cursor(group.base):
                        return Outcome.FAILED, None
                if failure.problem in PASSING:
                    await self._pause(group, attempt, failure.retry_after_s)
                    attempt += 1
        return Outcome.FAILED, None

    async def _pause(self, group: Group, attempt: int, hint_s: float | None) -> None:
        """Before the next request; the feed itself may bring what is needed meanwhile."""
        outside = self._outside
        with suppress(TimeoutError):
            async with asyncio.timeout(outside.backoff.delay_s(attempt, hint_s, outside.uniform)):
                await group.done.wait()

    async def _ask_once(
        self, group: Group, credential: Credential, limit: asyncio.Timeout
    ) -> tuple[Outcome, int | None]:
        group.passed, group.sent_before = 0, group.sent
        group.let_go()
        cursor = upstream_cursor(group.base)
        try:
            self._request = await self._open(credential, cursor)
            words = words_of(self._request, self._feed.host.timings)
            with closing(words):
                return await self._read(group, words, credential, limit)
        finally:
            if self._request is not None:
                self._request.close()
                self._request = None

    async def _open(self, credential: Credential, cursor: bytes) -> Subscription:
        """Raises SourceFailure where no answer comes: one attempt may have gone by a connection
        that carries nothing any more, so it has half of the time, and another follows.
        """
        try:
            async with asyncio.timeout(self._timeout_s / 2):
                return await self._source.open(self._feed.key, credential, cursor)
        except TimeoutError:
            raise SourceFailure(SourceProblem.UNAVAILABLE, "no answer to a catch-up") from None

    async def _read(
        self, group: Group, words: Words, credential: Credential, limit: asyncio.Timeout
    ) -> tuple[Outcome, int | None]:
        """What comes at once is sent at once, when all of it is judged: one that answers every
        cursor with all that it has is found out before anybody has it twice.
        """
        clock = self._feed.host.clock
        hold_bytes = self._feed.host.timings.buffer_bytes // 4
        left_s = (limit.when() or 0.0) - asyncio.get_running_loop().time()
        while group.alive():
            asked_s = clock()
            events = await words.come()
            if credential not in self._feed.credentials():  # nobody rechecks it any more
                raise SourceFailure(SourceProblem.REPLACED, "who held its credential is out")
            # The time-out is upstream's: what the clients take to read does not count.
            left_s -= clock() - asked_s
            limit.reschedule(None)
            if any(trim(event.id) == group.base for event in events):
                return Outcome.IGNORED, None
            for event in events:
                step = group.judge(self._feed.history, event)
                if step.send:
                    group.hold(event)
                if step.outcome is not None:  # at once: the offset is of the ring as it is now
                    if step.outcome is Outcome.FILLED:
                        self._say(group)
                    return step.outcome, step.offset
                if group.held_bytes > hold_bytes:
                    await self._send(group)
            await self._send(group)
            limit.reschedule(asyncio.get_running_loop().time() + max(left_s, 0))
        return Outcome.FAILED, None

    async def _send(self, group: Group) -> None:
        """Hand a group what was held for it, and wait until all of it can take more."""
        self._say(group)
        await self._let_drain(group)

    def _say(self, group: Group) -> None:
        waiters = group.alive()
        for event in group.let_go():
            if event.data is None:
                block = gap_block(GapCause.OVERSIZE, group.last_id or group.cursor, event.id)
            else:
                block = sse.block(event.id, event.type, event.data)
            group.sent += 1
            group.last_id = event.id
            for subscriber in waiters:
                subscriber.resume_id = event.id
                subscriber.say(block)
            self._feed.meter.delivered(len(waiters), len(waiters) * len(block))

    async def _let_drain(self, group: Group) -> None:
        """Wait until all can take more; who holds up others for too long goes on with a gap."""
        clock = self._feed.host.clock
        since_s = clock()
        while paused := [one for one in group.alive() if one.paused]:
            alone = len(self.waiting) == 1 and len(paused) == len(group.alive())
            left_s = self._timeout_s - (clock() - since_s)
            if not alone and left_s <= 0:
                for subscriber in paused:
                    after = max(subscriber.cursor, self._feed.history.first - 1)
                    self._feed.resume_with_gap(subscriber, GapCause.SLOW, after, group.cursor)
                return
            self._resumed = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if alone else left_s):
                    await self._resumed.wait()
            self._resumed = None

    def _finish(self, group: Group, outcome: Outcome, offset: int | None) -> None:
        """Let a group go on: without a gap after FILLED and SEEN, with one otherwise."""
        if group not in self.waiting:
            return
        served = group is self.waiting[0]
        self.waiting.remove(group)
        waiters = group.alive()
        group.done.set()
        self.resumed()  # nobody is waited for any more
        if served and self._request is not None:
            self._request.close()
        feed = self._feed
        feed.meter.catchup(outcome.value)
        if offset is not None and outcome in (Outcome.FILLED, Outcome.SEEN):
            for subscriber in waiters:
                feed.resume(subscriber, offset, "caught_up")
            return
        history = feed.history
        known = history.named(group.last_id) if group.last_id else None
        cause, place = GapCause.UNKNOWN_ID, offset
        if known is not None:
            place = known.offset
        elif outcome in _UNKNOWABLE and history.first > 1 and not group.last_id:
            cause, place = GapCause.EVICTED, history.first - 1
        for subscriber in waiters:
            # What has come since it joined is surely new to it; what it has been sent is not.
            after = max(subscriber.cursor if place is None else place, history.first - 1)
            # What it has been sent was never proved: continuity ends at its cursor.
            feed.resume_with_gap(subscriber, cause, after, group.cursor)
