"""Replicas of one process that share a server, on a loop whose time stands still.

Every replica is a whole hub; between it and the server lies a road that can be slow, closed, or
lose what comes back. What a closed road holds arrives when it opens again, as TCP does it: that is
how a stale owner's last word reaches a server that has long had another owner.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.relay.api import Api, Line
from tests.relay.house import ALICE, KEY, Client, House, Journal, Register
from tests.relay.loop import StillLoop

from lebureau_relay.broker.memory import MemoryBroker, MemoryServer
from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Entry
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.hub import Hub, HubLimits
from lebureau_relay.relay.owner import Outside
from lebureau_relay.relay.ports import BrokerDown, FeedKey, LogPage, Member, Verdict
from lebureau_relay.relay.share import Shared
from lebureau_relay.relay.turns import Turns

LEASE_S = 6.0
# As on Redis: how long a call waits, how often a server that is away is asked, and what a tick is
# of a lease.
CALL_TIMEOUT_S = 1.0
PROBE_S = 0.25
TICK_S = LEASE_S * 0.15
LATENCY_S = 0.001


class Ear:
    """A member as the server sees it: what it is told it hears a moment later, or never."""

    def __init__(self, seat: "Seat", feed: str, member: Member) -> None:
        self.member = member
        self._seat = seat
        self._feed = feed

    @property
    def token(self) -> str | None:
        return self.member.token

    @property
    def in_use(self) -> bool:
        return self.member.in_use

    def look_again(self) -> None:
        self._hear(self.member.look_again)

    def log_moved(self, epoch: str, top: int) -> None:
        self._hear(self.member.log_moved, epoch, top)

    def lease_free(self) -> None:
        self._hear(self.member.lease_free)

    def lease_held(self, replica: str) -> None:
        self._hear(self.member.lease_held, replica)

    def lease_lost(self) -> None:
        self._hear(self._about, self.member.token, self.member.lease_lost)

    def wanted_elsewhere(self) -> None:
        self._hear(self._about, self.member.token, self.member.wanted_elsewhere)

    def _about(self, token: str | None, word: Any) -> None:
        """What a tick says of a lease holds only while that is still the lease."""
        if self.member.token == token:
            word()

    def _hear(self, word: Any, *facts: object) -> None:
        seat = self._seat
        if seat.road.is_set() and (seat.ticking or not seat.deaf):
            asyncio.get_running_loop().call_later(LATENCY_S, self._heard, word, *facts)

    def _heard(self, word: Any, *facts: object) -> None:
        if self._seat.ears.get(self._feed) is self:
            word(*facts)


class Seat(MemoryBroker):
    """A replica's seat behind a road; with a closed one it behaves as the seat at Redis does."""

    def __init__(self, server: MemoryServer, replica: str) -> None:
        super().__init__(server, replica)
        self.road = asyncio.Event()
        self.road.set()
        self.deaf = False  # what others say is lost on the way; a tick finds it out
        self.ticking = False
        self.lost_answers = 0  # of the next calls: done, and nobody learns of it
        self.drop = 0  # so many of the next calls never arrive
        self.up = True
        self.ears: dict[str, Ear] = {}
        self._travels: set[asyncio.Task[Any]] = set()

    def is_up(self) -> bool:
        return self.up

    def changed(self) -> None:
        """The server's switch: connections break, so it is noticed at once."""
        if not self._server.up:
            self._down()

    def enter(self, feed: str, member: Member) -> None:
        self.ears[feed] = Ear(self, feed, member)
        super().enter(feed, self.ears[feed])  # an Ear does not change what a Member says

    def leave(self, feed: str) -> None:
        self.ears.pop(feed, None)
        super().leave(feed)

    async def take(self, feed: str, *, wanted: bool) -> str | None:
        return await self._travel(super().take(feed, wanted=wanted))

    async def give(self, feed: str, token: str, *, if_wanted: bool) -> bool:
        return await self._travel(super().give(feed, token, if_wanted=if_wanted))

    async def read(self, feed: str, after: int) -> LogPage | None:
        return await self._travel(super().read(feed, after))

    async def append(
        self, feed: str, token: str, epoch: str, after: int, entries: Sequence[Entry]
    ) -> Verdict:
        return await self._travel(super().append(feed, token, epoch, after, entries))

    async def begin(
        self,
        feed: str,
        token: str,
        epoch: str,
        base: int,
        floor_id: bytes,
        entries: Sequence[Entry],
    ) -> Verdict:
        return await self._travel(super().begin(feed, token, epoch, base, floor_id, entries))

    async def keep(self) -> None:
        """The life of a seat: ticks while the server answers, probes while it doesn't."""
        while True:
            await asyncio.sleep(TICK_S if self.up else PROBE_S)
            if self.road.is_set() and self._server.up:
                if self.up:
                    self.ticking = True
                    self.tick()
                    self.ticking = False
                else:
                    self.up = True
                    self._tell()
            elif self.up:  # the tick's call times out, and so does the look whether that is true
                await asyncio.sleep(2 * CALL_TIMEOUT_S)
                if not self.road.is_set():
                    self._down()

    async def stop(self) -> None:
        for travel in self._travels:
            travel.cancel()
        await asyncio.gather(*self._travels, return_exceptions=True)

    async def _travel(self, call: Coroutine[Any, Any, Any]) -> Any:
        if not self.up:
            call.close()
            raise BrokerDown
        travel = asyncio.ensure_future(self._carry(call))
        self._travels.add(travel)
        travel.add_done_callback(self._travels.discard)
        travel.add_done_callback(_forget)  # whoever asked may be gone by then
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await asyncio.shield(travel)
        except TimeoutError:
            raise BrokerDown from None

    async def _carry(self, call: Coroutine[Any, Any, Any]) -> Any:
        """There, done, and back; a road that closes holds what is on it."""
        try:
            await asyncio.sleep(LATENCY_S)
            await self.road.wait()
            if self.drop:
                self.drop -= 1
                await asyncio.sleep(2 * CALL_TIMEOUT_S)
                raise BrokerDown
            answer = await call
        finally:
            call.close()
        await asyncio.sleep(LATENCY_S)
        await self.road.wait()
        if self.lost_answers:
            self.lost_answers -= 1
            await asyncio.sleep(2 * CALL_TIMEOUT_S)
        return answer

    def die(self) -> None:
        """As after kill -9: nothing is said or given back any more."""
        self.road.clear()
        self.up = False

    def _down(self) -> None:
        if self.up:
            self.up = False
            self._tell()

    def _tell(self) -> None:
        for ear in list(self.ears.values()):
            if self.up:
                ear.member.look_again()
            ear.member.broker_changed()


def _forget(travel: asyncio.Task[Any]) -> None:
    with suppress(BrokerDown, asyncio.CancelledError):
        travel.result()


class Tap:
    """The shared upstream as one replica asks it: who opened what stays known."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.lines: list[Line] = []

    async def open(self, key: FeedKey, credential: Credential, cursor: bytes) -> Line:
        line = await self._api.open(key, credential, cursor)
        self.lines.append(line)
        return line

    @property
    def listening(self) -> list[Line]:
        return [line for line in self.lines if line.open]


class _Register(Register):
    async def ensure_fresh(self, credential: Credential) -> None:
        """Upstream would accept it; asking it is the register's own business."""


class _Journal(Journal):
    def __init__(self) -> None:
        super().__init__()
        self.takeovers: list[float] = []

    def takeover(self, seconds: float) -> None:
        self.takeovers.append(seconds)


@dataclass(repr=False)
class Replica(House):
    """A house with a seat at the server."""

    server: MemoryServer = field(kw_only=True)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __post_init__(self) -> None:
        self.register = _Register()
        self.journal = _Journal()
        self.clients: list[Client] = []
        self._epochs = 0
        self.tap = Tap(self.api)
        self.seat = Seat(self.server, self.name)
        outside = Outside(
            self.tap,
            self.register,
            self.journal,
            self.backoff,
            lambda: self.jitter,
            self._new_epoch,
        )
        shared = Shared(self.seat, lambda key: f"{key.identity}/{key.stream.name}")
        self.hub = Hub(outside, self.timings, HubLimits(self.limits, self.total_bytes), shared)
        self.hub.clock = self.loop.time
        self.hub.turns = Turns(self.loop.time, nap=lambda _: None)
        self.hub.start()
        self._keeping = asyncio.ensure_future(self.seat.keep())

    @property
    def role(self) -> str:
        return self.feed.role

    async def close(self) -> None:
        """A clean stop: everything ends, the lease is given back."""
        closing = asyncio.ensure_future(self.hub.close())
        await self.loop.advance(5 * CALL_TIMEOUT_S)
        assert closing.done(), "it does not end"
        await closing
        self._keeping.cancel()
        await self.seat.stop()
        await self.settle()
        assert not self.tap.listening, "a subscription is left open"
        assert not +self.register.held, "a credential is still held"
        assert [note for note in self.journal.notes if note[0] == "error"] == []
        for client in self.clients:
            assert client.gone == 1, "a seat is given back once"


class Deployment:
    """One upstream, one server, and replicas by number."""

    def __init__(
        self,
        loop: StillLoop,
        size: int = 2,
        *,
        limits: HistoryLimits | None = None,
        timings: StreamTimings | None = None,
    ) -> None:
        self.loop = loop
        self.api = Api()
        self.limits = limits or HistoryLimits()
        self.timings = timings or StreamTimings(linger_s=60.0, catchup_timeout_s=2.0)
        self.server = MemoryServer(self.limits, LEASE_S, loop.time)
        self.replicas: list[Replica] = []
        self._made = 0
        for _ in range(size):
            self.start()

    def start(self) -> Replica:
        """One replica more."""
        self._made += 1
        made = Replica(
            self.loop,
            self.timings,
            self.limits,
            api=self.api,
            name=f"r{self._made}x",
            jitter=0.5,
            server=self.server,
        )
        self.replicas.append(made)
        return made

    async def stop(self, replica: Replica) -> None:
        """A replica leaves in good order."""
        self.replicas.remove(replica)
        await replica.close()

    async def close(self) -> None:
        for replica in list(self.replicas):
            replica.seat.road.set()
            await self.stop(replica)
        await self.loop.advance(3 * CALL_TIMEOUT_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks are left"
        assert self.loop.faults == []

    # -- what happens

    async def passes(self, seconds: float = 0.1) -> None:
        """Time, and everything that is due in it. The default is time for many calls."""
        await self.loop.advance(seconds)

    async def emit(self, *ids: int | str, seconds: float = 0.1) -> None:
        self.api.emit_ids(*ids)
        await self.passes(seconds)

    async def join(
        self, replica: Replica, cursor: str | None = None, who: Credential = ALICE
    ) -> Client:
        joining = replica.joining(cursor, who)
        await self.passes()
        return await joining

    def part(self, replica: Replica) -> None:
        """Cut a replica's road to the server; what is on it waits."""
        replica.seat.road.clear()

    async def heal(self, replica: Replica, seconds: float = 2 * LEASE_S) -> None:
        replica.seat.road.set()
        await self.passes(seconds)

    async def server_goes(self) -> None:
        """The server is killed, with all that it holds."""
        self.server.switch(False)
        self.server.flush()
        await self.passes(2.0)

    async def server_comes(self, seconds: float = 2 * LEASE_S) -> None:
        self.server.switch(True)
        await self.passes(seconds)

    # -- what can be seen

    @property
    def log(self) -> list[Entry]:
        """What the server holds of the one feed there is."""
        (feed,) = self.server.feeds.values()
        return [] if feed.log is None else feed.log.since(0)

    @property
    def logged(self) -> list[str]:
        return [entry.id.decode() for entry in self.log if entry.gap is None]

    @property
    def roles(self) -> list[str]:
        return [replica.role for replica in self.replicas]

    @property
    def owner(self) -> Replica:
        (owner,) = [one for one in self.replicas if one.hub._feeds and one.role == "owner"]
        return owner

    @property
    def upstreams(self) -> int:
        return len(self.api.listening)


__all__ = ["ALICE", "KEY", "LEASE_S", "Deployment", "Replica"]
