"""An upstream that forgets, ignores, repeats or renumbers: found out and told, never papered over.

And the other half, as important: where nothing was lost, nothing is told.
"""

import asyncio
import random

import pytest
from tests.e2e.clients import DESKTOPS, Tab, breaks, eventually


def emitted(simulator, user):
    return [record.id for record in simulator.log(user.id, "desktops")]


def asked(simulator):
    """The cursors that upstream was asked with, in order."""
    seen = [seen for seen in simulator.requests if seen.path == DESKTOPS]
    return [each.headers.get("Last-Event-ID") for each in seen]


@pytest.fixture
def break_off(simulator, user):
    """Breaks upstream; emits so many events while it is away; waits until it is back."""

    async def cut(missed: int = 0, *, amnesia=False, renumber=False) -> None:
        before = simulator.subscriptions_opened(user.id, "desktops")
        simulator.cut_all()
        simulator.emit(user.id, "desktops", missed)
        if amnesia:
            simulator.fault("amnesia")
        if renumber:
            simulator.fault("renumber")
        await eventually(lambda: simulator.subscriptions_opened(user.id, "desktops") > before)

    return cut


@pytest.fixture
async def client(simulator, user, relay, connect):
    """A client that has seen ten events."""
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 10)
    await client.has(10)
    return client


@pytest.mark.parametrize("missed", [0, 1, 50, 1500])
async def test_a_cut_loses_nothing_and_says_nothing(simulator, user, client, break_off, missed):
    await break_off(missed)
    simulator.emit(user.id, "desktops", 5)
    await client.has(missed + 15)
    assert client.ids == emitted(simulator, user)
    assert not client.told
    assert asked(simulator)[-1] == client.ids[8], "asked after the second-newest, for the proof"


async def test_with_one_event_known_it_asks_after_that(simulator, user, relay, connect, break_off):
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)
    await break_off(3)
    await client.has(4)
    assert client.ids == emitted(simulator, user)
    assert not client.told
    assert asked(simulator)[-1] == client.ids[0]


async def test_with_nothing_known_a_cut_is_told(simulator, user, relay, connect, break_off):
    client = await connect(relay)
    await break_off(3)
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)
    assert client.gaps == ["upstream"]
    assert client.timeline[-2:] == ["block", "block"]


async def test_amnesia_is_told_before_what_follows(simulator, user, client, break_off):
    await break_off(4, amnesia=True)
    simulator.emit(user.id, "desktops", 2)
    await client.has(12)
    assert client.gaps == ["upstream"]
    assert client.told[0].payload["lastEventId"] == client.told[0].id == emitted(simulator, user)[9]
    assert breaks(client.blocks, emitted(simulator, user)) == []
    simulator.emit(user.id, "desktops", 2)
    await break_off(2)
    await client.has(16)
    assert client.gaps == ["upstream"], "once"
    assert client.ids[10:] == emitted(simulator, user)[14:]


async def test_what_was_lost_in_a_gap_does_not_come_back_after_it(
    simulator, user, client, break_off
):
    """One event after the gap: asked for what follows the one before it, upstream would begin
    with all that the gap has told.
    """
    simulator.fault("cursor_ignored:live", times=1)
    await break_off(4)
    simulator.emit(user.id, "desktops", 1)
    await client.has(11)
    await break_off(3)
    simulator.emit(user.id, "desktops", 1)
    order = emitted(simulator, user)
    await eventually(lambda: client.ids[-1:] == order[-1:])
    assert client.ids == order[:10] + order[14:]
    assert client.gaps == ["upstream"]


async def test_a_cursor_that_is_ignored_is_told(simulator, user, client, break_off):
    simulator.fault("cursor_ignored:live")
    await break_off(4)
    simulator.emit(user.id, "desktops", 3)
    await client.has(13)
    assert client.gaps == ["upstream"]
    assert client.ids == emitted(simulator, user)[:10] + emitted(simulator, user)[14:]


async def test_an_upstream_that_starts_from_the_beginning_is_told(
    simulator, user, client, break_off
):
    simulator.fault("cursor_ignored:all")
    await break_off(0)
    simulator.emit(user.id, "desktops", 1)
    await eventually(lambda: client.ids[-1:] == emitted(simulator, user)[-1:])
    assert client.gaps[0] == "upstream"
    repeated = [block.type == "relay.gap" for block in client.blocks].index(True)
    assert repeated == 10, "the gap stands before whatever comes again"


@pytest.mark.parametrize("status", [400, 404, 410, 412])
async def test_a_cursor_that_is_rejected_is_told_and_the_stream_goes_on(
    simulator, user, client, break_off, status
):
    simulator.fault(f"cursor_rejected:{status}")
    await break_off(4)
    simulator.emit(user.id, "desktops", 3)
    await client.has(13)
    assert client.gaps == ["upstream"]
    assert client.ids == emitted(simulator, user)[:10] + emitted(simulator, user)[14:]


async def test_a_first_cursor_that_is_rejected_is_told(simulator, user, relay, connect):
    simulator.fault("cursor_rejected:400")
    client = await connect(relay, cursor="evt_0000000003")
    await eventually(lambda: client.told)
    simulator.emit(user.id, "desktops", 2)
    await client.has(2)
    assert client.gaps == ["unknown_id"]
    assert asked(simulator) == ["evt_0000000003", None]


async def test_numbering_that_starts_again_is_told(simulator, user, client, break_off):
    await break_off(0, renumber=True)
    simulator.emit(user.id, "desktops", 3)
    await client.has(13)
    records = [record.data for record in simulator.log(user.id, "desktops")]
    assert [event.data for event in client.events] == records
    assert "upstream" in client.gaps


async def test_numbering_that_starts_again_on_an_open_stream_is_told(
    simulator, user, relay, connect, client
):
    simulator.fault("renumber")
    simulator.emit(user.id, "desktops", 3)
    await client.has(13)
    records = [record.data for record in simulator.log(user.id, "desktops")]
    assert [event.data for event in client.events] == records
    assert client.gaps == ["upstream"]
    # An id of the old numbering means something else now; nobody may be sent on from there.
    late = await connect(relay, cursor=client.ids[7])
    await eventually(lambda: late.told)
    assert late.gaps[0] in {"unknown_id", "upstream"}


async def test_two_events_with_one_id_are_both_delivered(simulator, user, relay, connect):
    client = await connect(relay)
    simulator.fault("doubled_ids:same")
    simulator.emit(user.id, "desktops", 10)
    await client.has(20)
    records = [record.data for record in simulator.log(user.id, "desktops")]
    assert [event.data for event in client.events] == records
    assert client.gaps == []


async def test_a_cursor_that_names_two_events_is_a_gap(simulator, user, relay, connect):
    client = await connect(relay)
    simulator.fault("doubled_ids:same")
    simulator.emit(user.id, "desktops", 5)
    await client.has(10)
    late = await connect(relay, cursor=client.ids[3])
    await eventually(lambda: late.told)
    assert late.gaps == ["unknown_id"]


async def test_one_id_for_two_different_events_is_told(simulator, user, relay, connect):
    client = await connect(relay)
    simulator.fault("doubled_ids")
    simulator.emit(user.id, "desktops", 6)
    await client.has(6)
    records = [record.data for record in simulator.log(user.id, "desktops")]
    assert [event.data for event in client.events] == records
    assert set(client.gaps) == {"upstream"}


async def test_repeats_after_a_cut_are_not_dropped_where_upstream_repeats(
    simulator, user, relay, connect, break_off
):
    """The overlap ends with what was known; the same event once more after it is news."""
    client = await connect(relay)
    for event_id in ("a", "b", "b"):
        simulator.emit_event(user.id, "desktops", "t", {}, event_id=event_id)
    await client.has(3)
    await break_off(0)
    simulator.emit_event(user.id, "desktops", "t", {}, event_id="b")
    simulator.emit_event(user.id, "desktops", "t", {}, event_id="c")
    await eventually(lambda: client.ids[-1:] == ["c"])
    assert client.ids == ["a", "b", "b", "b", "c"]
    assert not client.told


# Without ids, or with some


async def test_without_ids_the_relay_makes_its_own_and_replays_by_them(
    simulator, user, relay, connect
):
    simulator.fault("no_ids")
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 10)
    await client.has(10)
    assert len(set(client.ids)) == 10
    assert all(event_id.startswith("~lbr") for event_id in client.ids)
    again = await connect(relay, cursor=client.ids[3])
    await again.has(6)
    assert again.blocks == client.blocks[4:]
    assert not again.told


async def test_without_ids_a_cut_is_told(simulator, user, relay, connect, break_off):
    simulator.fault("no_ids")
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 5)
    await client.has(5)
    await break_off(2)
    simulator.emit(user.id, "desktops", 2)
    await client.has(7)
    assert client.gaps == ["upstream"]
    assert asked(simulator) == [None, None], "what the relay made up never goes upstream"


async def test_ids_of_another_relay_are_a_gap_and_never_go_upstream(
    simulator, user, serve, connect
):
    simulator.fault("no_ids")
    first = await serve(simulator.url)
    client = await connect(first)
    simulator.emit(user.id, "desktops", 5)
    await client.has(5)
    second = await serve(simulator.url)
    moved = await connect(second, cursor=client.last_id)
    await eventually(lambda: moved.told)
    assert moved.gaps == ["unknown_id"]
    assert asked(simulator) == [None, None]


@pytest.mark.parametrize("missed", [0, 1, 2, 3, 7])
async def test_with_some_ids_a_cut_loses_nothing(
    simulator, user, relay, connect, break_off, missed
):
    simulator.fault("some_ids:3")
    client = await connect(relay)
    for before in (10, 1, 1):
        simulator.emit(user.id, "desktops", before)
        await client.has(len(emitted(simulator, user)))
        await break_off(missed)
    simulator.emit(user.id, "desktops", 4)
    records = [record.data for record in simulator.log(user.id, "desktops")]
    await client.has(len(records))
    assert [event.data for event in client.events] == records
    assert not client.told
    assert len(set(client.ids)) == len(client.ids)


@pytest.mark.parametrize("place", range(3, 14))
async def test_a_cold_relay_understands_ids_that_another_derived(
    simulator, user, serve, connect, place
):
    simulator.fault("some_ids:4")
    first = await serve(simulator.url)
    client = await connect(first)
    simulator.emit(user.id, "desktops", 15)
    await client.has(15)
    second = await serve(simulator.url)
    moved = await connect(second, cursor=client.ids[place])
    simulator.emit(user.id, "desktops", 2)
    await client.has(17)
    await moved.has(16 - place)
    assert moved.blocks == client.blocks[place + 1 :]
    assert asked(simulator)[-1] == client.ids[place].partition("~lbr")[0]


async def test_some_ids_and_tabs_in_the_wrong_order_on_a_cold_relay(
    simulator, user, serve, connect
):
    simulator.fault("some_ids:3")
    first = await serve(simulator.url)
    client = await connect(first)
    simulator.emit(user.id, "desktops", 20)
    await client.has(20)
    second = await serve(simulator.url)
    moved = {place: await connect(second, cursor=client.ids[place]) for place in (17, 5, 11, 3)}
    simulator.emit(user.id, "desktops", 5)
    await client.has(25)
    for place, each in moved.items():
        await each.has(24 - place)
        assert each.blocks == client.blocks[place + 1 :]
        assert not each.told


# Catch-up with an upstream that misbehaves


@pytest.mark.parametrize("fault", ["cursor_ignored:live", "cursor_ignored:all", "amnesia"])
async def test_a_catch_up_that_upstream_does_not_serve_is_told(
    simulator, user, serve, connect, fault
):
    relay = await serve(simulator.url, replay={"catchup_timeout": 0.3})
    simulator.emit(user.id, "desktops", 20)
    order = emitted(simulator, user)
    opener = await connect(relay, cursor=order[14])
    await opener.has(5)
    simulator.fault(fault)
    late = await connect(relay, cursor=order[4])
    await eventually(lambda: late.told)
    simulator.emit(user.id, "desktops", 3)
    await opener.has(8)
    await eventually(lambda: late.ids[-1:] == opener.ids[-1:])
    assert late.gaps == ["unknown_id"]
    assert breaks(late.blocks, emitted(simulator, user)) == []
    assert not opener.told


@pytest.mark.parametrize("fault", ["cut:0", "cut:700", "cut:mid", "500", "end", "429", "stall"])
async def test_a_catch_up_that_breaks_is_made_again_while_there_is_time(
    simulator, user, serve, connect, fault
):
    waits = fault == "429"  # for longer than a catch-up may take
    timeout_s = {"429": 0.5, "stall": 2.0}.get(fault, 5.0)  # of which one attempt has half
    relay = await serve(simulator.url, replay={"catchup_timeout": timeout_s})
    simulator.emit(user.id, "desktops", 20)
    order = emitted(simulator, user)
    opener = await connect(relay, cursor=order[14])
    await opener.has(5)
    simulator.fault(fault, times=1)
    late = await connect(relay, cursor=order[4])
    await eventually(lambda: late.told if waits else len(late.events) == 15)
    simulator.emit(user.id, "desktops", 3)
    await opener.has(8)
    await eventually(lambda: late.ids[-1:] == opener.ids[-1:])
    assert late.gaps == (["unknown_id"] if waits else [])
    assert breaks(late.blocks, emitted(simulator, user)) == []
    assert not opener.told


async def test_a_catch_up_goes_on_while_the_subscription_is_down(simulator, user, serve, connect):
    relay = await serve(simulator.url, upstream={"retry_min": 0.5, "retry_max": 0.5})
    simulator.emit(user.id, "desktops", 20)
    order = emitted(simulator, user)
    opener = await connect(relay, cursor=order[14])
    await opener.has(5)
    simulator.cut_all()
    late = await connect(relay, cursor=order[4])
    await late.has(15)
    simulator.emit(user.id, "desktops", 3)
    for client in (opener, late):
        await eventually(lambda client=client: client.ids[-1:] == emitted(simulator, user)[-1:])
        assert not client.told


# Everything at once


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_bad_day_loses_nothing_untold(simulator, user, serve, tab, seed):
    """Cuts, lost tabs and restarts of the relay under bursts: where cursors hold, no hole."""
    rng = random.Random(seed)
    room = {"max_events": 100_000, "max_bytes": 100_000_000}
    relay = await serve(simulator.url, replay=room)
    port = int(relay.public_url.rpartition(":")[2])
    simulator.emit(user.id, "desktops", 2)
    first = emitted(simulator, user)[0]
    tabs: list[Tab] = [tab(relay, cursor=first) for _ in range(8)]
    await eventually(lambda: all(each.connections for each in tabs))
    for _ in range(120):
        simulator.emit(user.id, "desktops", rng.choice((0, 1, 3, 40)))
        if rng.random() < 0.1:
            simulator.cut_all()
        if rng.random() < 0.3:
            rng.choice(tabs).drop()
        if rng.random() < 0.03:
            await relay.stop()
            simulator.emit(user.id, "desktops", 5)
            relay = await serve(simulator.url, listen={"port": port}, replay=room)
        await asyncio.sleep(rng.choice((0, 0.005, 0.02)))
    simulator.emit(user.id, "desktops", 1)
    order = emitted(simulator, user)
    for each in tabs:
        await eventually(lambda each=each: each.ids[-1:] == order[-1:], 10)
        assert each.gaps == []
        assert each.ids == order[1:]


BIG = {"max_events": 100_000, "max_bytes": 100_000_000}
TINY = {"max_events": 20, "catchup_timeout": 0.1}
BROKEN = ["500", "cut:mid", "end"]
DISHONEST = ["amnesia", "cursor_ignored:live", "cursor_rejected:400"]


@pytest.mark.parametrize(
    ("seed", "room", "faults"),
    [(3, BIG, BROKEN + DISHONEST), (4, BIG, DISHONEST), (5, TINY, BROKEN), (6, TINY, BROKEN)],
)
async def test_a_worse_day_tells_whatever_it_loses(simulator, user, serve, tab, seed, room, faults):
    """Faults of every kind on top: every hole has its gap. (No restarts of the relay: a cold one
    can't prove that upstream honoured a cursor, and trusts it.)
    """
    rng = random.Random(seed)
    relay = await serve(simulator.url, replay=room)
    simulator.emit(user.id, "desktops", 2)
    first = emitted(simulator, user)[0]
    tabs: list[Tab] = [tab(relay, cursor=first) for _ in range(8)]
    await eventually(lambda: all(each.connections for each in tabs))
    for _ in range(150):
        simulator.emit(user.id, "desktops", rng.choice((0, 1, 3, 40)))
        if rng.random() < 0.1:
            fault = rng.choice(faults)
            simulator.fault(fault, times=None if fault == "amnesia" else 1)
        if rng.random() < 0.1:
            simulator.cut_all()
        if rng.random() < 0.3:
            rng.choice(tabs).drop()
        await asyncio.sleep(rng.choice((0, 0.005, 0.02)))
    simulator.clear_faults()
    await eventually(lambda: simulator.subscriptions_total >= 1)
    for _ in range(5):
        simulator.emit(user.id, "desktops", 1)
        await asyncio.sleep(0.02)
    order = emitted(simulator, user)
    for each in tabs:
        await eventually(lambda each=each: each.ids[-1:] == order[-1:], 10)
        assert breaks(each.seen, order) == []
