"""A flush that is interrupted between any two writes, and what may happen to a feed just then:
streams that come, leave, stall and end, more events, a ring that shrinks, a history that is
replaced. Each client's bytes are held against what was said.
"""

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from tests.relay.api import said
from tests.relay.house import Client, House
from tests.relay.loop import StillLoop

from lebureau_relay.core.history import History, HistoryLimits
from lebureau_relay.errors import CloseReason, SourceProblem
from lebureau_relay.relay import fanout
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.ledger import Ledger

TIMINGS = StreamTimings(heartbeat_s=1.0, buffer_bytes=600, write_timeout_s=600.0)
CLIENTS = 8
who = st.integers(0, CLIENTS - 1)
steps = st.one_of(
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("emit"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["stall", "read", "leave", "end", "abort", "pause"]), who),
    st.tuples(st.sampled_from(["fresh", "old", "back"]), who),
    st.tuples(st.sampled_from(["shrink", "replace", "beat"]), st.just(0)),
)


class Play:
    """A feed whose every write takes most of a turn, and what it does is looked at in the end."""

    def __init__(self, loop: StillLoop) -> None:
        limits = HistoryLimits(max_events=500)
        self.house = House(loop, timings=TIMINGS, limits=limits)
        self.clients: list[Client] = []
        self.starts: dict[Client, int | None] = {}
        self.left: set[Client] = set()
        self.serial = 0

    async def join(self, cursor: int | None = None, *, chunked: bool = True) -> None:
        sent = None if cursor is None else str(cursor)
        client = await self.house.join(sent, chunked=chunked, cost_s=0.004, kernel_bytes=900)
        self.clients.append(client)
        self.starts[client] = cursor

    def emit(self, count: int) -> None:
        for _ in range(count):
            self.serial += 1
            self.house.api.emit(said(self.serial, f"{self.serial} " + "x" * 400))

    async def step(self, what: str, number: int) -> None:
        client = self.clients[-1 - number % len(self.clients)]
        feed = self.house.feed
        match what:
            case "turn":
                for _ in range(number):
                    await asyncio.sleep(0)
            case "emit":
                self.emit(number)
            case "shrink":
                feed.history.shrink()
                self.house.hub.history_bytes = feed.history.memory_bytes
            case "replace":
                self.replace()
            case "beat":
                self.house.hub.turns.job(feed.fanout.heartbeat())
            case "fresh" | "old" | "back":
                await self.come(what, number, client)
            case _ if not client.wire.lost:
                self.befall(what, client)

    async def come(self, how: str, number: int, before: Client) -> None:
        """A new stream: without a cursor, with one that is held, or where another one has ended."""
        feed, chunked = self.house.feed, bool(number % 2)
        if how == "fresh":
            await self.join(chunked=chunked)
        elif how == "old":
            newest = int(feed.history.entry(feed.shown).id)
            await self.join(max(newest - number, 1), chunked=chunked)
        elif before.wire.lost and before.ids:
            await self.join(int(before.last_id or 0), chunked=before.reader.chunked)

    def befall(self, what: str, client: Client) -> None:
        wire = client.wire
        match what:
            case "stall":
                wire.stall()
            case "read" if client not in self.left:
                wire.resume()
            case "leave":
                client.leave()
                self.left.add(client)
            case "abort":
                client.subscriber.abort(CloseReason.SLOW)
            case "end":
                self.house.feed.end(client.subscriber, CloseReason.OPERATOR)
            case "pause" if not wire._protocol_paused:
                wire._protocol_paused = True
                client.subscriber.pause_writing()
                asyncio.get_running_loop().call_soon(wire._writable)

    def replace(self) -> None:
        """The log is another: the same events stand at other offsets."""
        feed = self.house.feed
        lines = self.house.api.listening
        if feed.history.top != feed.shown or any(line._chunks for line in lines):
            return
        new = History(feed.history.limits, feed.history.epoch + "x", feed.history.floor_id)
        new.top = 1_000 + feed.history.first
        for entry in feed.history.since(0):
            new.append(entry._replace(offset=new.top + 1))
        Ledger(feed, None, "", None, None)._rebase(new)
        feed.owner.continues()
        self.house.api.cut(SourceProblem.REPLACED)  # the source is always begun anew then

    def judge(self, client: Client) -> None:
        last = self.starts[client]
        for block in client.reader.blocks:
            match block.type:
                case "relay.gap":
                    last = None
                case "relay.closing":
                    if last is not None and block.id.isdigit():
                        assert int(block.id) == last, "it may go on from where it is"
                case _:
                    serial = int(block.id)
                    assert last is None or serial == last + 1, f"{serial} after {last}"
                    last = serial
        if not client.wire.lost and not client.wire.is_closing():
            assert last in (None, self.serial), f"{last} of {self.serial}"
            assert not client.reader.cut


@pytest.mark.timeout(120)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(script=st.lists(steps, min_size=5, max_size=60))
def test_nothing_is_lost_or_repeated(script):
    async def play(loop: StillLoop) -> None:
        one = Play(loop)
        for number in range(CLIENTS):
            await one.join(chunked=bool(number % 3))
        one.emit(1)
        await loop.settle()
        one.emit(4)
        for step in script:
            await one.step(*step)
        for client in set(one.clients) - one.left:
            client.wire.resume()
        one.emit(1)
        await loop.settle()
        for client in one.clients:
            one.judge(client)
        await one.house.close()

    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=StillLoop) as runner:
        patch.setattr(fanout, "_WRITES_PER_LOOK", 1)
        runner.run(play(runner.get_loop()))
