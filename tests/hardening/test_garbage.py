"""What ends goes at once, by its reference count: nothing of the relay's is left to the cycle
collector, which looks at what has grown old almost never (`process._GC_THRESHOLDS`).

An error that is held by what its frames know was such a circle, and kept a dead connection with a
whole history: some megabytes a minute where much breaks.
"""

import gc
from collections import Counter
from contextlib import contextmanager

import pytest
from tests.e2e.clients import ask, eventually

from lebureau_relay.core.history import History, HistoryLimits

AGAIN = 3  # what is left once may be the last of its kind, held until the next
QUICK = {
    "upstream": {"connect_timeout": 0.3, "idle_timeout": 0.3, "retry_min": 0.01, "retry_max": 0.02},
    "replay": {"catchup_timeout": 0.3},
    "auth": {"recheck_interval": 1},
    "feed": {"linger": 0.1},
}
BREAKS = [
    *("cut", "cut:mid", "end", "204", "404", "429:0", "500", "503", "redirect"),
    *("content_type", "stall", "garbage", "oversize", "cursor_rejected"),
    *("cursor_ignored", "cursor_ignored:all", "amnesia", "renumber", "doubled_ids:same", "no_ids"),
]

WHILE_OPEN = {"cut", "cut:mid", "end"}


@contextmanager
def left_to_the_collector():
    """Counts what the relay leaves to it meanwhile, by type. aiohttp's own circle for a path that
    nobody serves is young and small, and goes with the next thousands.
    """
    left: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left.update(type(one).__name__ for one in gc.garbage if _ours(type(one)))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _ours(kind: type) -> bool:
    module = str(getattr(kind, "__module__", ""))
    return module.startswith("lebureau_relay.") and "simulator" not in module


def test_a_circle_is_seen():
    with left_to_the_collector() as left:
        history = History(HistoryLimits(), "an epoch")
        history.limits = [history]
        del history
    assert left == {"History": 1}


@pytest.fixture
async def reader(simulator, user, serve, tab):
    """A relay in this process, and a client that has had three events and comes back."""
    relay = await serve(simulator.url, **QUICK)
    client = tab(relay)
    await simulator.until(simulator.open_subscriptions)
    simulator.emit(user.id, "desktops", 3)
    await eventually(lambda: len(client.events) >= 3)
    return relay, client


@pytest.mark.parametrize("fault", BREAKS)
async def test_an_upstream_that_breaks(simulator, user, reader, fault):
    with left_to_the_collector() as left:
        for _ in range(AGAIN):
            opened = simulator.subscriptions_opened()
            if fault in WHILE_OPEN:
                assert simulator.fault(fault, while_open=True)
            else:
                simulator.fault(fault, times=1)
                simulator.cut_all()
            simulator.emit(user.id, "desktops", 2)
            await simulator.until(lambda opened=opened: simulator.subscriptions_opened() > opened)
            simulator.emit(user.id, "desktops", 2)
            events = len(reader[1].events)
            simulator.emit(user.id, "desktops", 1)
            await eventually(lambda events=events: len(reader[1].events) > events)
    assert not left


async def test_an_upstream_that_is_away_or_silent(simulator, user, reader):
    client = reader[1]
    with left_to_the_collector() as left:
        for _ in range(AGAIN):
            opened = simulator.subscriptions_opened()
            await simulator.restart()
            await simulator.until(lambda opened=opened: simulator.subscriptions_opened() > opened)
            events = len(client.events)
            simulator.emit(user.id, "desktops", 2)
            await eventually(lambda events=events: len(client.events) > events)
    assert not left


@pytest.mark.parametrize("fault", ["401", "403"])
async def test_an_upstream_that_refuses(simulator, serve, connect, fault):
    relay = await serve(simulator.url, **QUICK)
    users = [simulator.add_user() for _ in range(AGAIN)]
    with left_to_the_collector() as left:
        for user in users:
            client = await connect(relay, key=user.key)
            simulator.emit(user.id, "desktops", 2)
            await client.has(2)
            simulator.fault(fault, user=user.id)
            simulator.cut_all()
            await client.ended()
            assert (await ask(relay.public_url, key=user.key)).status == int(fault)
    assert not left


async def test_clients_that_come_and_go(simulator, user, reader, connect):
    relay, stays = reader
    other = simulator.add_user()
    with left_to_the_collector() as left:
        for _ in range(AGAIN):
            held = await connect(relay, cursor=stays.ids[0])
            caught_up = await connect(relay, cursor="1")
            simulator.fault("503", times=1)
            failed = await connect(relay, cursor="evt_unknown")
            simulator.emit(user.id, "desktops", 1)
            for client in (held, caught_up, failed):
                await client.has(1)
                client.abort()
            simulator.fault("stall", user=other.id, times=1)
            waits = await connect(relay, key=other.key, opened=False)
            await simulator.until(lambda: other.key in simulator.requests[-1].headers.values())
            waits.abort()
            assert (await ask(relay.public_url, key="nobody's")).status == 401
            assert (await ask(relay.public_url, "/api/desktops/stream", key="")).status == 401
            for path in ("/metrics", "/status", "/readyz"):
                assert (await ask(relay.admin_url, path)).status == 200
        await eventually(lambda: relay.hub.streams == 1)
    assert not left


async def test_a_feed_that_ends_and_is_opened_again(simulator, user, serve, connect):
    relay = await serve(simulator.url, **QUICK)
    with left_to_the_collector() as left:
        for _ in range(AGAIN):
            client = await connect(relay)
            simulator.emit(user.id, "desktops", 2)
            await client.has(2)
            client.close()
            await eventually(lambda: not relay.hub.facts().feeds)
    assert not left


async def test_replicas_and_a_server_that_breaks(simulator, user, serve, tab, valkey):
    shared = {"url": f"redis://127.0.0.1:{valkey.port}", "hash_secret": "x" * 32, "lease_ttl": 0.5}
    relays = [await serve(simulator.url, **QUICK, redis=shared) for _ in range(2)]
    clients = [tab(relay) for relay in relays]
    await eventually(lambda: all(relay.hub.streams for relay in relays), 15)
    await simulator.until(simulator.open_subscriptions)  # what is said before nobody hears

    async def all_have_news() -> None:
        events = [len(client.events) for client in clients]
        simulator.emit(user.id, "desktops", 1)
        await eventually(
            lambda: all(len(one.events) > had for one, had in zip(clients, events, strict=True)), 15
        )

    def roles() -> list[str]:
        found = (relay.hub.facts().feeds.items() for relay in relays)
        return sorted(role for feeds in found for (_, role), count in feeds if count)

    with left_to_the_collector() as left:
        for _ in range(AGAIN):
            await all_have_news()
            simulator.cut_all()
            valkey.kill()
            await eventually(lambda: roles() == ["solo", "solo"], 15)
            await all_have_news()
            valkey.start()
            await eventually(lambda: roles() == ["follower", "owner"], 15)
            await all_have_news()
        for client in clients:
            await client.close()
        await eventually(lambda: not any(relay.hub.facts().feeds for relay in relays))
    assert not left
