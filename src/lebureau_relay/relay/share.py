"""A feed's part in the deployment: who runs its source, and how its history follows the log that
replicas share.

One replica holds the feed's lease and is its owner: it runs the source and appends to the log. The
others follow: they listen, and read the log. Where the server that they share is away, each goes on
alone (solo): availability first, and what it can't know is told by a gap when the server is back. A
lease is not a lock: every append proves it anew, so an owner that was asleep can believe what it
likes.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lebureau_relay.core.event import Entry
from lebureau_relay.core.history import History
from lebureau_relay.relay.feed import Feed, FeedState
from lebureau_relay.relay.ledger import Ledger
from lebureau_relay.relay.owner import Outside
from lebureau_relay.relay.ports import Broker, BrokerDown, FeedKey, Verdict

# A lease that became free is asked for after up to so long, so that replicas don't all ask in one
# instant.
_FREE_JITTER_S = 0.02
# Without the server each replica opens its own upstream; spread over so long, upstream doesn't meet
# all of them at once.
_SOLO_SPREAD_S = 1.0
# An owner that was refused by a log that moved reads it again at once; if that happens again and
# again, not so fast.
_RETRY_S = 0.05
# An owner that has not appended for so long is told the log's top as it is. Where that is another,
# the server was rolled back, and whoever looks there now lacks what we have shown.
_AT_REST_S = 0.5


class Role(StrEnum):
    """What this replica is to a feed; the label of `feeds`."""

    OWNER = "owner"
    FOLLOWER = "follower"
    SOLO = "solo"


@dataclass(frozen=True, slots=True)
class Shared:
    """What every feed of a hub shares with the deployment: its broker, and the hash that names
    feeds.
    """

    broker: Broker
    name: Callable[[FeedKey], str]


class Share:
    """One feed's member at the broker. `run` is its life; the hub closes the feed when it returns.

    `new_history` makes an empty history with an epoch.
    """

    def __init__(
        self,
        feed: Feed,
        shared: Shared,
        outside: Outside,
        new_history: Callable[[str], History],
    ) -> None:
        self.role = Role.FOLLOWER
        self.token: str | None = None
        self._holder = ""  # who was last seen to hold the lease, if it is another
        self._feed = feed
        self._name = shared.name(feed.key)
        self._broker = shared.broker
        self._observer = outside.observer
        self._uniform = outside.uniform
        self._new_epoch = outside.new_epoch
        self._ledger = Ledger(feed, shared.broker, self._name, new_history, outside.new_epoch)
        self._nudged = False
        self._rested: asyncio.Future[None] | None = None  # what `_rest` waits for
        self._behind = False  # the log has something that the history lacks
        self._give = False  # another replica wants the lease more than we do
        self._given = False  # it was given to one: whoever asks first must not be us
        self._free_since_s: float | None = None
        self._had_owner = False  # another replica was seen to hold the lease
        self._appended_at_s = 0.0
        self._moved = False  # the log is not what we left, though the lease is ours
        self._pending: list[Entry] = []  # of the source, not yet taken by the log
        self._source: asyncio.Task[None] | None = None

    @property
    def owner_elsewhere(self) -> str:
        """The replica that owns the feed, where that is another and known; empty otherwise."""
        return self._holder if self.role is Role.FOLLOWER else ""

    # -- called back by the broker

    @property
    def in_use(self) -> bool:
        """Whether anybody here reads the feed, or waits to."""
        return self._feed.in_use

    def look_again(self) -> None:
        """What was said of the log may have been missed."""
        self._behind = True
        self._nudge()

    def log_moved(self, epoch: str, top: int) -> None:
        """The log's top is now there."""
        if (epoch, top) == (self._ledger.log, self._ledger.logged):
            return
        if self.role is Role.FOLLOWER:
            self._free_since_s = None  # somebody appends
            self._behind = True
            self._nudge()
        elif self._feed.host.clock() - self._appended_at_s > _AT_REST_S:
            self._moved = True
            self._nudge()

    def lease_free(self) -> None:
        """Nobody holds the lease."""
        if self.role is Role.FOLLOWER and self._free_since_s is None:
            self._free_since_s = self._feed.host.clock()
            self._nudge()

    def lease_held(self, replica: str) -> None:
        """Another replica holds the lease."""
        self._holder = replica

    def lease_lost(self) -> None:
        """The lease is another's, or nobody's."""
        self.token = None
        self._nudge()

    def wanted_elsewhere(self) -> None:
        """Another replica has streams of this feed."""
        if self.role is Role.OWNER and not self._feed.in_use:
            self._give = True
            self._nudge()

    def broker_changed(self) -> None:
        """The server has gone or come back."""
        self._nudge()

    def joined(self) -> None:
        """Somebody here reads the feed, or waits to: a lease that nobody holds is worth having."""
        if self._free_since_s is not None:
            self._nudge()

    def left(self) -> None:
        """The last stream here has ended: whoever still has some may have the lease at once."""
        if self.role is Role.OWNER:
            self._give = True
            self._nudge()

    # -- life

    async def run(self) -> None:
        """Own, follow or go alone, until the source ends for good or the task is cancelled."""
        self._broker.enter(self._name, self)
        try:
            while self._source is None or not self._source.done():
                try:
                    await self._serve()
                except BrokerDown:
                    await self._go_alone()
            self._source.result()
        finally:
            self._broker.leave(self._name)
            await self._stop_source()
            await self._give_back()

    async def _serve(self) -> None:
        """One term with the server: as owner if the lease can be had, as follower otherwise."""
        feed = self._feed
        given, self._given = self._given, False
        # Before the question: that the lease became free while we asked must not be forgotten.
        free_since_s, self._free_since_s = self._free_since_s, None
        token = None if given else await self._broker.take(self._name, wanted=feed.in_use)
        if token is None:
            self._had_owner = True
            await self._follow()
            return
        self._free_since_s = None
        self.token = token
        if not await self._ledger.sync(token, self._stop_source):
            await asyncio.sleep(_RETRY_S * self._uniform())
            return
        if self._had_owner:
            now_s = feed.host.clock()
            self._observer.takeover(now_s - (free_since_s or now_s))
            self._had_owner = False
        self.role = Role.OWNER
        feed.history.name = self._new_epoch()
        feed.publish = self._append
        # What was on its way when the server stumbled is in the log by now.
        self._pending = []
        self._moved = False
        self._appended_at_s = feed.host.clock()
        feed.accept(feed.history.since(feed.shown))
        self._start_source()
        await self._own(token)

    async def _own(self, token: str) -> None:
        """Hold the lease: append what the source brings, until it ends, or the lease or the server
        is lost.
        """
        while self.token == token:
            await self._rest()
            if self._source is not None and self._source.done():
                return
            if not self._broker.is_up():
                raise BrokerDown
            if self._pending and await self._append_pending(token) is Verdict.FENCED:
                break
            if self._moved:  # the lease is ours still: set the log right, while the source goes on
                return
            if self._give and await self._hand_over(token):
                break
        await self._retire()

    async def _append_pending(self, token: str) -> Verdict:
        """Bring what the source said to the log, then to the subscribers."""
        batch, self._pending = self._pending, []
        verdict = None
        try:
            verdict = await self._ledger.append(token, batch)
        finally:
            if verdict is not Verdict.TAKEN:
                self._pending = batch + self._pending
        self._moved = verdict is Verdict.MOVED
        if verdict is Verdict.TAKEN:
            self._appended_at_s = self._feed.host.clock()
            self._feed.accept(batch)
            if self._pending:
                self._nudge()
        return verdict

    async def _hand_over(self, token: str) -> bool:
        """Give the lease to a replica that has streams, if one wants it."""
        self._give = False
        if self._feed.in_use or not await self._broker.give(self._name, token, if_wanted=True):
            return False
        self.token = None
        self._given = True
        return True

    async def _retire(self) -> None:
        """No longer the owner: end the source at once, and what the log has not taken was never
        said.
        """
        self.token = None
        self.role = Role.FOLLOWER
        self._had_owner = True
        await self._stop_source()
        self._pending = []
        feed = self._feed
        before_bytes = feed.history.memory_bytes
        feed.history.truncate(feed.shown)
        feed.host.grown(feed.history.memory_bytes - before_bytes)

    async def _follow(self) -> None:
        """Listen, and read the log when it has moved, until the lease is free or the server is
        gone.
        """
        feed = self._feed
        # Alone until now, or an owner whose source was stopped before its log could be set right:
        # what nobody has been shown must not stay in the ring, where the log's word would be taken
        # for known.
        await self._retire()
        self._behind = True
        while self._free_since_s is None or not feed.in_use:
            if self._behind:
                self._behind = False
                await self._read_log()
            await self._rest()
            if not self._broker.is_up():
                raise BrokerDown
        await asyncio.sleep(_FREE_JITTER_S * self._uniform())

    async def _read_log(self) -> None:
        """Read what the log has more than we; the first time, whoever waits may come in."""
        if await self._ledger.read() and self._feed.state is FeedState.OPENING:
            self._feed.opened()

    async def _go_alone(self) -> None:
        """The server gives no answer: serve our own streams from our own upstream until it does."""
        feed = self._feed
        if (
            self._broker.is_up()
        ):  # it stumbled, or we did: ask again before believing that it is away
            await asyncio.sleep(_RETRY_S)
            return
        follower = self.role is Role.FOLLOWER
        self.role = Role.SOLO
        feed.history.name = self._new_epoch()
        feed.publish = feed.accept
        # All that the ring has: where the log was read since, what was pending stands elsewhere.
        self._pending = []
        feed.accept(feed.history.since(feed.shown))
        if follower and feed.state is FeedState.OPEN:
            await asyncio.sleep(_SOLO_SPREAD_S * self._uniform())
        self._start_source()
        while not self._broker.is_up() and not (self._source is None or self._source.done()):
            await self._rest()

    def _nudge(self, _: object = None) -> None:
        """Something has happened that the life below must look at."""
        self._nudged = True
        if self._rested is not None and not self._rested.done():
            self._rested.set_result(None)

    async def _rest(self) -> None:
        """Until somebody nudges us, or the source ends. A bare future, since an owner rests after
        each batch.
        """
        if not self._nudged:
            self._rested = asyncio.get_running_loop().create_future()
            try:
                await self._rested
            finally:
                self._rested = None
        self._nudged = False

    # -- the source

    def _append(self, entries: Sequence[Entry]) -> None:
        """The source has said something: it goes to the log before anybody sees it."""
        if entries:
            self._pending.extend(entries)
            self._nudge()

    def _start_source(self) -> None:
        if self._source is None:
            self._source = asyncio.ensure_future(self._feed.owner.run())
            self._source.add_done_callback(self._nudge)

    async def _stop_source(self) -> None:
        source, self._source = self._source, None
        if source is not None and not source.done():
            source.cancel()
            await asyncio.wait({source})

    async def _give_back(self) -> None:
        token, self.token = self.token, None
        if token is not None and self._broker.is_up():
            try:
                await self._broker.give(self._name, token, if_wanted=False)
            except BrokerDown:
                return  # it runs out by itself
