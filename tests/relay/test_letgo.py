"""Which streams are given up for other replicas: old and idle ones, in good order."""

import gc
import weakref
from types import SimpleNamespace

import pytest
from tests.relay.api import said
from tests.relay.house import DESKTOPS

from lebureau_relay.errors import CloseReason
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.letgo import LetGo
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.subscriber import State

OTHER = FeedKey("user-2", DESKTOPS)


@pytest.fixture
async def quiet(build):
    """Streams of any age may go; heartbeats stay out of the way."""
    return build(timings=StreamTimings(settle_s=0.0, heartbeat_s=1_000.0))


async def closed(house) -> list[int]:
    """Which of the clients were told to go, by number."""
    await house.settle()
    return [n for n, client in enumerate(house.clients) if "relay.closing" in client.told]


async def test_the_oldest_go_first(quiet):
    for _ in range(4):
        await quiet.join()
        await quiet.advance(1)
    quiet.hub.let_go(2)
    assert await closed(quiet) == [0, 1]
    assert quiet.meter.ends == ["rebalanced", "rebalanced"]
    assert quiet.clients[0].reader.closing.payload == {"reason": "rebalanced", "retry": 3000}


async def test_idle_ones_go_before_older_ones_that_are_busy(quiet):
    await quiet.join()
    await quiet.advance(60)
    await quiet.emit(1)
    await quiet.join(key=OTHER)
    quiet.hub.let_go(1)
    assert await closed(quiet) == [1]
    quiet.hub.let_go(5)
    assert await closed(quiet) == [0, 1], "where no others are, busy ones go too"


async def test_who_has_just_come_stays(build):
    house = build(timings=StreamTimings(settle_s=300.0))
    await house.join()
    await house.advance(299)
    house.hub.let_go(10)
    assert await closed(house) == []
    await house.join()
    await house.advance(1)
    house.hub.let_go(10)
    assert await closed(house) == [0]


async def test_who_is_behind_or_leaving_stays(build):
    house = build(timings=StreamTimings(settle_s=0.0, buffer_bytes=8_000, heartbeat_s=1_000.0))
    slow = await house.join(reading=False, kernel_bytes=4_000)
    for n in range(1, 16):
        house.api.emit(said(n, "x" * 1_000))
        await house.settle()
    await house.advance(10)
    assert slow.state is State.PAUSED
    house.hub.let_go(10)
    assert await closed(house) == []
    slow.wire.resume()
    await house.settle()
    for _ in range(2):
        house.hub.let_go(10)
        assert await closed(house) == [0]
    assert slow.told.count("relay.closing") == 1, "it has been told already"


async def test_nothing_is_lost_on_the_way(quiet):
    client = await quiet.join()
    await quiet.emit(1, 2)
    await quiet.advance(60)
    quiet.hub.let_go(1)
    await quiet.emit(3)
    assert client.told == ["1", "2", "relay.closing"]
    back = await quiet.join(client.reader.closing.id)
    await quiet.settle()
    assert back.told == ["3"]


class Crowd:
    """A feed of streams opened at these moments; counts how many of them are looked at."""

    def __init__(self, *opened_at_s: float, state: State = State.LIVE, silent: bool = True) -> None:
        self.over = False
        self.looks = 0
        self.ended: list[float] = []
        self.history = [] if silent else SilentAt(0.0)
        self._streams = [
            SimpleNamespace(feed=self, state=state, opened_at_s=at_s) for at_s in opened_at_s
        ]

    @property
    def subscribers(self):
        for one in self._streams:
            self.looks += 1
            yield one

    def end(self, one, reason) -> None:
        assert reason is CloseReason.REBALANCED
        self.ended.append(one.opened_at_s)


class SilentAt:
    """A history whose last event came then."""

    top = 1

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def __len__(self) -> int:
        return 1

    def entry(self, _offset: int):
        return self


class Ticking:
    """A clock that moves with each look at it."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


def turns(let_go: LetGo, clock: Ticking) -> int:
    """How many it takes, where none may last longer than one look at the clock."""
    count = 1
    while not let_go(clock.now_s):
        count += 1
    return count


def test_ten_thousand_feeds_are_looked_through_in_many_turns():
    clock, feeds = Ticking(), [Crowd(-1.0 * n) for n in range(10_000)]
    let_go = LetGo(feeds, 3, 0.0, clock)
    looks = []
    while not let_go(clock.now_s):
        looks.append(sum(feed.looks for feed in feeds) - sum(looks))
    assert max(looks) <= 64
    assert [feed.ended for feed in feeds[-3:]] == [[-9_999.0 + n] for n in (2, 1, 0)]
    assert sum(len(feed.ended) for feed in feeds) == 3


def test_a_feed_of_any_size_is_a_few_looks():
    clock = Ticking()
    young, old = Crowd(*[0.0] * 100_000), Crowd(*(-2e6 + n for n in range(100_000)))
    behind = Crowd(*[-3e6] * 100_000, state=State.PAUSED)
    turns(LetGo([young, old, behind], 100, 1.0, clock), clock)
    assert (young.looks, old.looks) == (1, 100)
    assert behind.looks <= 5_000
    assert old.ended == [-2e6 + n for n in range(100)]


def test_many_goodbyes_are_many_turns_and_who_is_gone_meanwhile_is_passed_over():
    clock, feed = Ticking(), Crowd(*(-1.0 * n for n in range(100, 0, -1)))
    let_go = LetGo([feed], 50, 0.0, clock)
    said = []
    while not let_go(clock.now_s):
        said.append(len(feed.ended) - sum(said))
        if feed.ended:
            feed._streams[49].state = State.GONE
    assert max(said) <= 8
    assert feed.ended == [-1.0 * n for n in range(100, 51, -1)]
    assert let_go.done


def test_what_is_forgotten_on_the_way_is_not_among_the_oldest():
    clock = Ticking()
    idle = [Crowd(*(-1.0 * n - k for k in range(5, 0, -1))) for n in range(2_000)]
    busy = [Crowd(-9e6 + n, silent=False) for n in range(2_000)]
    turns(LetGo([*busy, *idle], 4, 0.0, clock), clock)
    ended = sorted(at_s for feed in idle for at_s in feed.ended)
    assert ended == [-2004.0, -2003.0, -2003.0, -2002.0]
    assert not any(feed.ended for feed in busy)


def test_who_was_looked_at_is_not_held_afterwards():
    clock, feeds = Ticking(), [Crowd(-1.0), Crowd(-2.0), Crowd(-3.0, silent=False)]
    let_go = LetGo(feeds, 1, 0.0, clock)
    turns(let_go, clock)
    left = [weakref.ref(feed) for feed in feeds]
    feeds.clear()
    gc.collect()
    assert let_go.done
    assert [one() for one in left] == [None, None, None]
