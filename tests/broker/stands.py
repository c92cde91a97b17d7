"""Where replicas meet in a test: brokers at one server, whichever it is, and members that keep
what they are told.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.broker.programs import eventually

from lebureau_relay.broker.memory import MemoryBroker, MemoryServer
from lebureau_relay.broker.redis import RedisBroker, RedisRules, connect
from lebureau_relay.core.event import Entry, GapCause
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.relay.ports import Broker

# Short enough for tests, long enough for a loaded machine: the lease lasts 1.2 s on the server and
# is renewed every 0.3 s.
LEASE_TTL_S = 2.0
LEASE_S = 0.6 * LEASE_TTL_S
TICK_S = 0.15 * LEASE_TTL_S
LIMITS = HistoryLimits(max_events=8, max_bytes=4096, max_age_s=60.0)


@dataclass
class Member:
    """A feed's part in the deployment that only listens to what the broker says."""

    token: str | None = None
    in_use: bool = False
    looks: int = 0
    tops: list[tuple[str, int]] = field(default_factory=list)
    free: int = 0
    lost: int = 0
    wanted: int = 0
    changes: int = 0
    held: set[str] = field(default_factory=set)

    def look_again(self) -> None:
        self.looks += 1

    def log_moved(self, epoch: str, top: int) -> None:
        self.tops.append((epoch, top))

    def lease_free(self) -> None:
        self.free += 1

    def lease_held(self, replica: str) -> None:
        self.held.add(replica)

    def lease_lost(self) -> None:
        self.lost += 1

    def wanted_elsewhere(self) -> None:
        self.wanted += 1

    def broker_changed(self) -> None:
        self.changes += 1


class MemoryStand:
    """Brokers at one MemoryServer, ticking as replicas do."""

    def __init__(self, limits: HistoryLimits = LIMITS) -> None:
        self.feed = f"feed-{secrets.token_hex(4)}"
        self._server = MemoryServer(limits, LEASE_S, time.monotonic)
        self._ticking: dict[Broker, asyncio.Task[None]] = {}

    async def broker(self) -> Broker:
        broker = MemoryBroker(self._server, secrets.token_hex(4))
        self._ticking[broker] = asyncio.ensure_future(self._tick(broker))
        return broker

    async def _tick(self, broker: MemoryBroker) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            broker.tick()

    async def listening(self, _: Member) -> None:
        """Nothing is ever missed here."""

    async def stop(self, broker: Broker) -> None:
        """Take one away without a word: as if its process were gone."""
        self._ticking.pop(broker).cancel()

    async def close(self) -> None:
        for broker in list(self._ticking):
            await self.stop(broker)


class RedisStand:
    """Brokers at a real server. `url` may differ by broker: a proxy stands in some ways."""

    def __init__(self, url: str, limits: HistoryLimits = LIMITS, prefix: str = "") -> None:
        self.feed = f"feed-{secrets.token_hex(4)}"
        self.prefix = prefix or f"t-{secrets.token_hex(4)}"
        self.url = url
        self.changes: list[bool] = []
        self.calls_s: list[float] = []
        self._limits = limits
        self._running: dict[RedisBroker, asyncio.Task[None]] = {}

    async def broker(self, url: str = "", *, arrived: bool = True) -> RedisBroker:
        broker = RedisBroker(
            connect(url or self.url),
            RedisRules(self.prefix, LEASE_TTL_S, self._limits),
            time.monotonic,
            self.changes.append,
            self.calls_s.append,
        )
        self._running[broker] = asyncio.ensure_future(broker.run())
        if arrived:
            async with asyncio.timeout(10.0):
                await broker.arrived.wait()
        return broker

    async def listening(self, member: Member) -> None:
        """Until what is said reaches the member."""
        await eventually(lambda: member.looks, said="its channel is subscribed")

    async def stop(self, broker: RedisBroker) -> None:
        """Take one away without a word: as if its process were gone."""
        task = self._running.pop(broker)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await broker.close()

    async def close(self) -> None:
        for broker in list(self._running):
            await self.stop(broker)


Stand = MemoryStand | RedisStand


def entries(
    first: int, last: int, *, size_bytes: int = 0, gap: GapCause | None = None
) -> list[Entry]:
    """Entries with ids and frames that tell them apart; frames padded to a size."""
    return [
        Entry(
            offset,
            b"id-%d" % offset,
            (b"frame-%d;" % offset).ljust(size_bytes, b"."),
            time.monotonic(),
            gap,
        )
        for offset in range(first, last + 1)
    ]


def offsets(found: Sequence[Entry]) -> list[int]:
    return [entry.offset for entry in found]


async def begun(stand: Stand, last: int = 0) -> tuple[Broker, str]:
    """An owner whose log `e1` holds entries up to `last`; and its token."""
    owner = await stand.broker()
    token = await owner.take(stand.feed, wanted=False)
    assert token is not None
    await owner.begin(stand.feed, token, "e1", 0, b"", entries(1, last))
    return owner, token
