"""Whoever answers for credentials may be down, slow or odd: nobody is revoked by that, up to a
point, and nobody new is let in.
"""

import asyncio
import time

import pytest
from aiohttp import web
from tests.e2e.clients import DESKTOPS, ask, eventually

from lebureau_relay.identity import asking

ME = {"identity_path": "/v1/me"}
RECHECK_S = 0.15


def text(body, content_type="application/json", status=200, **headers):
    return lambda _: web.Response(
        text=body, content_type=content_type, status=status, headers=headers
    )


def elsewhere(_secret):
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/login"})


GOOD = '{"id":"user_0001","capabilities":[]}'
ODD = {
    "a web page": text("<p>Log in", "text/html"),
    "500": text("oops", "text/plain", 500),
    "401's neighbour 400": text("{}", status=400),
    "404": text("{}", status=404),
    "407": text("{}", status=407),
    "429": text("{}", status=429, **{"Retry-After": "7"}),
    "a redirect": elsewhere,
    "a cache": text(GOOD, Age="3"),
}
ODD_DOCUMENTS = {
    "garbage": text('{"id": "user_0001", "capabil'),
    "nothing": text(""),
    "204": lambda _: web.Response(status=204),
    "a list": text("[]"),
    "null": text("null"),
    "a word": text('"user_0001"'),
    "a missing field": text('{"id":"user_0001"}'),
    "a null field": text('{"id":null,"capabilities":[]}'),
    "an empty field": text('{"id":"","capabilities":[]}'),
    "huge": text('{"id":"' + "x" * 1_000_000 + '","capabilities":[]}'),
    "deep": text('{"id":' + "[" * 30_000 + "]" * 30_000 + ',"capabilities":[]}'),
    "a number without end": text('{"id":' + "9" * 60_000 + ',"capabilities":[]}'),
    "another coding": lambda _: web.Response(body=b"\xff\xfe{\x00}", content_type="text/plain"),
}


async def outlasts(veneer, path, live, user, simulator, said="it") -> None:
    """Two rechecks come to nothing, and the stream goes on."""
    asked, seen = veneer.count(path), len(live.events)
    await eventually(lambda: veneer.count(path) >= asked + 2, said=f"rechecks, with {said}")
    simulator.emit(user.id, "desktops", 1)
    await live.has(seen + 1)
    assert not live.told, said


async def test_an_odd_identity_service_revokes_nobody_and_accepts_nobody_new(
    simulator, user, veneer, serve, connect
):
    relay = await serve(veneer.url, auth=ME | {"recheck_interval": RECHECK_S})
    live = await connect(relay, key=user.keys[0])
    for said, odd in (ODD | ODD_DOCUMENTS).items():
        veneer.answers("/v1/me", odd)
        for method in ("GET", "HEAD"):
            reply = await ask(relay.public_url, key=user.keys[1], method=method)
            assert reply.status == 503, said
            assert int(reply.headers["retry-after"]) >= 1
        await outlasts(veneer, "/v1/me", live, user, simulator, said)
    assert (await ask(relay.public_url, key=user.keys[0])).code == "identity_unavailable"
    assert veneer.asked[DESKTOPS, user.keys[1]] == 0, "it got nowhere near a stream"
    veneer.answers("/v1/me", lambda _: None)
    await connect(relay, key=user.keys[1])


async def test_an_odd_probe_revokes_nobody_and_lets_nobody_join(
    simulator, user, veneer, serve, connect
):
    relay = await serve(veneer.url, auth={"recheck_interval": RECHECK_S})
    live = await connect(relay)
    for said, odd in ODD.items():
        veneer.answers("/api/desktops", odd)
        await outlasts(veneer, "/api/desktops", live, user, simulator, said)
        assert (await ask(relay.public_url, key=user.key)).code == "identity_unavailable", said
    veneer.answers("/api/desktops", lambda _: None)
    await connect(relay)


@pytest.mark.parametrize("how", ["hangs", "is cut in its body"])
@pytest.mark.parametrize("path", ["/v1/me", "/api/desktops"])
async def test_so_does_one_that_never_ends_an_answer(
    simulator, user, veneer, serve, connect, monkeypatch, path, how
):
    monkeypatch.setattr(asking, "ASK_TIMEOUT_S", 0.2)
    auth = {"identity_path": path} if path == "/v1/me" else {}
    relay = await serve(veneer.url, auth=auth | {"recheck_interval": RECHECK_S})
    live = await connect(relay)

    async def answer(request):
        if request.path != path:
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(GOOD) + 1
        await response.prepare(request)
        await response.write(GOOD.encode())
        if how == "hangs":
            await asyncio.sleep(5)
        request.transport.abort()
        return response

    veneer.answer = answer
    await outlasts(veneer, path, live, user, simulator)
    assert (await ask(relay.public_url, key=user.key)).code == "identity_unavailable"


@pytest.mark.parametrize("auth", [ME, {}], ids=["identity path", "probe path"])
async def test_max_stale_is_where_trust_ends(simulator, user, serve, connect, counts, log, auth):
    """And not a moment before."""
    relay = await serve(simulator.url, auth=auth | {"recheck_interval": RECHECK_S, "max_stale": 1})
    began_s = time.monotonic()
    live = await connect(relay)
    simulator.fault("503", stream="me" if auth else "list")
    await eventually(lambda: live.closed, 6)
    assert live.reason == "credential_revoked"
    assert time.monotonic() - began_s >= 1
    await counts(relay, 1, "closes_total", reason="credential_revoked")
    told = [line["event"] for line in log if line["event"].startswith("identity.")]
    assert told == ["identity.unavailable", "identity.stale"]
    simulator.clear_faults()
    await connect(relay)


async def test_who_was_identified_moments_ago_may_come_in_while_the_service_is_down(
    simulator, user, serve, connect
):
    """The verdict stands for its interval, no longer and no shorter."""
    relay = await serve(simulator.url, auth=ME | {"recheck_interval": 30})
    await connect(relay)
    simulator.fault("500", stream="me")
    await connect(relay)
    reply = await ask(relay.public_url, key=user.keys[1])
    assert reply.code == "identity_unavailable"
