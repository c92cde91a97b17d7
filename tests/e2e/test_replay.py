"""Cursors and replay: what a client missed comes, exactly, or it is told that it may not."""

import asyncio
import random
from urllib.parse import quote

import pytest
from tests.e2e.clients import DESKTOPS, PATHS, Tab, breaks, eventually

SPELLINGS = ["lastEventId", "last_event_id", "Last-Event-ID"]


def emitted(simulator, user, stream="desktops"):
    return [record.id for record in simulator.log(user.id, stream)]


@pytest.fixture
async def ids(simulator, user, relay, connect):
    """Ten events that the relay holds, with a tab that keeps the feed warm."""
    holder = await connect(relay)
    simulator.emit(user.id, "desktops", 10)
    await holder.has(10)
    return holder.ids


@pytest.mark.parametrize("spelling", ["header", *SPELLINGS])
async def test_every_spelling_of_a_cursor_goes_on_after_it(relay, connect, ids, spelling):
    if spelling == "header":
        client = await connect(relay, cursor=ids[3])
    else:
        client = await connect(relay, f"{DESKTOPS}?{spelling}={ids[3]}")
    await client.has(6)
    assert client.ids == ids[4:]
    assert not client.told


async def test_the_header_wins_because_it_moves(relay, connect, ids):
    client = await connect(relay, f"{DESKTOPS}?lastEventId={ids[1]}", cursor=ids[7])
    await client.has(2)
    assert client.ids == ids[8:]


async def test_an_empty_header_leaves_the_query_to_speak(relay, connect, ids):
    client = await connect(relay, f"{DESKTOPS}?lastEventId={ids[7]}", cursor="")
    await client.has(2)
    assert client.ids == ids[8:]


async def test_who_is_at_the_top_gets_what_is_new_and_nothing_else(
    simulator, user, relay, connect, ids
):
    clients = await connect(relay, cursor=ids[-1]), await connect(relay)
    assert [client.blocks for client in clients] == [[], []]
    simulator.emit(user.id, "desktops", 1)
    for client in clients:
        await client.has(1)
        assert client.ids == emitted(simulator, user)[-1:]


async def test_blanks_around_ids_are_no_part_of_a_cursor(simulator, user, relay, connect, ids):
    simulator.emit_event(user.id, "desktops", "t", {}, event_id=" a\tb ")
    simulator.emit(user.id, "desktops", 1)
    first = await connect(relay, cursor=ids[-1])
    await first.has(2)
    assert first.ids[0] == " a\tb "
    for cursor in (" a\tb ", "a\tb"):
        client = await connect(relay, cursor=cursor)
        await client.has(1)
        assert client.ids == first.ids[1:]


@pytest.mark.parametrize("event_id", ["ü☃", "a b", "a/b?c=d&e", "%41", "~", "x" * 6000, "1~lbr2"])
async def test_ids_of_any_kind_come_back_as_cursors(simulator, user, relay, connect, ids, event_id):
    simulator.emit_event(user.id, "desktops", "t", {}, event_id=event_id)
    simulator.emit(user.id, "desktops", 2)
    by_header = await connect(relay, cursor=event_id)
    by_query = await connect(relay, f"{DESKTOPS}?lastEventId={quote(event_id, safe='')}")
    for client in (by_header, by_query):
        await client.has(2)
        assert client.ids == emitted(simulator, user)[-2:]
        assert not client.told


@pytest.mark.parametrize(
    "cursor",
    [
        *("nonsense", "evt_9999999999", "0", "-1", "null", "~lbr", "~lbrdeadbeef-5", "~lbr-"),
        *("evt_0000000005~lbr0", "evt_0000000005~lbr99", "x~lbr999999999999999999", "~lbr~lbr1"),
        *("x" * 6100, "x" * 7000, "'; DROP TABLE events; --", "../../etc/passwd", "%00%0d%0a"),
        *(b"\xff\xfe", "\u202e".encode(), b"a\x80b", "\ufeff".encode()),
    ],
    ids=lambda cursor: ascii(cursor)[:24],
)
async def test_a_cursor_that_means_nothing_is_told_and_the_stream_goes_on(
    simulator, user, serve, connect, cursor
):
    relay = await serve(simulator.url, replay={"catchup_timeout": 0.2})
    holder = await connect(relay)
    simulator.emit(user.id, "desktops", 10)
    await holder.has(10)
    client = await connect(relay, cursor=cursor)
    await eventually(lambda: client.told)
    assert client.gaps == ["unknown_id"]
    simulator.emit(user.id, "desktops", 1)
    await holder.has(11)
    await eventually(lambda: holder.ids[-1] in client.ids)
    assert client.ids == holder.ids[-len(client.ids) :]
    assert not holder.told


@pytest.mark.parametrize("cursor", [b"a\x00b", b"a\rb", b"a\x01b", b"a\x7fb"])
async def test_a_cursor_that_no_header_can_hold_is_refused_as_a_request(relay, connect, cursor):
    client = await connect(relay, cursor=cursor, opened=False)
    await client.ended()
    assert client.status == 400


async def test_a_gap_tells_from_where_and_to_where(simulator, user, serve, connect):
    relay = await serve(simulator.url, replay={"catchup_timeout": 0.2})
    holder = await connect(relay)
    simulator.emit(user.id, "desktops", 3)
    await holder.has(3)
    client = await connect(relay, cursor="long-ago")
    await eventually(lambda: client.told)
    (gap,) = client.told
    assert gap.type == "relay.gap"
    assert gap.payload == {"cause": "unknown_id", "lastEventId": "long-ago"}
    again = await connect(relay, cursor=gap.id)
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)
    await again.has(1)
    await holder.has(4)
    assert again.ids == client.ids == holder.ids[3:]
    assert not again.told


async def test_no_event_is_lost_or_repeated_between_replay_and_live(simulator, user, serve, tab):
    relay = await serve(simulator.url, replay={"max_events": 100_000, "max_bytes": 100_000_000})
    rng = random.Random(7)
    tabs: list[Tab] = [tab(relay) for _ in range(12)]
    await eventually(lambda: all(t.connections and t.client.retry_ms for t in tabs))
    while len(emitted(simulator, user)) < 6000:
        simulator.emit(user.id, "desktops", rng.choice((1, 1, 2, 30, 200)))
        for each in rng.sample(tabs, rng.randint(0, 3)):
            each.drop()
        await asyncio.sleep(rng.choice((0, 0, 0.002, 0.02)))
    order = emitted(simulator, user)
    for each in tabs:
        await eventually(lambda each=each: each.ids[-1:] == order[-1:])
        assert breaks(each.seen, order) == []
        assert each.gaps == []
        assert each.ids == order[order.index(each.ids[0]) :]
        assert len(each.connections) > 3
    assert simulator.subscriptions_opened() == 1


async def test_a_ring_that_is_too_small_is_filled_from_upstream(simulator, user, serve, connect):
    relay = await serve(simulator.url, replay={"max_events": 5})
    holder = await connect(relay)
    simulator.emit(user.id, "desktops", 50)
    await holder.has(50)
    client = await connect(relay, cursor=holder.ids[9])
    await client.has(40)
    assert client.ids == holder.ids[10:]
    assert not client.told
    assert simulator.subscriptions_peak(user.id, "desktops") == 2


@pytest.mark.parametrize(
    "bound", [{"max_events": 5}, {"max_bytes": 1024}, {"max_age": 0.2}, {"total_bytes": 1024}]
)
async def test_what_was_evicted_and_upstream_has_forgotten_is_told(
    simulator, user, serve, connect, counts, bound
):
    bound = {"max_bytes": 1024, **bound} if "total_bytes" in bound else bound
    relay = await serve(simulator.url, replay={"catchup_timeout": 0.2, **bound})
    holder = await connect(relay)
    simulator.emit(user.id, "desktops", 20)
    await holder.has(20)
    simulator.fault("amnesia")
    if "max_age" in bound:
        await eventually(lambda: [len(feed.history) for feed in relay.hub.feeds()] == [1])
        simulator.emit(user.id, "desktops", 1)
        await holder.has(21)
    client = await connect(relay, cursor=holder.ids[2])
    await eventually(lambda: client.told)
    assert client.gaps == ["evicted"]
    assert client.told[0].payload["lastEventId"] == holder.ids[2]
    await eventually(lambda: client.ids[-1:] == holder.ids[-1:])
    assert client.ids == holder.ids[-len(client.ids) :]
    assert len(client.ids) < 15
    await counts(relay, 1, "gaps_total", stream="desktops", cause="evicted")


async def test_a_cold_relay_lets_upstream_fill_what_it_never_saw(simulator, user, relay, connect):
    simulator.emit(user.id, "desktops", 20)
    order = emitted(simulator, user)
    client = await connect(relay, cursor=order[4])
    await client.has(15)
    assert client.ids == order[5:]
    assert not client.told
    (seen,) = [seen for seen in simulator.requests if seen.path == DESKTOPS]
    assert seen.headers["Last-Event-ID"] == order[4]


@pytest.mark.parametrize("first", ["newest", "none", "live", "middle"])
async def test_tabs_that_come_back_to_a_cold_relay_in_any_order_lose_nothing(
    simulator, user, relay, connect, first
):
    simulator.emit(user.id, "desktops", 30)
    order = emitted(simulator, user)
    cursor = {"newest": order[-1], "middle": order[14]}.get(first)
    opener = await connect(relay, cursor=cursor)
    if first == "live":
        simulator.emit(user.id, "desktops", 3)
        await opener.has(3)
    back = {place: await connect(relay, cursor=order[place]) for place in (20, 3, 12, 3, 28)}
    simulator.emit(user.id, "desktops", 10)
    order = emitted(simulator, user)
    for place, client in back.items():
        await client.has(len(order) - place - 1)
        assert client.ids == order[place + 1 :]
        assert not client.told
    await eventually(lambda: opener.ids[-1:] == order[-1:])
    assert breaks(opener.blocks, order) == []
    assert simulator.subscriptions_peak(user.id, "desktops") <= 2


async def test_a_storm_of_old_cursors_on_a_cold_relay_under_traffic(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, replay={"max_events": 100_000, "max_bytes": 100_000_000})
    rng = random.Random(11)
    simulator.emit(user.id, "desktops", 500)
    order = emitted(simulator, user)
    arriving = []
    for _ in range(40):
        simulator.emit(user.id, "desktops", rng.choice((0, 1, 20)))
        place = rng.choice((0, 10, 100, 250, 400, 480, 499))
        arriving.append(asyncio.ensure_future(connect(relay, cursor=order[place])))
        await asyncio.sleep(rng.choice((0, 0, 0.005)))
    clients = await asyncio.gather(*arriving)
    simulator.emit(user.id, "desktops", 50)
    order = emitted(simulator, user)
    for client in clients:
        await eventually(lambda client=client: client.ids[-1:] == order[-1:])
        assert client.ids == order[order.index(client.ids[0]) :]
        assert order.index(client.ids[0]) <= 500
        assert not client.told
    assert simulator.subscriptions_peak(user.id, "desktops") <= 2


@pytest.mark.parametrize("graceful", [True, False])
async def test_a_restarted_relay_gives_every_tab_the_rest(simulator, user, serve, tab, graceful):
    relay = await serve(simulator.url)
    port = int(relay.public_url.rpartition(":")[2])
    tabs = [tab(relay, PATHS[stream]) for stream in ("desktops", "activity") for _ in range(8)]
    await eventually(lambda: all(t.connections and t.client.retry_ms for t in tabs))
    for life in range(3):
        for stream in ("desktops", "activity"):
            simulator.emit(user.id, stream, 20)
        await eventually(lambda life=life: all(len(t.events) == 40 * life + 20 for t in tabs))
        # Some are away when it happens, and so come back with older cursors than others.
        for each in tabs[::3]:
            each.drop()
        if graceful:
            await relay.drain()
        await relay.stop()
        for stream in ("desktops", "activity"):
            simulator.emit(user.id, stream, 20)
        relay = await serve(simulator.url, listen={"port": port})
    for each in tabs:
        await eventually(lambda each=each: len(each.events) >= 120)
        stream = "desktops" if each.path == DESKTOPS else "activity"
        assert each.ids == emitted(simulator, user, stream)
        assert each.gaps == []


async def test_a_tab_that_had_no_event_yet_resumes_where_it_was(simulator, user, serve, connect):
    relay = await serve(simulator.url)
    simulator.emit(user.id, "desktops", 5)
    order = emitted(simulator, user)
    holder = await connect(relay, cursor=order[0])
    await holder.has(4)
    fresh = await connect(relay)
    assert fresh.blocks == []
    await relay.drain()
    await fresh.ended()
    assert fresh.last_id == order[-1]
    simulator.emit(user.id, "desktops", 2)
    other = await serve(simulator.url)
    again = await connect(other, cursor=fresh.last_id)
    await again.has(2)
    assert again.ids == emitted(simulator, user)[5:]
    assert not again.told
