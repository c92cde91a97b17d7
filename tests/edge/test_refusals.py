"""Every refusal as it leaves: status, headers, body, and the form that EventSource survives."""

import json

import pytest
from aiohttp import hdrs

from lebureau_relay.core.sse import Decoder
from lebureau_relay.edge import refusals
from lebureau_relay.errors import Refusal, RefusalCode

PATH = "/api/desktops/stream"
BROWSER = ["Accept: text/event-stream", "Sec-Fetch-Mode: cors"]
SECRET = "lb_k_canary"


def refusing(*args, **kwargs):
    async def handler(request, stream):
        raise Refusal(*args, **kwargs)

    return handler


@pytest.mark.parametrize("code", [c for c in RefusalCode if c.status != 204])
async def test_every_code_is_a_problem_document(serve, code):
    edge = await serve(refusing(code, "A sentence."))
    reply = await edge.get(f"{PATH}?apiKey={SECRET}")
    assert reply.status == code.status
    assert reply.problem["code"] == code.value
    assert reply.problem["detail"] == "A sentence."
    assert reply.problem["type"] == "about:blank"
    assert reply.problem["title"]
    assert reply.headers["cache-control"] == "no-store"
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert SECRET not in reply.raw.decode()


@pytest.mark.parametrize("code", list(RefusalCode))
async def test_what_goes_with_the_status(serve, code):
    edge = await serve(refusing(code, "A sentence.", retry_after_s=2.1, limit=7))
    headers = (await edge.get()).headers
    status = code.status
    bearer = 'Bearer realm="lebureau"' if status == 401 else None
    assert headers.get("www-authenticate") == bearer
    assert headers.get("retry-after") == ("3" if status in {429, 502, 503} else None)
    limits = [headers.get(f"ratelimit-{name}") for name in ("limit", "remaining", "reset")]
    assert limits == (["7", "0", "3"] if status == 429 else [None] * 3)


async def test_204_has_no_body(serve):
    edge = await serve(refusing(RefusalCode.UPSTREAM_ENDED, "It is over."))
    reply = await edge.get(PATH, *BROWSER)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["cache-control"] == "no-store"
    assert "content-type" not in reply.headers


@pytest.mark.parametrize(
    ("wait_s", "header"), [(None, "5"), (0.0, "1"), (0.01, "1"), (12.0, "12"), (12.001, "13")]
)
async def test_retry_after_is_whole_seconds_rounded_up(serve, wait_s, header):
    edge = await serve(refusing(RefusalCode.DRAINING, "…", retry_after_s=wait_s))
    assert (await edge.get()).headers["retry-after"] == header


async def test_a_head_request_gets_the_same_head_without_a_body(serve):
    edge = await serve(refusing(RefusalCode.FORBIDDEN, "No."))
    reply = await edge.get(method="HEAD")
    assert (reply.status, reply.body) == (403, b"")
    assert reply.headers["content-type"] == "application/problem+json"


def events(body):
    return Decoder(65536).feed(body)


@pytest.mark.parametrize("code", list(RefusalCode))
async def test_a_browser_is_refused_softly_where_it_may_come_back(serve, code):
    edge = await serve(refusing(code, "…", retry_after_s=2.1))
    reply = await edge.get(f"{PATH}?apiKey={SECRET}", *BROWSER, "Last-Event-ID: 41")
    assert edge.observer.codes == [code.value]
    assert edge.observer.connects == [("desktops", code.value)]
    if code.status not in {429, 503}:
        assert reply.status == code.status
        return
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["cache-control"] == "no-store, no-transform"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["connection"] == "close"
    (event,) = events(reply.body)
    assert (event.id, event.type) == (b"41", b"relay.refused")
    payload = {"code": code.value, "status": code.status, "retryAfter": 3}
    assert json.loads(event.data) == {"type": "relay.refused", "payload": payload}
    assert SECRET not in reply.raw.decode()


async def test_a_soft_refusal_ends_the_connection_unasked(serve):
    edge = await serve(refusing(RefusalCode.AT_CAPACITY, "Full."))
    fields = "\r\n".join(BROWSER)
    reply = await edge.send(f"GET {PATH} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n".encode())
    assert reply.status == 200


@pytest.mark.parametrize("code", [c for c in RefusalCode if c.status == 503])
async def test_what_this_replica_cannot_do_is_not_asked_of_it_again(serve, code):
    """By a connection that a client keeps it would come back here, whoever else has room."""
    edge = await serve(refusing(code, "Full."))
    reply = await edge.send(f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert reply.problem["code"] == code.value
    assert reply.headers["connection"] == "close"


async def test_the_setting_turns_soft_refusals_off(serve):
    edge = await serve(refusing(RefusalCode.AT_CAPACITY, "Full."), soft=False)
    assert (await edge.get(PATH, *BROWSER)).problem["code"] == "at_capacity"


@pytest.mark.parametrize("fields", [[], BROWSER[:1], [*BROWSER, "x-api-key: k"]])
async def test_who_is_no_event_source_gets_the_status(serve, fields):
    edge = await serve(refusing(RefusalCode.AT_CAPACITY, "Full."))
    assert (await edge.get(PATH, *fields)).status == 503


async def test_a_browser_at_another_path_gets_the_status(serve):
    edge = await serve()
    assert (await edge.get("/elsewhere", *BROWSER)).status == 404
    assert edge.observer.connects == []


async def test_a_head_request_is_never_soft(serve):
    edge = await serve(refusing(RefusalCode.AT_CAPACITY, "Full."))
    assert (await edge.get(PATH, *BROWSER, method="HEAD")).status == 503


@pytest.mark.parametrize(
    ("cursor", "event_id"),
    [
        ("41", b"41"),
        ("7~lbr3", b"7~lbr3"),
        ("%C3%A9%20b", "é b".encode()),
        ("", b""),
        ("%0A", b""),
        ("a%0Dinjected", b""),
        ("%00", b""),
        ("%FF", b""),
    ],
)
async def test_the_id_of_a_soft_refusal_is_the_cursor_that_came(serve, cursor, event_id):
    edge = await serve(refusing(RefusalCode.AT_CAPACITY, "Full."))
    reply = await edge.get(f"{PATH}?lastEventId={cursor}", *BROWSER)
    (event,) = events(reply.body)
    assert event.id == event_id
    assert b"id: " + event_id + b"\n" in reply.body
    assert b"injected" not in reply.body


@pytest.mark.parametrize(
    ("wait_s", "draw", "retry_ms"),
    [(None, 0.0, 3000), (None, 1.0, 4500), (10.0, 0.0, 10_000), (10.0, 0.5, 12_500)],
)
def test_the_retry_hint_is_jittered_and_never_early(wait_s, draw, retry_ms):
    refusal = Refusal(RefusalCode.RATE_LIMITED, "…", retry_after_s=wait_s)
    response = refusals.soft(refusal, None, 3.0, lambda: draw)
    assert response.body.startswith(b"retry: %d\n" % retry_ms)


def test_a_405_says_what_is_allowed():
    response = refusals.problem(Refusal(RefusalCode.METHOD_NOT_ALLOWED, "…", allow="GET, HEAD"))
    assert response.headers[hdrs.ALLOW] == "GET, HEAD"
