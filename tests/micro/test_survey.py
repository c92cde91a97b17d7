"""What a console costs the loop that serves the streams, with ten thousand feeds of one replica."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from lebureau_relay.core.history import History, HistoryLimits
from lebureau_relay.relay.feed import Feed, FeedState
from lebureau_relay.relay.ports import FeedKey, StreamSpec
from lebureau_relay.relay.survey import Survey

FEEDS = 10_000
STREAM = StreamSpec("desktops", "/api/desktops/stream")


@pytest.fixture(scope="module")
def hub():
    """Feeds as they stand in a hub; who owns them is beside the point."""
    host = SimpleNamespace(clock=time.monotonic)
    feeds = []
    for n in range(FEEDS):
        feed = Feed(FeedKey(f"{n:032x}", STREAM), History(HistoryLimits(), "e"), host, None)
        feed.state = FeedState.OPEN
        feed.owner = SimpleNamespace(state="open")
        feed.subscribers = dict.fromkeys(range(n % 7))
        feeds.append(feed)
    return SimpleNamespace(feeds=lambda: list(feeds), draining=False, history_bytes=0)


@pytest.mark.parametrize("most", [20, 1000], ids=["console", "status"])
def test_count(benchmark, hub, most):
    """Once a second for all consoles, in slices; and its longest turn, as the loop feels it."""
    worst_s = []

    async def count() -> int:
        counting = asyncio.ensure_future(Survey(hub).count(most, 10))
        worst_s.append(0.0)
        while not counting.done():
            began_s = time.thread_time()
            await asyncio.sleep(0)
            worst_s[-1] = max(worst_s[-1], time.thread_time() - began_s)
        return (await counting).identity_count

    assert benchmark(lambda: asyncio.run(count())) == FEEDS
    benchmark.extra_info["longest_turn_ms"] = round(1000 * sorted(worst_s)[len(worst_s) // 2], 2)


def test_find(benchmark, hub):
    """One identity by the beginning of its hash."""
    found = benchmark(lambda: asyncio.run(Survey(hub).find(f"{7:032x}")))
    assert found.count == 1
