"""The server around the handlers: routes, failures, malformed heads, clients who never finish."""

import asyncio
import contextlib
import logging
import socket

import pytest
from aiohttp import web

from lebureau_relay.edge.server import ACCEPTS_PER_TURN
from lebureau_relay.errors import Refusal, RefusalCode

PATH = "/api/desktops/stream"
CANARY = "lb_k_canary"


@pytest.fixture
def logged(caplog):
    """Whatever the standard library's logging was told, at every level."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(
        f"{r.getMessage()} {r.exc_text or ''} {r.exc_info or ''}" for r in caplog.records
    )


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_get_and_head_reach_the_handler(serve, method):
    methods = []

    async def handler(request, stream):
        methods.append((request.method, stream.name))
        return web.Response(text="hello")

    edge = await serve(handler)
    reply = await edge.get(method=method)
    assert (reply.status, reply.body) == (200, b"hello" if method == "GET" else b"")
    assert methods == [(method, "desktops")]
    assert reply.headers["server"] == "lebureau-relay"
    assert edge.observer.codes == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
async def test_other_methods_are_told_which_there_are(serve, method):
    edge = await serve()
    reply = await edge.get(f"{PATH}?apiKey={CANARY}", method=method)
    assert (reply.status, reply.problem["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD, OPTIONS"
    assert reply.headers["server"] == "lebureau-relay"
    assert CANARY not in reply.raw.decode()
    assert edge.observer.codes == ["method_not_allowed"]


@pytest.mark.parametrize(
    "target",
    ["/", f"/{CANARY}", f"{PATH}/", f"{PATH}{CANARY}", f"//{CANARY}{PATH}", f"*{CANARY}"],
)
async def test_other_paths_are_not_found_and_not_repeated(serve, logged, target):
    edge = await serve()
    reply = await edge.get(target)
    assert reply.status in {400, 404}
    assert reply.problem["code"] in {"not_found", "bad_request"}
    assert CANARY not in reply.raw.decode() + logged() + repr(edge.observer)


async def test_a_handler_that_fails_is_told_without_its_words(serve, logged):
    async def failing(request, stream):
        raise ValueError(f"bad header {request.headers['x-api-key']}")

    edge = await serve(failing)
    reply = await edge.get(f"{PATH}?apiKey={CANARY}", f"x-api-key: {CANARY}")
    assert (reply.status, reply.problem["code"]) == (500, "internal_error")
    assert reply.headers["server"] == "lebureau-relay"
    assert edge.observer.codes == ["internal_error"]
    ((level, event, facts),) = edge.observer.notes
    assert (level, event, facts["error"]) == ("error", "request.failed", "ValueError")
    assert "test_app:" in facts["place"]
    assert CANARY not in reply.raw.decode() + logged() + repr(edge.observer)


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError])
async def test_failures_that_aiohttp_takes_for_its_own_are_told_too(serve, error):
    async def failing(request, stream):
        raise error

    edge = await serve(failing)
    assert (await edge.get()).problem["code"] == "internal_error"
    assert [facts["error"] for _, _, facts in edge.observer.notes] == [error.__name__]


async def test_a_handler_that_answers_nothing_is_told_in_our_log_only(serve, logged):
    """Pins aiohttp's way of telling what it meets outside of handlers."""

    async def failing(request, stream):
        return None

    edge = await serve(failing)
    assert (await edge.get()).status == 500
    assert [event for _, event, _ in edge.observer.notes] == ["request.failed"]
    assert logged() == ""


async def test_a_redirect_is_no_refusal(serve):
    async def elsewhere(request, stream):
        raise web.HTTPFound("/")

    edge = await serve(elsewhere)
    reply = await edge.get()
    assert (reply.status, reply.headers["location"]) == (302, "/")
    assert edge.observer.codes == []


async def test_a_failure_after_the_head_only_cuts(serve, logged):
    async def failing(request, stream):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise LookupError(CANARY)

    edge = await serve(failing)
    reply = await edge.get()
    assert reply.status == 200
    assert reply.raw.count(b"HTTP/1.1") == 1
    assert not reply.raw.endswith(b"0\r\n\r\n")
    assert [facts["error"] for _, _, facts in edge.observer.notes] == ["LookupError"]
    assert CANARY not in reply.raw.decode() + logged() + repr(edge.observer)


async def test_a_client_that_has_gone_is_no_failure(serve):
    entered, gone = asyncio.Event(), asyncio.Event()

    async def slow(request, stream):
        response = web.StreamResponse()
        await response.prepare(request)
        entered.set()
        try:
            while True:
                await response.write(b"x" * 100_000)
                await asyncio.sleep(0)
        finally:
            gone.set()

    edge = await serve(slow)
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    await asyncio.wait_for(entered.wait(), 5)
    writer.close()
    await asyncio.wait_for(gone.wait(), 5)
    await edge.get("/")  # the loop has turned since
    assert edge.observer.codes == ["not_found"]
    assert [event for _, event, _ in edge.observer.notes] == ["request.refused"]


HEAD = f"GET {PATH} HTTP/1.1\r\nHost: a\r\n".encode()
LONG = CANARY.encode() * 1000


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY.encode() + b"\r\n\r\n",
        CANARY.encode() + b"\r\n\r\n",
        b"FOO / HTTP/1.1\r\nx-api-key: " + CANARY.encode() + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\nx-api-key: " + CANARY.encode() + b"\r\n\r\n",
        b"GET /" + LONG + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /?apiKey=" + LONG + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[" + CANARY.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        HEAD + b"x-api-key: " + LONG + b"\r\n\r\n",
        HEAD + b"x-api-key: " + CANARY.encode() + b"\x00\r\n\r\n",
        HEAD + b"x-api-key: " + CANARY.encode() + b"\rx\r\n\r\n",
        HEAD + b"Cookie: __Host-a=" + CANARY.encode() + b"\x01\r\n\r\n",
        HEAD + CANARY.encode() + b"\r\n\r\n",
        HEAD + CANARY.encode() + b" : 1\r\n\r\n",
        HEAD + b" " + CANARY.encode() + b": 1\r\n\r\n",
        HEAD + b"Host: " + CANARY.encode() + b"\r\n\r\n",
        HEAD + b"Content-Length: " + CANARY.encode() + b"\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"".join(b"x-%d: %b\r\n" % (n, CANARY.encode()) for n in range(2000)) + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_malformed_heads_are_answered_in_our_words_only(serve, logged, request_bytes):
    """Pins what aiohttp's own would hold: the offending line, in the body and in its log."""
    edge = await serve()
    reply = await edge.send(request_bytes)
    assert (reply.status, reply.problem["code"]) == (400, "bad_request")
    assert reply.headers["server"] == "lebureau-relay"
    assert reply.headers["cache-control"] == "no-store"
    assert edge.observer.codes == ["bad_request"]
    told = reply.raw.decode() + logged() + repr(edge.observer)
    assert CANARY not in told
    assert "Traceback" not in told


@pytest.mark.parametrize("target", [PATH, "/nowhere"])
async def test_an_unknown_expectation_is_not_repeated(serve, logged, target):
    edge = await serve()
    reply = await edge.get(target, f"Expect: {CANARY}")
    assert (reply.status, reply.problem["code"]) == (400, "bad_request")
    assert CANARY not in reply.raw.decode() + logged() + repr(edge.observer)


@pytest.mark.parametrize(
    "target", [b"/\xff\xfe", b"?\xff", PATH.encode() + b"?lastEventId=\xff&x=\xc3\xa9#frag"]
)
async def test_bytes_beyond_ascii_in_a_target_do_no_harm(serve, target):
    async def handler(request, stream):
        raise Refusal(RefusalCode.AT_CAPACITY, "…")

    edge = await serve(handler)
    fields = b"Host: a\r\nConnection: close\r\nAccept: text/event-stream\r\nSec-Fetch-Mode: cors"
    reply = await edge.send(b"GET " + target + b" HTTP/1.1\r\n" + fields + b"\r\n\r\n")
    assert reply.status in {200, 400, 404}
    assert "internal_error" not in edge.observer.codes


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        HEAD,
        HEAD + b"x-api-key: lb",
        # Also after a request that was answered.
        HEAD + b"\r\n" + HEAD,
    ],
)
async def test_half_a_head_and_silence_is_closed(serve, sent):
    edge = await serve(head_timeout_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(sent)
    received = await asyncio.wait_for(reader.read(), 5)
    assert received.count(b"HTTP/1.1") == (1 if sent.count(b"GET") == 2 else 0)
    writer.close()


async def test_a_head_that_trickles_is_closed_in_the_same_time(serve):
    """Bytes are no life: only a whole head stops the clock."""
    edge = await serve(head_timeout_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)

    async def trickle():
        for _ in range(1000):
            writer.write(b"x")
            await asyncio.sleep(0.01)

    writer.write(HEAD)
    trickling = asyncio.create_task(trickle())
    with contextlib.suppress(ConnectionResetError):  # it was still writing
        assert await asyncio.wait_for(reader.read(), 5) == b""
    trickling.cancel()
    writer.close()


async def test_a_body_that_never_comes_is_not_waited_for(serve):
    edge = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
    reply = await asyncio.wait_for(reader.read(), 5)
    assert reply.startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    ("field", "body"),
    [
        (b"Transfer-Encoding: chunked", b"zz%b\r\n" % CANARY.encode()),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n%b\r\n" % CANARY.encode()),
        (b"Transfer-Encoding: chunked", b"5\r\nhel"),
        (b"Content-Encoding: gzip\r\nContent-Length: 11", CANARY.encode()),
    ],
)
async def test_a_body_that_is_broken_is_the_clients_affair(serve, logged, field, body):
    """It comes after its head was answered, so that there is nothing left to refuse."""
    entered = asyncio.Event()

    async def handler(request, stream):
        entered.set()
        return web.Response()

    edge = await serve(handler, head_timeout_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(HEAD + field + b"\r\n\r\n")
    await asyncio.wait_for(entered.wait(), 5)
    writer.write(body)
    reply = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert all(level != "error" for level, _, _ in edge.observer.notes)
    assert CANARY not in reply.decode() + logged() + repr(edge.observer)


async def test_http_1_0_is_served(serve):
    edge = await serve()
    reply = await edge.send(f"GET {PATH} HTTP/1.0\r\n\r\n".encode())
    assert (reply.status, reply.body) == (200, b"hello from desktops")


async def test_a_herd_is_let_in_many_a_turn(serve):
    edge = await serve()
    # Blocking, so that the loop finds all of them waiting.
    herd = [socket.create_connection(("127.0.0.1", edge.port)) for _ in range(96)]
    turns = 0
    while len(edge.runner.server.connections) < len(herd):
        await asyncio.sleep(0)
        turns += 1
    assert turns <= 3 * len(herd) / ACCEPTS_PER_TURN
    for one in herd:
        one.close()
