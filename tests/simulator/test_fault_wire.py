"""Each fault does on the wire what its line in the catalogue says."""

import asyncio
import json

import pytest

from lebureau_relay.errors import ConfigError
from lebureau_relay.simulator import Fault, Simulator
from lebureau_relay.simulator.catalogue import FaultKind

USER = "user_0001"
PLAIN = b'id: evt_0000000001\ndata: {"type":"x","payload":{}}\n\n'


def evt(number: int) -> str:
    return f"evt_{number:010d}"


def emit_plain(simulator) -> None:
    simulator.emit_event(USER, "desktops", "x", {})


# Instead of a stream


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_status_instead_of_a_stream(simulator, ask, status):
    simulator.fault(f"{status}:times=1")
    wire = await ask(simulator)
    assert wire.status == status
    assert (await wire.json())["statusCode"] == status
    assert wire.headers.get("Retry-After") == ("5" if status == 429 else None)
    assert (await ask(simulator)).status == 200


async def test_no_content(simulator, ask):
    simulator.fault("204")
    wire = await ask(simulator)
    assert (wire.status, await wire.end()) == (204, (b"", True))


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_as_ordered(simulator, ask, status):
    simulator.fault(f"{status}:17")
    assert (await ask(simulator)).headers["Retry-After"] == "17"


async def test_a_fault_hits_whom_it_names(simulator, ask):
    other = simulator.user(2).key
    simulator.fault("500", user=USER, stream="activity")
    assert (await ask(simulator, "activity")).status == 500
    assert (await ask(simulator, "desktops")).status == 200
    assert (await ask(simulator, "activity", key=other)).status == 200
    assert (await ask(simulator, path="/v1/me")).status == 200


async def test_identity_and_list_can_fail_on_their_own(simulator, ask):
    simulator.fault("503", stream="me")
    simulator.fault("500", stream="list")
    assert (await ask(simulator, path="/v1/me")).status == 503
    assert (await ask(simulator, path="/api/desktops")).status == 500
    assert (await ask(simulator)).status == 200


async def test_a_redirect_on_the_same_origin_arrives(simulator, ask):
    simulator.fault("redirect")
    wire = await ask(simulator)
    assert (wire.status, wire.headers["Location"]) == (307, "/moved/api/desktops/stream")
    followed = await ask(simulator, allow_redirects=True)
    emit_plain(simulator)
    assert await followed.until(b"\n\n") == PLAIN


async def test_a_redirect_to_another_origin(simulator, ask):
    simulator.fault("redirect:http://elsewhere.example/")
    wire = await ask(simulator, params={"a": "b"})
    assert wire.headers["Location"] == "http://elsewhere.example/api/desktops/stream?a=b"


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
async def test_another_content_type(simulator, ask, kind):
    simulator.fault(f"content_type:{kind}")
    wire = await ask(simulator)
    assert (wire.status, wire.headers["Content-Type"]) == (200, kind)
    assert b"no event stream" in (await wire.end())[0]


@pytest.mark.parametrize(
    ("text", "status"), [("cursor_rejected", 400), ("cursor_rejected:412", 412)]
)
async def test_a_cursor_is_rejected_only_where_one_came(simulator, ask, text, status):
    simulator.fault(text)
    assert (await ask(simulator)).status == 200
    assert (await ask(simulator, cursor=evt(1))).status == status


async def test_a_stall_sends_not_even_headers_and_ends_with_the_simulator(simulator, ask):
    simulator.fault("stall")
    waiting = asyncio.ensure_future(ask(simulator))
    await simulator.until(lambda: len(simulator.requests) == 1)
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    assert simulator.requests[0].status is None
    await simulator.stop()
    with pytest.raises(OSError, match=r"disconnected|reset|Cannot connect"):
        await waiting


async def test_a_stall_after_headers(simulator, ask):
    simulator.fault("stall:body")
    wire = await ask(simulator)
    assert (wire.status, wire.headers["Content-Type"]) == (200, "text/event-stream")
    emit_plain(simulator)
    assert await wire.quiet(0.2)
    assert simulator.subscriptions_total == 0


# The bytes of one connection


async def test_a_cut_now_breaks_what_is_open_and_spares_what_comes(simulator, ask):
    wire = await ask(simulator)
    emit_plain(simulator)
    assert await wire.until(b"\n\n") == PLAIN
    assert simulator.fault("cut", while_open=True) == 1
    assert await wire.end() == (b"", False)
    again = await ask(simulator, cursor="")
    emit_plain(simulator)
    assert await again.ids(1) == [evt(2)]


@pytest.mark.parametrize("count", [0, 1, len(PLAIN) - 1, len(PLAIN), len(PLAIN) + 5])
@pytest.mark.parametrize("while_open", [True, False])
async def test_a_cut_after_so_many_bytes(simulator, ask, count, while_open):
    if not while_open:
        simulator.fault(f"cut:{count}")
    wire = await ask(simulator)
    if while_open:
        simulator.fault(f"cut:{count}", while_open=True)
    emit_plain(simulator)
    emit_plain(simulator)
    both = PLAIN + PLAIN.replace(b"01", b"02")
    assert await wire.end() == (both[:count], False)


async def test_a_cut_inside_the_next_frame(simulator, ask):
    simulator.fault("cut:mid")
    wire = await ask(simulator)
    emit_plain(simulator)
    assert await wire.end() == (PLAIN[: len(PLAIN) // 2], False)


async def test_all_can_be_cut_at_once(simulator, ask):
    wires = [await ask(simulator, s) for s in ("desktops", "activity", "activity")]
    assert simulator.cut_all() == 3
    assert [await wire.end() for wire in wires] == [(b"", False)] * 3
    await simulator.until(lambda: simulator.subscriptions_total == 0)


async def test_an_end_in_good_order(simulator, ask):
    wire = await ask(simulator)
    emit_plain(simulator)
    assert await wire.until(b"\n\n") == PLAIN
    simulator.fault("end", while_open=True)
    assert await wire.end() == (b"", True)


async def test_silence_until_it_is_cleared(simulate, ask):
    simulator = await simulate(heartbeat_s=0.05)
    wire = await ask(simulator)
    simulator.fault("silence", while_open=True)
    emit_plain(simulator)
    assert await wire.quiet(0.3)
    assert simulator.subscriptions_total == 1
    simulator.clear_faults()
    assert await wire.until(PLAIN[-10:])


@pytest.mark.parametrize("size", [1, 7])
async def test_slow_comes_in_pieces(simulator, ask, size):
    simulator.fault(f"slow:{size}")
    wire = await ask(simulator)
    emit_plain(simulator)
    pieces = []
    while sum(map(len, pieces)) < len(PLAIN):
        pieces.append(await asyncio.wait_for(wire._answer.content.readany(), 5))
    assert b"".join(pieces) == PLAIN
    assert len(pieces) > len(PLAIN) / size / 4  # the kernel may hand over a few at a time
    assert all(len(piece) % size == 0 for piece in pieces[:-1])


async def test_garbage_stands_between_whole_frames(simulator, ask):
    wire = await ask(simulator)
    emit_plain(simulator)
    assert await wire.until(b"\n\n") == PLAIN
    simulator.fault("garbage:100", while_open=True)
    emit_plain(simulator)
    noise = await wire.exactly(102)
    assert noise.endswith(b"\n\n")
    assert not noise.isascii()
    assert await wire.until(b"\n\n") == PLAIN.replace(b"01", b"02")


@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        ("cr", [b"\r"] * 3),
        ("crlf", [b"\r\n"] * 3),
        ("mixed", [b"\n", b"\r", b"\r\n"]),
    ],
)
async def test_line_ends(simulator, ask, fault, ends):
    simulator.fault(fault)
    wire = await ask(simulator)
    emit_plain(simulator)
    emit_plain(simulator)
    lines = PLAIN.split(b"\n")[:-1]
    first = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    expected = first + first.replace(b"01", b"02")
    assert await wire.exactly(len(expected)) == expected


async def test_a_byte_order_mark_comes_first(simulate, ask):
    simulator = await simulate(retry_ms=5)
    simulator.fault("bom")
    wire = await ask(simulator)
    emit_plain(simulator)
    expected = b"\xef\xbb\xbfretry: 5\n\n" + PLAIN
    assert await wire.exactly(len(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cursor_ignored", [evt(6)]),
        ("cursor_ignored:live", [evt(6)]),
        ("cursor_ignored:all", [evt(1), evt(2), evt(3), evt(4), evt(5), evt(6)]),
    ],
)
async def test_a_cursor_is_ignored(simulator, ask, text, expected):
    simulator.emit(USER, "desktops", 5)
    simulator.fault(text)
    wire = await ask(simulator, cursor=evt(3))
    simulator.emit(USER, "desktops")
    assert await wire.ids(len(expected)) == expected


async def test_faults_of_delivery_add_up(simulator, ask):
    simulator.fault("bom")
    simulator.fault("crlf")
    simulator.fault("cut:20")
    wire = await ask(simulator)
    emit_plain(simulator)
    expected = b"\xef\xbb\xbf" + PLAIN.replace(b"\n", b"\r\n")
    assert await wire.end() == (expected[:20], False)


# The events themselves


async def test_an_oversize_event_is_one_event_in_the_log(simulator, ask):
    simulator.fault("oversize:100000")
    simulator.emit(USER, "desktops", 2)
    simulator.fault("cursor_ignored:all")
    for _ in range(2):
        wire = await ask(simulator, cursor=evt(1))
        big, small = await wire.blocks(2)
        assert (big["id"], small["id"]) == (evt(1), evt(2))
        assert len(big["data"]) > 100_000
        assert len(small["data"]) < 1000


async def test_no_ids_and_back(simulator, ask):
    wire = await ask(simulator)
    simulator.fault("no_ids:times=2")
    simulator.emit(USER, "desktops", 3)
    assert await wire.ids(3) == [None, None, evt(3)]


async def test_some_ids(simulator, ask):
    wire = await ask(simulator)
    simulator.fault("some_ids:2")
    simulator.emit(USER, "desktops", 5)
    assert await wire.ids(5) == [None, evt(2), None, evt(4), None]


async def test_two_events_share_an_id(simulator, ask):
    wire = await ask(simulator)
    simulator.fault("doubled_ids")
    records = simulator.emit(USER, "desktops", 4)
    assert await wire.ids(4) == [evt(1), evt(1), evt(3), evt(3)]
    assert len({record.data for record in records}) == 4


async def test_every_event_comes_twice(simulator, ask):
    wire = await ask(simulator)
    simulator.fault("doubled_ids:same", times=1)
    simulator.emit(USER, "desktops", 2)
    first, repeat, second = await wire.blocks(3)
    assert first == repeat
    assert (repeat["id"], second["id"]) == (evt(1), evt(2))


async def test_numbering_starts_again(simulator, ask):
    wire = await ask(simulator)
    simulator.emit(USER, "desktops", 2)
    assert simulator.fault("renumber", user=USER) == 2
    simulator.emit(USER, "desktops", 2)
    assert await wire.ids(4) == [evt(1), evt(2), evt(1), evt(2)]


async def test_numbering_starts_again_every_so_often(simulator, ask):
    wire = await ask(simulator)
    simulator.fault("renumber:every=3")
    simulator.emit(USER, "desktops", 5)
    assert await wire.ids(5) == [evt(1), evt(2), evt(1), evt(2), evt(3)]


async def test_amnesia_forgets_the_log_but_not_the_numbering(simulator, ask):
    wire = await ask(simulator)
    simulator.emit(USER, "desktops", 3)
    assert simulator.fault("amnesia", user=USER, stream="desktops") == 1
    late = await ask(simulator, cursor=evt(2))
    simulator.fault("cursor_ignored:all")
    everything = await ask(simulator, cursor=evt(2))
    simulator.emit(USER, "desktops")
    assert await wire.ids(4) == [evt(1), evt(2), evt(3), evt(4)]
    assert await late.ids(1) == [evt(4)]
    assert await everything.ids(1) == [evt(4)]
    assert len(simulator.log(USER, "desktops")) == 4


# Orders


async def test_faults_given_as_options_stand_from_the_start(simulate, ask):
    simulator = await simulate(faults=("503:2,times=1", "crlf"))
    assert (await ask(simulator)).status == 503
    wire = await ask(simulator)
    emit_plain(simulator)
    assert await wire.until(b"\r\n\r\n") == PLAIN.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("fault", [f for f in Fault if f.kind is not FaultKind.DELIVERY])
def test_what_cannot_be_done_to_an_open_stream_is_said(fault):
    with pytest.raises(ConfigError, match="can't be done to an open stream; choose from"):
        Simulator().fault(fault, while_open=True)


async def test_the_data_of_a_faulty_event_is_still_its_json(simulator, ask):
    simulator.fault("mixed")
    wire = await ask(simulator)
    record = simulator.emit(USER, "desktops")[0]
    body = (await wire.until(b"\r\n")).decode()
    assert json.loads(body.splitlines()[1].removeprefix("data: ")) == json.loads(record.data)
