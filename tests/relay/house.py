"""A hub with everything that it is plugged into in the test's hands, and the clients on it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest
from tests.relay.api import Api
from tests.relay.loop import StillLoop
from tests.relay.reader import Reader
from tests.relay.wire import KERNEL_BYTES, Wire

from lebureau_relay.core.backoff import Backoff
from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.errors import Refusal
from lebureau_relay.relay.feed import Feed
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.hub import Hub, HubLimits
from lebureau_relay.relay.owner import Outside
from lebureau_relay.relay.ports import FeedKey, Identity, StreamSpec
from lebureau_relay.relay.subscriber import State, Subscriber

DESKTOPS = StreamSpec("desktops", "/api/desktops/stream")
KEY = FeedKey("user-1", DESKTOPS)


def credential(name: str) -> Credential:
    return Credential(CredentialKind.KEY, f"lb_k_{name}")


ALICE = credential("alice")


class Register:
    """Identities that keeps what it is told: who is held by how many streams, and every verdict."""

    def __init__(self) -> None:
        self.verdicts: list[tuple[str, Credential]] = []
        self.held: Counter[Credential] = Counter()
        self.withdrawn: set[Credential] = set()  # refused since they were let in

    def accepted(self, credential: Credential, took_s: float = 0.0) -> None:
        assert took_s >= 0
        self.verdicts.append(("accepted", credential))

    def rejected(self, credential: Credential) -> None:
        self.verdicts.append(("rejected", credential))

    async def ensure_fresh(self, credential: Credential) -> None:
        self.verdicts.append(("asked", credential))

    def undecided(self, credential: Credential) -> None:
        self.verdicts.append(("undecided", credential))

    def hold(self, credential: Credential, identity: Identity | None = None) -> bool:
        assert identity is not None
        self.held[credential] += 1
        return credential not in self.withdrawn

    def release(self, credential: Credential) -> None:
        assert self.held[credential] > 0, "released more often than held"
        self.held[credential] -= 1


@dataclass
class Meter:
    """StreamMeter that keeps every number."""

    deliveries: int = 0
    delivered_bytes: int = 0
    delays: list[float] = field(default_factory=list)
    reconnects: list[str] = field(default_factory=list)
    catchups: list[str] = field(default_factory=list)
    replays: list[tuple[str, int]] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def delivered(self, deliveries, size_bytes):
        self.deliveries += deliveries
        self.delivered_bytes += size_bytes

    def delay(self, seconds):
        self.delays.append(seconds)

    def reconnect(self, reason):
        self.reconnects.append(reason.value)

    def catchup(self, outcome):
        self.catchups.append(outcome)

    def replay(self, outcome, events, _waited_s):
        self.replays.append((outcome, events))

    def gap(self, cause):
        self.gaps.append(cause.value)

    def closed(self, reason, age_s):
        assert age_s >= 0
        self.ends.append(reason.value)


class Journal:
    """Observer: one meter per stream, and the notes."""

    def __init__(self) -> None:
        self.meters: dict[str, Meter] = {}
        self.notes: list[tuple[str, str, dict[str, object]]] = []

    def stream(self, name):
        return self.meters.setdefault(name, Meter())

    def note(self, level, event, **facts):
        self.notes.append((level, event, facts))


class Client:
    """One stream as its client has it: what it has read, and how its connection stands."""

    def __init__(self, *, chunked: bool, reading: bool, kernel_bytes: int, cost_s: float) -> None:
        self.reader = Reader(chunked)
        self.gone = 0  # how often its seat was given back
        self.subscriber: Subscriber
        self.wire = Wire(
            self.reader.feed, kernel_bytes=kernel_bytes, reading=reading, cost_s=cost_s
        )

    def leave(self) -> None:
        self.wire.hang_up()

    def was_gone(self) -> None:
        self.gone += 1

    @property
    def ids(self) -> list[str]:
        """Of the events that came; the relay's own words left out."""
        return [block.id for block in self.reader.events]

    @property
    def told(self) -> list[str]:
        """Everything that came, in order: ids of events, and the relay's words by name."""
        return [
            block.type if block.type.startswith("relay.") else block.id
            for block in self.reader.blocks
        ]

    @property
    def last_id(self) -> str | None:
        """What a library would send as Last-Event-ID."""
        return self.reader.blocks[-1].id if self.reader.blocks else None

    @property
    def gap(self) -> dict[str, object]:
        """The payload of the one gap that was told."""
        (block,) = self.reader.gaps
        return block.payload

    @property
    def state(self) -> State:
        return self.subscriber.state


@dataclass
class House:
    """The hub and its fakes. Make it inside the loop, `close` it at the end."""

    loop: StillLoop
    timings: StreamTimings = field(default_factory=StreamTimings)
    limits: HistoryLimits = field(default_factory=HistoryLimits)
    total_bytes: int = 268_435_456
    backoff: Backoff = field(default_factory=Backoff)
    jitter: float = 0.0  # what `uniform` returns
    api: Api = field(default_factory=Api)
    name: str = "e"  # what its epochs begin with

    def __post_init__(self) -> None:
        self.register = Register()
        self.journal = Journal()
        self.clients: list[Client] = []
        self._epochs = 0
        outside = Outside(
            self.api,
            self.register,
            self.journal,
            self.backoff,
            lambda: self.jitter,
            self._new_epoch,
        )
        with pytest.MonkeyPatch.context() as patch:  # the hub hands its clock on as it is made
            patch.setattr("time.monotonic", self.loop.time)
            self.hub = Hub(outside, self.timings, HubLimits(self.limits, self.total_bytes))
        self.hub.start()

    def _new_epoch(self) -> str:
        self._epochs += 1
        return f"{self.name}{self._epochs}"

    async def join(
        self,
        cursor: str | None = None,
        who: Credential = ALICE,
        key: FeedKey = KEY,
        *,
        chunked: bool = True,
        reading: bool = True,
        kernel_bytes: int = KERNEL_BYTES,
        cost_s: float = 0.0,
    ) -> Client:
        """The walk of a request as the edge does it, from the join on."""
        sent = None if cursor is None else cursor.encode()
        feed = await self.hub.join(key, who, sent)
        client = Client(chunked=chunked, reading=reading, kernel_bytes=kernel_bytes, cost_s=cost_s)
        self.attach(feed, client, who, sent)
        return client

    def attach(self, feed: Feed, client: Client, who: Credential, cursor: bytes | None) -> None:
        """What the handoff does, and the attach that follows it without an await."""
        client.subscriber = Subscriber(
            feed, client.wire, who, chunked=client.reader.chunked, on_gone=client.was_gone
        )
        client.wire.set_protocol(client.subscriber)
        client.wire.set_write_buffer_limits(high=self.timings.buffer_bytes)
        self.clients.append(client)
        feed.attach(client.subscriber, cursor)

    def joining(self, *args, **kwargs) -> "asyncio.Task[Client]":
        """A join that goes on while the test does something else."""
        return self.loop.create_task(self.join(*args, **kwargs))

    async def settle(self) -> None:
        await self.loop.settle()

    async def advance(self, seconds: float) -> None:
        await self.loop.advance(seconds)

    async def emit(self, *ids: int | str) -> None:
        """Upstream says these, and everything that follows from it happens."""
        self.api.emit_ids(*ids)
        await self.settle()

    @property
    def meter(self) -> Meter:
        return self.journal.stream(DESKTOPS.name)

    @property
    def feed(self) -> Feed:
        """The one feed there is."""
        (feed,) = self.hub._feeds.values()
        return feed

    def alive(self) -> set["asyncio.Task[object]"]:
        """Tasks other than the test's own."""
        return asyncio.all_tasks() - {asyncio.current_task()}

    async def close(self) -> None:
        """End everything, and see that nothing was left behind or went wrong unnoticed."""
        await self.hub.close()
        await self.settle()
        assert not self.alive(), "tasks are left"
        assert not self.api.listening, "a subscription is left open"
        assert self.loop.faults == []
        assert [note for note in self.journal.notes if note[0] == "error"] == []
        assert not +self.register.held, "a credential is still held"
        for client in self.clients:
            assert client.gone == 1, "a seat is given back once"
            assert client.wire.lost
            # A reset may cut anything; an orderly end cuts nothing.
            assert not (client.wire.finished and client.reader.cut)


async def refusal(joining: Awaitable[Client]) -> Refusal:
    """What a join was refused with."""
    with pytest.raises(Refusal) as caught:
        await joining
    return caught.value
