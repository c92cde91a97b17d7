"""The ledger: a feed's history held against the log that replicas share, so that the two stay one.

As long as they are one, offsets and epoch mean the same in every replica. Where they have parted
(the server was flushed or rolled back, somebody went on alone), the log is taken as it is, and each
subscriber finds its place in it by id.

A log's name is the epoch of its numbering and, after a point, one of its own: the server may be
flushed, and begun anew by a replica that knew less and numbers other events from there. Only a log
that is known by name is read on from where we stand; another is held against us from its start.
"""

from collections.abc import Awaitable, Callable, Sequence

from lebureau_relay.core.event import Entry, GapCause
from lebureau_relay.core.history import History, Standing
from lebureau_relay.relay.feed import Feed
from lebureau_relay.relay.ports import Broker, LogPage, Verdict
from lebureau_relay.relay.subscriber import State, Subscriber


class Ledger:
    """One feed's history and its log. Every method that waits may raise BrokerDown."""

    def __init__(
        self,
        feed: Feed,
        broker: Broker,
        name: str,
        new_history: Callable[[str], History],
        new_epoch: Callable[[], str],
    ) -> None:
        self._feed = feed
        self._broker = broker
        self._name = name
        self._new_history = new_history
        self._new_epoch = new_epoch
        self.logged = 0  # up to this offset, log and history are known to be the same
        self.log = ""  # the log's name

    async def read(self) -> bool:
        """Follow: take what the log has more than we. Whether there is a log."""
        # What the log took of us and we took back since, as an owner that was replaced, counts as
        # unread.
        known = min(self.logged, self._feed.history.top)
        # One entry that we know, so that a log which was rolled back and has grown again shows.
        after = max(known - 1, 0)
        page = await self._broker.read(self._name, after)
        if page is None:
            return False  # its owner is about to begin it, and will say so
        if after and (page.epoch != self.log or page.top < known or not self._fits(page)):
            page = await self._broker.read(self._name, 0)
        if page is not None:
            self._adopt(page)
        return page is not None

    async def sync(self, token: str, before_change: Callable[[], Awaitable[None]]) -> bool:
        """Own: take what the log has more, bring to it what we have more. Whether that worked.

        `before_change` is awaited where another history is about to take the place of ours, or the
        log brings what upstream may have been asked for already: it would come twice.
        """
        feed = self._feed
        page = await self._broker.read(self._name, 0)
        fits = page is not None and self._fits(page)
        if page is None or not (fits or self._reaches(page)):
            if await self._begin(token) is not Verdict.TAKEN:
                return False
        else:
            if not fits or page.top > feed.history.top:
                await before_change()
            self._adopt(page)
        while feed.history.top > self.logged:  # a source that runs goes on saying things
            batch = feed.history.since(self.logged)
            # Where the ring no longer reaches down to the log, the log begins anew.
            in_reach = batch[0].offset == self.logged + 1
            bring = self.append(token, batch) if in_reach else self._begin(token)
            if await bring is not Verdict.TAKEN:
                return False
        return True

    async def append(self, token: str, batch: Sequence[Entry]) -> Verdict:
        """Add the history's next entries to the log."""
        if self._feed.history.epoch != _epoch(self.log):  # a new numbering: a new log
            return await self._begin(token)
        verdict = await self._broker.append(self._name, token, self.log, self.logged, batch)
        if verdict is Verdict.TAKEN:
            self.logged = batch[-1].offset
        return verdict

    async def _begin(self, token: str) -> Verdict:
        """No log, or one that ours doesn't continue: it begins with what we hold."""
        history = self._feed.history
        held = history.since(0)
        base, log = history.first - 1, f"{history.epoch}.{self._new_epoch()}"
        verdict = await self._broker.begin(self._name, token, log, base, history.floor_id, held)
        if verdict is Verdict.TAKEN:
            self.logged = held[-1].offset if held else base
            self.log = log
        return verdict

    def _fits(self, page: LogPage) -> bool:
        """Whether the same entries stand at the same offsets, without a hole between log and
        history.
        """
        history = self._feed.history
        if _epoch(page.epoch) != history.epoch:
            return False
        if page.entries and page.entries[0].offset > history.top:
            # Nothing to compare: it is what follows if it is the log that we know. If there is a
            # hole, the log has let go what we lack.
            return page.epoch == self.log and page.entries[0].offset == history.top + 1
        if not self._reaches(page):  # nor here: it may have grown, or begun anew, without us
            return page.epoch == self.log and page.top <= self.logged
        return all(
            entry.frame == history.entry(entry.offset).frame
            for entry in page.entries
            if history.first <= entry.offset <= history.top
        )

    def _reaches(self, page: LogPage) -> bool:
        """Whether a log of our numbering comes up to the oldest entry that we could hold against
        it. Another numbering is never behind.
        """
        history = self._feed.history
        behind = _epoch(page.epoch) == history.epoch and page.top < history.first
        return not (behind and len(history))

    def _adopt(self, page: LogPage) -> None:
        """Take what the log has more; where it doesn't continue ours, take it whole."""
        feed = self._feed
        if self._fits(page):
            more = [entry for entry in page.entries if entry.offset > feed.history.top]
            before_bytes = feed.history.memory_bytes
            for entry in more:
                feed.history.append(entry)
            feed.host.grown(feed.history.memory_bytes - before_bytes)
            feed.accept(more)
        else:
            history = self._new_history(_epoch(page.epoch))
            history.load(page.base, page.floor_id, page.top, page.entries)
            self._rebase(history)
        # Alone we may have seen more than the log has; it will come there too, and be compared.
        self.logged = page.top
        self.log = page.epoch
        feed.owner.continues()

    def _rebase(self, history: History) -> None:
        """Another history takes the place of ours: each subscriber goes on from its own id."""
        feed = self._feed
        old, feed.history = feed.history, history
        history.succeed(old)
        feed.host.grown(history.memory_bytes - old.memory_bytes)
        feed.fanout.restart(history.top)
        feed.shown = history.top
        waiting = (State.WAITING, State.ENDING, State.GONE)
        for subscriber in [one for one in feed.subscribers if one.state not in waiting]:
            self._find_place(subscriber, old)
        feed.catchup.rebased(history.top)

    def _find_place(self, subscriber: Subscriber, old: History) -> None:
        feed, history = self._feed, self._feed.history
        last_id = old.place_id(subscriber.cursor)
        standing, offset = history.find(last_id)
        told = len(history) and history.entry(history.first).gap is GapCause.UPSTREAM
        if standing is Standing.HELD and _alike(old, subscriber.cursor, history, offset):
            feed.move(subscriber, offset)
        elif standing is Standing.UNKNOWN:  # it may have seen more than the log has yet
            feed.ask_upstream(subscriber, last_id)
        elif told or not (old.top or old.floor_id):
            # The new numbering begins with a gap, which says it all; or it has had nothing that
            # could be repeated.
            feed.move(subscriber, history.first - 1)
        else:
            feed.resume_with_gap(subscriber, GapCause.DEGRADED, history.top, last_id)


def _alike(old: History, was: int, new: History, now: int) -> bool:
    """Whether an id stands for the same content in both, as far as both still hold it."""
    while old.first <= was <= old.top and not old.entry(was).from_upstream:
        was -= 1  # a gap has the id of the place before it
    if not (old.first <= was <= old.top and new.first <= now <= new.top):
        return True
    return old.entry(was).frame == new.entry(now).frame


def _epoch(log: str) -> str:
    """The numbering that a log continues, of the log's name."""
    return log.partition(".")[0]
