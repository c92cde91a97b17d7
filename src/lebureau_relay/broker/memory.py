"""Where replicas of one process meet: the same behaviour as on Redis, at the price of a dictionary.

It is what the contract suite holds Redis against, and what many hubs in one process share, so that
everything that replicas do to each other can be tried without a server, and without waiting for
one. A relay without `redis.url` needs none of it: its feeds are their own logs
(docs/decisions/0006).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from lebureau_relay.core.event import Entry
from lebureau_relay.core.history import History, HistoryLimits
from lebureau_relay.relay.ports import BrokerDown, Clock, LogPage, Member, Verdict


@dataclass(slots=True)
class _Feed:
    """What the server holds of one feed."""

    log: History | None = None
    base: int = 0
    floor_id: bytes = b""
    token: str = ""
    expires_s: float = 0.0
    fence: int = 0
    wanted: dict[str, float] = field(default_factory=dict)  # replica -> until when
    members: "dict[str, Member]" = field(default_factory=dict)


class MemoryServer:
    """What all brokers of a process share. `up` may be switched off, to see how they bear it."""

    def __init__(self, limits: HistoryLimits, lease_ttl_s: float, clock: Clock) -> None:
        self.up = True
        self.limits = limits
        self.lease_ttl_s = lease_ttl_s
        self.clock = clock
        self.feeds: dict[str, _Feed] = {}
        self.brokers: list[MemoryBroker] = []

    def feed(self, name: str) -> _Feed:
        """A feed as it stands now: a lease that has run out is nobody's."""
        feed = self.feeds.setdefault(name, _Feed())
        if feed.token and feed.expires_s <= self.clock():
            feed.token = ""
        return feed

    def switch(self, up: bool) -> None:  # noqa: FBT001 - it is a switch
        """Take the server away, or bring it back."""
        self.up = up
        for broker in self.brokers:
            broker.changed()

    def flush(self) -> None:
        """Forget everything, as FLUSHALL does; who listens goes on listening."""
        for feed in self.feeds.values():
            feed.log, feed.token, feed.wanted = None, "", {}


class MemoryBroker:
    """`relay.ports.Broker` within a process: one replica's seat at a MemoryServer."""

    def __init__(self, server: MemoryServer, replica: str) -> None:
        self._server = server
        self._replica = replica
        self._names: set[str] = set()
        server.brokers.append(self)

    def is_up(self) -> bool:
        """Whether the server answers."""
        return self._server.up

    def changed(self) -> None:
        """The server has gone or come back."""
        for name in list(self._names):
            self._server.feed(name).members[self._replica].broker_changed()

    def enter(self, feed: str, member: Member) -> None:
        """Call this member back from now on."""
        self._names.add(feed)
        self._server.feed(feed).members[self._replica] = member

    def leave(self, feed: str) -> None:
        """Stop calling back."""
        self._names.discard(feed)
        self._server.feed(feed).members.pop(self._replica, None)

    async def take(self, feed: str, *, wanted: bool) -> str | None:
        """A token if the lease was free or is ours; None if another has it."""
        held, server = self._feed(feed), self._server
        if held.token and not held.token.startswith(f"{self._replica}:"):
            if wanted:
                held.wanted[self._replica] = server.clock() + server.lease_ttl_s
            return None
        held.fence += 1
        held.token = f"{self._replica}:{held.fence}:{secrets.token_hex(4)}"
        held.expires_s = server.clock() + server.lease_ttl_s
        held.wanted.pop(self._replica, None)
        return held.token

    async def give(self, feed: str, token: str, *, if_wanted: bool) -> bool:
        """Give the lease back, or only if another replica wants it."""
        held = self._feed(feed)
        if held.token != token or (if_wanted and not self._wanted_elsewhere(held)):
            return False
        held.token = ""
        for member in list(held.members.values()):
            member.lease_free()
        return True

    async def read(self, feed: str, after: int) -> LogPage | None:
        """What the log holds after an offset."""
        held = self._feed(feed)
        if held.log is None:
            return None
        entries = tuple(held.log.since(max(after, held.log.first - 1)))
        return LogPage(held.log.epoch, held.base, held.floor_id, held.log.top, entries)

    async def append(
        self, feed: str, token: str, epoch: str, after: int, entries: Sequence[Entry]
    ) -> Verdict:
        """Add entries behind offset `after`."""
        held = self._feed(feed)
        if held.token != token:
            return Verdict.FENCED
        if held.log is None or held.log.epoch != epoch or held.log.top != after:
            return Verdict.MOVED
        self._add(held, entries)
        return Verdict.TAKEN

    async def begin(
        self,
        feed: str,
        token: str,
        epoch: str,
        base: int,
        floor_id: bytes,
        entries: Sequence[Entry],
    ) -> Verdict:
        """Replace the log by a new one."""
        held = self._feed(feed)
        if held.token != token:
            return Verdict.FENCED
        held.log = History(self._server.limits, epoch)
        held.log.load(base, floor_id, base, ())
        held.base, held.floor_id = base, floor_id
        self._add(held, entries)
        return Verdict.TAKEN

    def tick(self) -> None:
        """Renew what we hold and look at what we don't, as the replica does a few times within a
        lease.
        """
        server = self._server
        for name in list(self._names):
            if not server.up:
                return
            held = server.feed(name)
            member = held.members[self._replica]
            if member.token is None and not held.token:
                member.lease_free()
            elif member.token is None:
                member.lease_held(held.token.partition(":")[0])
                if member.in_use:
                    held.wanted[self._replica] = server.clock() + server.lease_ttl_s
            elif member.token != held.token:
                member.lease_lost()
            else:
                held.expires_s = server.clock() + server.lease_ttl_s
                if self._wanted_elsewhere(held):
                    member.wanted_elsewhere()
            if held.log is not None:
                member.log_moved(held.log.epoch, held.log.top)

    def _feed(self, name: str) -> _Feed:
        if not self._server.up:
            raise BrokerDown
        return self._server.feed(name)

    def _wanted_elsewhere(self, held: _Feed) -> bool:
        now_s = self._server.clock()
        held.wanted = {one: until_s for one, until_s in held.wanted.items() if until_s > now_s}
        return bool(held.wanted.keys() - {self._replica})

    def _add(self, held: _Feed, entries: Sequence[Entry]) -> None:
        log = held.log
        if log is None:
            return
        now_s = self._server.clock()
        for entry in entries:
            log.append(entry._replace(at_s=now_s))
        log.expire(now_s)
        for member in list(held.members.values()):
            member.log_moved(log.epoch, log.top)
