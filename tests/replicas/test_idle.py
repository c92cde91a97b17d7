"""What feeds cost Redis while nobody says anything, counted by the server."""

import asyncio
import time

import pytest
from tests.replicas.scenarios import Size
from tests.replicas.stage import Stage

REPLICAS = 2
SIZE = Size(feeds=200, tabs=400, rate=1, lease_s=6, pause_s=0, replicas=REPLICAS)
TICK_S = 0.15 * SIZE.lease_s
FEEDS_PER_CALL = 50


@pytest.mark.server
async def test_idle_feeds_cost_their_batched_renewals_and_one_subscription_a_replica():
    async with Stage(SIZE) as stage:
        await stage.settled()
        await stage.finished()
        await asyncio.sleep(TICK_S)
        server = stage.servers[0]
        ears = server.raw("CLIENT", "LIST", "TYPE", "pubsub").splitlines()
        assert len(ears) == REPLICAS
        # Beside its ears: one for calls, and one by which it asked for the eviction policy.
        watching = 2  # who counts appends by MONITOR, and who asks this
        assert server.ask("INFO", "clients")["connected_clients"] <= 3 * REPLICAS + watching
        begun_s = time.monotonic()
        before = calls(server)
        await asyncio.sleep(3 * TICK_S)
        after = calls(server)
    ticks = (time.monotonic() - begun_s) // TICK_S + 1
    # A tick is of all feeds and a word to itself; and streams are stated again.
    renewals = ticks * (SIZE.feeds // FEEDS_PER_CALL + 1)
    statements = 2 * (SIZE.feeds // 100 + 1)
    assert 0 < after - before <= REPLICAS * (renewals + statements)


def calls(server) -> int:
    return int(server.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"])
