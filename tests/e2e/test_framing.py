"""The bytes of a stream: one frame one chunk, whole frames per write, no block without data."""

import asyncio
import time

import pytest
from tests.e2e.clients import ACTIVITY, DESKTOPS, SseClient, ask, eventually

HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
    "connection": "close",
}


async def test_headers_and_opening_leave_at_once(relay, connect):
    client = await connect(relay, opened=False, headers=[("Accept-Encoding", "gzip, br, deflate")])
    began_s = time.monotonic()
    await client.opened()
    assert time.monotonic() - began_s < 0.5
    for name, value in HEADERS.items():
        assert client.headers[name] == value
    assert client.headers["transfer-encoding"] == "chunked"
    assert not {"content-length", "content-encoding"} & client.headers.keys()
    assert client.blocks == []
    assert client.retry_ms > 0


@pytest.mark.parametrize("path", [DESKTOPS, ACTIVITY])
async def test_each_event_is_one_chunk_in_one_write(simulator, user, relay, connect, path):
    stream = {DESKTOPS: "desktops", ACTIVITY: "activity"}[path]
    client = await connect(relay, path)
    for number in range(1, 40):
        before = len(client.segments)
        simulator.emit(user.id, stream, 1)
        await client.has(number)
        frame = client.chunks[-1]
        assert client.segments[before:][-1] == b"%x\r\n%b\r\n" % (len(frame), frame)


async def test_large_events_leave_whole(simulator, user, relay, connect):
    client = await connect(relay)
    for number, size in enumerate((1_000, 5_000, 15_000), 1):
        simulator.emit_event(user.id, "desktops", "desktop.status", {"pad": "ü" * (size // 2)})
        await client.has(number)
        assert client.segments[-1].endswith(b"\n\n\r\n")
        assert client.segments[-1].count(b"data: ") == 1


async def test_a_burst_is_joined_into_few_writes_of_whole_frames(simulator, user, relay, connect):
    clients = [await connect(relay) for _ in range(5)]
    before = [len(client.segments) for client in clients]
    simulator.emit(user.id, "desktops", 500)
    for client, count in zip(clients, before, strict=True):
        await client.has(500)
        assert len(client.chunks) - client.heartbeats == 501  # the opening is one, too
        assert len(client.segments) - count < 150
    assert len({tuple(client.ids) for client in clients}) == 1


async def test_heartbeats_stand_alone_and_between_frames(simulator, user, relay, connect):
    client = await connect(relay)
    await eventually(lambda: client.heartbeats >= 3)
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)
    seen = client.heartbeats
    await eventually(lambda: client.heartbeats >= seen + 2)
    assert [what for what in client.timeline if what != "beat"] == ["opening", "block"]


async def test_no_heartbeat_where_events_are_enough(simulator, user, serve, connect):
    relay = await serve(simulator.url, stream={"heartbeat": 1})
    client = await connect(relay)
    deadline_s = time.monotonic() + 2.2
    while time.monotonic() < deadline_s:
        simulator.emit(user.id, "desktops", 1)
        await asyncio.sleep(0.05)
    assert client.heartbeats == 0
    assert len(client.events) > 20


async def test_the_retry_hint_differs_from_tab_to_tab(simulator, serve, connect):
    relay = await serve(simulator.url, stream={"retry": 3})
    hints = {(await connect(relay)).retry_ms for _ in range(20)}
    assert len(hints) > 10
    assert min(hints) >= 2000
    assert max(hints) <= 4500


async def test_types_and_lines_and_ids_reach_the_client_as_upstream_sent_them(
    simulator, user, relay, connect
):
    client = await connect(relay)
    send = [
        (b"id: a\nevent: note\ndata: x\n\n", ("a", "note", "x")),
        (b"id: b\nevent: message\ndata: y\n\n", ("b", "", "y")),
        (b"id:c\ndata:no space\n\n", ("c", "", "no space")),
        (b"id:  d \ndata:  two spaces\n\n", (" d ", "", " two spaces")),
        (b"id: e\ndata: one\ndata\ndata:\ndata: four\n\n", ("e", "", "one\n\n\nfour")),
        (b"id: f\ndata\n\n", ("f", "", "")),
        (b"id: g\ndata: \xff\xfe\xc3\x28\n\n", ("g", "", "\ufffd\ufffd\ufffd(")),
        (b"id: h\0\ndata: NUL id\n\n", ("g~lbr1", "", "NUL id")),
        (b"data: no id\n\n", ("g~lbr2", "", "no id")),
        ("id: ü\ndata: ☃\n\n".encode(), ("ü", "", "☃")),
        (b"id: i\nunknown: field\n: comment\ndata: z\nretry: abc\n\n", ("i", "", "z")),
        (b"event: ghost\n\nid: j\n\ndata: after\n\n", ("j~lbr1", "", "after")),
        (b"id: k\r\ndata: crlf\r\n\r\n", ("k", "", "crlf")),
        (b"id: l\rdata: cr\r\r", ("l", "", "cr")),
        (b"id\ndata: empty id\n\n", None),
        (b"id: m\nevent\ndata: empty type\n\n", ("m", "", "empty type")),
        (b"id: n\nid: o\nevent: p\nevent: q\ndata: last wins\n\n", ("o", "q", "last wins")),
    ]
    for number, (raw, expected) in enumerate(send, 1):
        simulator.emit_raw(user.id, "desktops", raw)
        await client.has(number)
        if expected:
            assert client.blocks[-1][:3] == expected
    assert client.blocks[14].id.startswith("~lbr")
    assert not client.told


async def test_what_is_no_event_never_arrives(simulator, user, relay, connect):
    client = await connect(relay)
    for raw in (
        b"\n\n\n",
        b": comment\n\n",
        b"event: x\n\n",
        b"id: 7\n\n",
        b"retry: 5\n\n",
        b"\r\r",
    ):
        simulator.emit_raw(user.id, "desktops", raw)
    simulator.emit_raw(user.id, "desktops", b"data: unfinished\n")
    beats = client.heartbeats
    await eventually(lambda: client.heartbeats > beats)
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() == 2)
    simulator.emit_event(user.id, "desktops", "desktop.status", {}, event_id="z")
    await client.has(1)
    assert client.ids == ["z"]


async def test_http_1_0_gets_the_same_bytes_without_chunks(simulator, user, relay, connect):
    new, old = await connect(relay), await connect(relay, version="1.0")
    assert "transfer-encoding" not in old.headers
    simulator.emit(user.id, "desktops", 300)
    await new.has(300)
    await old.has(300)
    assert old.blocks == new.blocks
    replayed = await connect(relay, version="1.0", cursor=old.ids[99])
    await replayed.has(200)
    assert replayed.blocks == new.blocks[100:]
    await eventually(lambda: old.heartbeats > 1)


async def test_head_says_what_get_would_and_opens_nothing(simulator, user, relay):
    reply = await ask(relay.public_url, key=user.key, method="HEAD")
    assert reply.status == 200
    assert reply.body == b""
    for name, value in HEADERS.items():
        assert reply.headers[name] == value
    assert simulator.subscriptions_opened() == 0


async def test_the_last_chunk_ends_a_deliberate_end(relay, connect):
    chunked, bare = await connect(relay), await connect(relay, version="1.0")
    await relay.drain()
    for client in (chunked, bare):
        await client.ended()
        assert client.reason == "draining"
        assert client.blocks[-1].retry_ms == client.blocks[-1].payload["retry"]
    assert chunked.finished


async def test_the_strict_client_is_strict():
    """The net itself: each of these would be a breach, and is noted as one."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    breaches = (
        [b"data: a\n\n"],
        [b"id: a\n\n"],
        [b"\n"],
        [b":\n\n"],
        [b"id: a\ndata: b\n"],
        [b"id: a\r\ndata: b\r\n\r\n"],
        [b"id: a\ndata: b\n\n:\n"],
        [b"id: a\ndata: b\n\nid: c\ndata: d\n\n"],
        [b"retry: 9\n:\n"],
        [b"", b":\n"],
    )
    for chunks in breaches:
        client = SseClient()
        body = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (b"retry: 9\n:\n", *chunks))
        client.data_received(head + body)
        assert client.faults, chunks
