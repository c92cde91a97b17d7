"""The owner: the one task that keeps a feed's subscription upstream alive, for as long as the feed
lives.

It connects with a credential of whoever is there, resumes with proof, waits its turn after
failures, and tells the feed what came. Whatever goes wrong upstream ends no healthy client stream;
what is final upstream (204, 401, 403) is final here.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Never

from lebureau_relay.core.backoff import Backoff
from lebureau_relay.core.continuity import Continuity
from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Event
from lebureau_relay.core.history import ResumePlan
from lebureau_relay.errors import CloseReason, Refusal, RefusalCode, SourceFailure, SourceProblem
from lebureau_relay.relay.doubts import Doubt
from lebureau_relay.relay.feed import Feed, FeedState
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import Identities, Identity, Source, Subscription

# What an event's frame, and a gap that may stand before it, have beside its data: field names, and
# an id of the usual length.
_OVERHEAD_BYTES = 1024
# How often to look whether a flush that was interrupted is over.
_FLUSH_POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class Outside:
    """What every owner of a hub shares."""

    source: Source
    identities: Identities
    observer: Observer
    backoff: Backoff
    uniform: Callable[[], float]
    new_epoch: Callable[[], str]


class Owner:
    """Runs one feed's subscription.

    `run` returns when the feed can't go on; the hub then closes it and remembers `refusal` for
    `hold_s`, so that requests that follow don't ask upstream again at once.
    """

    __slots__ = (
        "_accepted",
        "_cursor_doubted",
        "_cursor_rejected",
        "_feed",
        "_fresh",
        "_outside",
        "_subscription",
        "_unwritten_bytes",
        "attempt",
        "heard_at_s",
        "hold_s",
        "refusal",
        "state",
    )

    def __init__(self, feed: Feed, outside: Outside, first_cursor: bytes, attempt: int = 0) -> None:
        self.state = "opening"  # opening, open or waiting: the label of `upstream_connections`
        self.refusal: Refusal | None = None
        self.hold_s = 0.0
        self.heard_at_s = feed.host.clock()
        self._feed = feed
        self._outside = outside
        self.attempt = attempt  # since something last worked
        self._fresh = True  # nothing to continue yet, but the first cursor
        self._cursor_rejected = False
        self._cursor_doubted = False  # upstream has refused it once
        self._unwritten_bytes = 0  # at most so many of the frames taken wait for their flush
        self._accepted: Credential | None = None
        self._subscription: Subscription | None = None
        feed.history.floor_id = first_cursor

    async def run(self) -> None:
        """Keep the subscription until the feed can't go on, or the task is cancelled."""
        # While the feed lingers, the credential that was accepted last stands for those who may
        # come back.
        while (credential := next(iter(self._feed.credentials()), self._accepted)) is not None:
            plan = self._plan()
            try:
                await self._connect(credential, plan)
            except SourceFailure as failure:
                if self.state == "open":
                    await self._lost(failure)
                elif not await self._refused(failure, credential):
                    return
            finally:
                if self._subscription is not None:
                    self._subscription.close()
                    self._subscription = None
                    self._outside.identities.release(credential)

    def replace(self, cursor: bytes) -> None:
        """Ask again, for what follows `cursor`: nothing has come yet, so nothing is lost by it."""
        self._feed.history.floor_id = cursor
        self._fresh = True
        if self._subscription is not None:
            self._subscription.close(SourceProblem.REPLACED)

    def continues(self) -> None:
        """The history is not ours alone: others have read it, so the first connection must prove
        itself too.
        """
        self._fresh = False

    def reject(self, credential: Credential) -> None:
        """Upstream has answered 401: whoever holds this credential is out, others stay."""
        self._outside.identities.rejected(credential)
        self._expel(
            credential, Refusal(RefusalCode.INVALID_CREDENTIAL, "The API refuses this credential.")
        )

    def forbid(self, credential: Credential) -> None:
        """Upstream has answered 403: whoever reads this stream with this credential is out. It may
        be good for others.
        """
        self._outside.identities.undecided(credential)
        refusal = Refusal(*_FORBIDDEN)
        self._feed.host.forbidden(self._feed.key, credential, refusal)
        self._expel(credential, refusal)

    def _expel(self, credential: Credential, refusal: Refusal) -> None:
        self.drop(credential)
        self._feed.refuse_joining(refusal, credential)
        self._feed.end_all(CloseReason.CREDENTIAL_REVOKED, credential)

    @property
    def accepted(self) -> Credential | None:
        """The credential that upstream accepted last, for this feed."""
        return self._accepted

    def drop(self, credential: Credential) -> None:
        """This credential may no longer be used here: go on with somebody else's."""
        if self._accepted == credential:
            self._accepted = None
            if self._subscription is not None:  # the next one proves that nothing was lost by it
                self._subscription.close(SourceProblem.REPLACED)

    def check_idle(self, now_s: float) -> float:
        """Close a connection that has been silent for too long. How long it may still be silent;
        infinite where none is open.
        """
        subscription = self._subscription
        if subscription is None:
            return inf
        left_s = self.heard_at_s + subscription.idle_timeout_s - now_s
        if left_s < 0:
            self.heard_at_s = now_s
            subscription.close(SourceProblem.IDLE)
        return left_s

    def _plan(self) -> ResumePlan:
        if self._cursor_rejected:
            return ResumePlan(b"")
        if self._fresh:
            return ResumePlan(self._feed.history.floor_id)
        return self._feed.history.plan_resume()

    async def _connect(self, credential: Credential, plan: ResumePlan) -> None:
        """Open a subscription and read it to its end, which is a SourceFailure."""
        feed, outside = self._feed, self._outside
        self.state = "opening"
        fresh, asked_at_s = self._fresh, feed.host.clock()
        subscription = await outside.source.open(feed.key, credential, plan.cursor)
        self._subscription = subscription
        self.state = "open"
        self.heard_at_s = feed.host.clock()
        self._accepted = credential
        outside.identities.accepted(credential, self.heard_at_s - asked_at_s)
        # What comes by it goes to all, so it is checked for as long as it comes, whoever stays.
        if not outside.identities.hold(credential, Identity(feed.key.identity)):
            self._expel(credential, Refusal(*_WITHDRAWN, retry_after_s=1.0))
            raise SourceFailure(SourceProblem.REPLACED, "its credential was withdrawn")
        if self._fresh and not fresh:
            raise SourceFailure(SourceProblem.REPLACED, "another cursor came while it opened")
        rejected, self._cursor_rejected = self._cursor_rejected, False
        self._cursor_doubted = False
        if rejected and not self._fresh:
            subscription, plan = await self._after_all(credential, subscription)
            rejected = not plan.cursor
        continuity = Continuity(
            feed.history, plan, outside.new_epoch, fresh=self._fresh and not rejected
        )
        if rejected and self._fresh:  # whoever comes with that cursor is told
            feed.history.retire(feed.history.floor_id)
        if not rejected or feed.state is FeedState.OPEN:  # and whoever is here already
            before_bytes = feed.history.memory_bytes
            feed.publish(continuity.opened(self.heard_at_s))
            feed.host.grown(feed.history.memory_bytes - before_bytes)
        self._fresh = False
        feed.opened()
        await self._read(subscription, continuity, Doubt(feed, outside, credential, plan.cursor))

    async def _read(
        self, subscription: Subscription, continuity: Continuity, doubt: Doubt
    ) -> Never:
        take = partial(self._take, continuity)
        while True:
            for event in await subscription.read(take):
                if not self._has_room(event):
                    await self._make_room()
                if continuity.in_doubt:
                    proved = await doubt.proves(event)
                    self._insist_on(doubt.credential)
                    continuity.settle(proved=proved)
                self._append(continuity, event)

    async def _after_all(
        self, credential: Credential, without: Subscription
    ) -> tuple[Subscription, ResumePlan]:
        """Upstream has refused the cursor twice and answers without it: it may be well now, with
        the cursor too. What is open stays so meanwhile, so that nothing more is lost if not.
        """
        plan = self._feed.history.plan_resume()
        subscription = await Doubt(self._feed, self._outside, credential, plan.cursor).opens()
        if subscription is None:
            subscription, plan = without, ResumePlan(b"")
        else:
            without.close()
        self._subscription = subscription
        self._insist_on(credential)
        return subscription, plan

    def _insist_on(self, credential: Credential) -> None:
        """Take nothing, and tell no gap, by an answer to a credential that lost its right while it
        asked: the next one is answered as well.
        """
        if self._accepted != credential:
            raise SourceFailure(SourceProblem.REPLACED, "its credential was withdrawn meanwhile")

    def _take(self, continuity: Continuity, events: Sequence[Event]) -> Sequence[Event]:
        """Events, in the turn in which they came; returns those that wait for room or for proof."""
        self.attempt = 0
        self.heard_at_s = self._feed.host.clock()
        for number, event in enumerate(events):
            if continuity.in_doubt or not self._has_room(event):
                return events[number:]
            self._append(continuity, event)
        return ()

    def _append(self, continuity: Continuity, event: Event) -> None:
        feed, history = self._feed, self._feed.history
        if feed.state is FeedState.CLOSED:  # by a share that has yet to stop us: counted already
            return
        before_bytes = history.memory_bytes
        entries = continuity.take(event, self.heard_at_s)
        feed.publish(entries)
        feed.host.grown(history.memory_bytes - before_bytes)
        for entry in entries:
            self._unwritten_bytes += len(entry.frame)

    def _has_room(self, event: Event) -> bool:
        """Whether the history can take an event, and whatever may come with it, without letting go
        of anything that is still to be written to those who keep up.
        """
        history = self._feed.history
        unwritten = history.top - self._feed.fanout.flushed
        if unwritten <= 0:
            self._unwritten_bytes = 0
            return True
        size_bytes = self._unwritten_bytes + 2 * len(event.data or b"") + _OVERHEAD_BYTES
        limits = history.limits
        fits = unwritten + 2 <= limits.max_events and size_bytes <= limits.max_bytes
        return fits and not (event.id and event.id in history)

    async def _make_room(self) -> None:
        """Let what has come be written to everybody before the history must let go of some of it:
        a burst over its bounds, or a new epoch in it, would be a gap for readers who keep up.
        """
        await asyncio.sleep(0)  # the flush is due in this turn of the loop
        history, fanout = self._feed.history, self._feed.fanout
        while fanout.flushed < history.top:  # noqa: ASYNC110 - it is interrupted, or the log slow
            await asyncio.sleep(_FLUSH_POLL_S)
        self._unwritten_bytes = 0

    async def _lost(self, failure: SourceFailure) -> None:
        """An open connection has ended: wait, then ask again. The clients stay."""
        self._feed.meter.reconnect(failure.problem)
        if failure.problem is SourceProblem.REPLACED:
            return
        retry_s = self._subscription.retry_s if self._subscription is not None else None
        await self._wait(failure.retry_after_s or retry_s)

    async def _wait(self, hint_s: float | None) -> None:
        self.state = "waiting"
        outside = self._outside
        delay_s = outside.backoff.delay_s(self.attempt, hint_s, outside.uniform)
        self.attempt += 1
        await asyncio.sleep(delay_s)

    async def _refused(self, failure: SourceFailure, credential: Credential) -> bool:
        """Upstream didn't open. Whether to go on."""
        feed, problem = self._feed, failure.problem
        if problem is SourceProblem.UNAUTHORIZED:
            self.reject(credential)
            return True
        if problem is SourceProblem.FORBIDDEN:
            self.forbid(credential)
            return True
        self._outside.identities.undecided(credential)
        if problem is SourceProblem.CURSOR_REJECTED and not self._cursor_rejected:
            # A cursor of ours has come from upstream: said once, this may be a deployment of theirs
            # that answers 404 for a moment, and to ask without it would lose what it missed.
            self._cursor_rejected = self._fresh or self._cursor_doubted
            self._cursor_doubted = not self._cursor_rejected
            if self._cursor_rejected:
                return True
        elif self._cursor_rejected and problem in _REFUSED_AS_WELL:
            self._cursor_rejected = False  # so the cursor was not the reason
        refusal = _REFUSALS.get(problem, _UNAVAILABLE)
        if problem is SourceProblem.ENDED:
            feed.end_all(CloseReason.UPSTREAM_ENDED)
            self._give_up(refusal, self._outside.backoff.max_s)
            return False
        self._outside.observer.note(
            "warning",
            "upstream.refused",
            stream=feed.key.stream.name,
            problem=problem.value,
            status=failure.status,
            detail=failure.detail,
        )
        if feed.state is FeedState.OPENING:
            hold_s = self._outside.backoff.delay_s(
                self.attempt, failure.retry_after_s, self._outside.uniform
            )
            self._give_up(refusal, hold_s)
            return False
        feed.meter.reconnect(problem)
        await self._wait(failure.retry_after_s)
        return True

    def _give_up(self, refusal: tuple[RefusalCode, str], hold_s: float) -> None:
        self.hold_s = hold_s
        self.refusal = Refusal(*refusal, retry_after_s=hold_s)
        self._feed.refuse_joining(self.refusal)


_WITHDRAWN = (
    RefusalCode.UPSTREAM_UNAVAILABLE,
    "What this credential may read changed while the stream opened; connect again.",
)
_UNAVAILABLE = (
    RefusalCode.UPSTREAM_UNAVAILABLE,
    "The API can't be reached just now; try again after the time in Retry-After.",
)
_FORBIDDEN = (
    RefusalCode.FORBIDDEN,
    "The API does not let this credential read this stream.",
)
# What an upstream that is there says to a request without a cursor.
_REFUSED_AS_WELL = (SourceProblem.CURSOR_REJECTED, SourceProblem.UNUSABLE)
_REFUSALS = {
    SourceProblem.ENDED: (RefusalCode.UPSTREAM_ENDED, "The API has ended this stream."),
    SourceProblem.UNUSABLE: (
        RefusalCode.UPSTREAM_ERROR,
        "The API gave an answer that is no event stream; the relay's log says which.",
    ),
    SourceProblem.CURSOR_REJECTED: (
        RefusalCode.UPSTREAM_ERROR,
        "The API refused the request for this stream; the relay's log says more.",
    ),
}
