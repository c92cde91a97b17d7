"""Clients that get HTTP wrong, by mistake or on purpose: a clear 4xx or a bounded end, and nobody
else notices.
"""

import asyncio
import struct
from contextlib import suppress

import pytest
from tests.e2e.clients import ACTIVITY, DESKTOPS, PATHS, address, ask, eventually, head

from lebureau_relay.edge.server import build_runner


@pytest.fixture
async def witness(simulator, user, relay, connect):
    """A well-behaved client; whatever the others do, it gets its events and hears nothing else."""
    client = await connect(relay)
    yield client
    simulator.emit(user.id, "desktops", 3)
    await client.has(3)
    assert not client.told
    assert simulator.subscriptions_opened(user.id, "desktops") == 1


async def test_a_body_is_no_reason_to_refuse_and_no_reason_to_wait(relay, connect, witness):
    for headers in ([("Content-Length", "5")], [("Transfer-Encoding", "chunked")]):
        client = await connect(relay, headers=headers)
        client.transport.write(b"5\r\nhello\r\n0\r\n\r\n")
        beats = client.heartbeats
        await eventually(lambda client=client, beats=beats: client.heartbeats > beats + 2)


async def test_a_body_without_end_is_cut_off(relay, connect, witness):
    client = await connect(relay, headers=[("Content-Length", "1000000000")])
    await pour(client)


async def test_requests_on_an_open_stream_are_passed_over(simulator, user, relay, connect, witness):
    client = await connect(relay)
    client.transport.write(head(ACTIVITY, key=user.key) * 50)
    client.transport.write(b"\x16\x03\x01 this is no HTTP at all\r\n\r\n")
    beats = client.heartbeats
    await eventually(lambda: client.heartbeats > beats + 2)
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)
    assert client.raw.count(b"HTTP/1.1") == 1
    assert simulator.subscriptions_opened(user.id, "activity") == 0


async def test_requests_sent_together_get_one_stream(simulator, user, relay, connect, witness):
    pipelined = head(DESKTOPS, key=user.key) * 20
    client = await connect(relay, opened=False)
    client.transport.write(pipelined)
    await client.opened()
    beats = client.heartbeats
    await eventually(lambda: client.heartbeats > beats + 2)
    assert client.raw.count(b"HTTP/1.1") == 1
    client.transport.write_eof()
    await client.ended()


async def pour(client) -> None:
    """Send until the relay has had enough, which must be soon."""
    sent = 0
    while not client.closed:
        client.transport.write(b"x" * 4096)
        sent += 4096
        assert sent < 8_000_000, "nobody stops it"
        await asyncio.sleep(0)


async def test_one_that_talks_without_end_is_cut_off(relay, connect, witness, counts):
    client = await connect(relay)
    await pour(client)
    await counts(relay, 1, "subscribers")


async def test_half_a_close_is_a_close(relay, connect, witness, counts):
    client = await connect(relay)
    client.transport.write_eof()
    await client.ended()
    await counts(relay, 1, "subscribers")


async def test_a_reset_is_a_close(relay, connect, witness, counts):
    client = await connect(relay)
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: close by RST
    client.abort()
    await counts(relay, 1, "subscribers")


@pytest.mark.parametrize(
    "raw",
    [
        head(headers=[(f"X-{n}", "y") for n in range(2000)]),
        head(headers=[("X", "y" * 9000)]),
        head(headers=[("X" * 9000, "y")]),
        head(headers=[("Cookie", "a=b; " * 3000)]),
        head(f"{DESKTOPS}?q={'x' * 9000}"),
        head("/" + "x" * 100_000),
        head(key="k" * 8500),
        b"get /api/desktops/stream HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/desktops/stream HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET /api/desktops/stream HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        b"GET /api/desktops/stream HTTP/1.1\r\nHost: a\r\nx: \0\r\n\r\n",
        b"GET /api/desktops/stream HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        head(headers=[("Content-Length", "1"), ("Content-Length", "2")]),
        head(headers=[("Content-Length", "1"), ("Transfer-Encoding", "chunked")]),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"\0" * 10_000,
        bytes(range(256)) * 40,
        b"BREW /api/desktops/stream HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[/api HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=lambda raw: ascii(raw[:28])[2:],
)
async def test_what_is_no_request_is_refused_in_words_of_our_own(relay, witness, raw):
    reply = await ask(relay.public_url, raw=raw)
    assert (reply.status, reply.code) == (400, "bad_request")
    for echo in (b"xxxxxxxx", b"kkkkkkkk", b"folded", b"BREW"):
        assert echo not in reply.raw


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 404), ("/api", 404), (DESKTOPS + "/", 404), ("/API/desktops/stream", 404)),
        *(("//api/desktops/stream", 404), ("/api/desktops//stream", 404), ("/metrics", 404)),
        *(("/api/desktops/stream%00", 404), ("/%ff%fe", 404), ("/../../etc/passwd", 404)),
        *(("*", 404), ("/api/desktops/stream;v=1", 404), ("/healthz", 404), ("/status", 404)),
    ],
)
async def test_other_paths_are_not_found(relay, user, witness, path, status):
    reply = await ask(relay.public_url, path, key=user.key)
    assert reply.status in {status, 400}
    assert reply.code in {"not_found", "bad_request"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "PROPFIND", "TRACE"])
@pytest.mark.parametrize("stream", PATHS)
async def test_other_methods_are_not_allowed(relay, user, witness, method, stream):
    reply = await ask(relay.public_url, PATHS[stream], key=user.key, method=method)
    assert (reply.status, reply.code) == (405, "method_not_allowed")
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_the_absolute_form_is_a_form(relay, connect, witness):
    client = await connect(relay, f"http://relay.example{DESKTOPS}")
    assert client.status == 200


@pytest.mark.parametrize("expect", ["100-continue", "200-ok", "lb_k_secret"])
async def test_expectations_are_met_or_refused_without_repeating_them(relay, user, witness, expect):
    raw = head(
        f"{DESKTOPS}/no", key=user.key, headers=[("Expect", expect), ("Connection", "close")]
    )
    reply = await ask(relay.public_url, raw=raw)
    assert b"lb_k_secret" not in reply.raw
    assert reply.raw.startswith(
        (b"HTTP/1.1 100", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 417")
    )


async def test_http_1_0_is_served_without_chunks(simulator, user, relay, connect, witness):
    client = await connect(relay, version="1.0", headers=[("Connection", "keep-alive")])
    assert "transfer-encoding" not in client.headers
    assert client.headers["connection"] == "close"


@pytest.fixture
def impatient(monkeypatch):
    """Relays made from now on bear less; tests/hardening looks at how much it really is."""
    monkeypatch.setitem(build_runner.__kwdefaults__, "head_timeout_s", 2.0)


async def test_silence_before_a_request_is_over_is_not_borne_for_ever(
    impatient, relay, user, witness
):
    """Each of these holds a descriptor that somebody else could have."""
    whole = head(f"{DESKTOPS}/no", key=user.key)
    silent = (b"", b"G", b"GET /api/desktops/stream HTTP/1.1\r\nHost: a\r\nx-api-key: ", whole[:-2])

    async def hold(said: bytes, drip: bytes = b"") -> None:
        reader, writer = await asyncio.open_connection(*address(relay.public_url))
        writer.write(said)
        reading = asyncio.ensure_future(reader.read())
        while not reading.done():
            if drip and not writer.transport.is_closing():
                writer.write(drip)
            await asyncio.wait((reading,), timeout=0.3)
        with suppress(ConnectionError):
            reading.result()
        writer.close()

    async with asyncio.timeout(20):
        await asyncio.gather(
            *map(hold, (*silent, whole)), hold(b"GET / HTTP/1.1\r\n", drip=b"x: y\r\n")
        )


async def test_a_storm_of_all_of_them_leaves_the_relay_as_it_was(
    simulator, user, relay, connect, witness, counts
):
    bad = [
        head(headers=[(f"X-{n}", "y") for n in range(2000)]),
        b"\0" * 1000,
        head("/nowhere"),
        head(key="lb_k_wrong"),
        head(method="POST", key=user.key),
        b"GET /api/desktops/stream HTTP/1.1\r\n",
    ]

    async def attack(raw: bytes) -> None:
        reader, writer = await asyncio.open_connection(*address(relay.public_url))
        writer.write(raw)
        if raw.endswith(b"\r\n\r\n"):
            async with asyncio.timeout(10):
                await reader.read(100)
        writer.transport.abort()

    for _ in range(10):
        await asyncio.gather(*(attack(raw) for raw in bad * 5))
    await counts(relay, 1, "subscribers")
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)


@pytest.mark.parametrize(
    "offer",
    [
        [("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")],  # curl --http2
        [("Upgrade", "websocket"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")],
    ],
    ids=["h2c", "websocket"],
)
async def test_an_offer_to_speak_otherwise_is_passed_over(simulator, user, relay, connect, offer):
    client = await connect(relay, headers=[("Connection", "Upgrade, HTTP2-Settings"), *offer])
    client.transport.write(b"\x81\x05hello")
    simulator.emit(user.id, "desktops", 3)
    await client.has(3)
    client.close()
    await eventually(lambda: relay.hub.streams == 0, said="its leaving to be noticed")
