"""A replica that comes back empty gets its part of the streams, and nobody notices: real processes,
clients that write down every number.
"""

import signal

import pytest
from tests.replicas.scenarios import Size
from tests.replicas.stage import Stage

SIZE = Size(feeds=20, tabs=900, rate=0.5, lease_s=1.0, pause_s=0, spread_s=0.5)


async def counts(stage: Stage) -> list[int]:
    return sorted(int(str(one["streams"])) for one in await stage.replicas())


async def third_has(stage: Stage) -> int:
    """Streams of the replica that has fewest of three; 0 while the others don't know of it."""
    now = await counts(stage)
    return now[0] if len(now) == 3 else 0


@pytest.mark.server
@pytest.mark.timeout(150)
async def test_an_empty_replica_is_given_streams_and_nothing_is_lost():
    async with Stage(SIZE, BALANCE__MIN_AGE=0, BALANCE__MAX_PER_SECOND=50) as stage:
        await stage.settled()
        third = stage.relays[2]
        third.signal(signal.SIGTERM)
        assert await third.exit() == 0

        async def both_have_all() -> bool:
            now = await counts(stage)
            return len(now) == 2 and sum(now) == SIZE.tabs and now[0] > SIZE.tabs / 2.5

        await stage.wait_for(both_have_all, "the two that are left have all streams")
        await stage.start(third)
        assert await third_has(stage) == 0, "streams live long: none comes by itself"

        async def third_has_some() -> bool:
            return await third_has(stage) >= 12

        await stage.wait_for(third_has_some, "the third has got streams of the others")
        await stage.finished()
        judged = stage.judge()
        assert (judged.lost, judged.repeated, judged.reordered, judged.gaps) == (0, 0, 0, 0)
        ended = [relay.said.count('"reason": "rebalanced"') for relay in stage.relays]
        assert ended[0] > 0
        assert ended[1] > 0
        assert ended[2] == 0, "it has less than its part"
