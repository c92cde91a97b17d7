"""Settings reach the part that they are about: no room's own tests see the wiring."""

import asyncio
import socket
from contextlib import suppress

import pytest
from tests.e2e.clients import DESKTOPS, ask, eventually, head

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
RENAMED = {
    "api_key_header": "x-team-key",
    "query_parameter": "token",
    "cookie_pattern": "^sid$",
}


@pytest.mark.parametrize(
    ("path", "header", "goes_up"),
    [
        (DESKTOPS, ("X-Team-Key", "k1"), b"x-team-key: k1"),
        (f"{DESKTOPS}?token=k1", ("Accept", "*/*"), b"x-team-key: k1"),
        (DESKTOPS, ("Cookie", "__Secure-a=1; sid=2"), b"Cookie: sid=2"),
    ],
)
async def test_credentials_go_by_the_names_that_were_given(
    serve, raw_upstream, connect, path, header, goes_up
):
    raw_upstream.answers = [STREAM]
    await connect(await serve(raw_upstream.url, auth=RENAMED), path, headers=[header], key="")
    (asked,) = raw_upstream.heads
    assert goes_up in asked.split(b"\r\n")
    assert b"token" not in asked
    assert b"__Secure" not in asked


async def test_the_usual_names_mean_nothing_then(serve, raw_upstream, user):
    relay = await serve(raw_upstream.url, auth=RENAMED)
    for path, request in (
        (DESKTOPS, {"key": user.key}),
        (f"{DESKTOPS}?apiKey={user.key}", {}),
        (DESKTOPS, {"cookie": user.cookie}),
    ):
        assert (await ask(relay.public_url, path, **request)).code == "missing_credential"
    assert raw_upstream.heads == []


@pytest.mark.parametrize("path", ["/v1/me", "/api/desktops", ""])
async def test_credentials_are_checked_again_where_and_as_often_as_was_said(
    simulator, user, serve, connect, path
):
    relay = await serve(simulator.url, auth={"probe_path": path, "recheck_interval": 1})
    await connect(relay)
    asked = path or DESKTOPS
    await eventually(lambda: sum(seen.path == asked for seen in simulator.requests) >= 2, 10)
    assert {seen.path for seen in simulator.requests} == {DESKTOPS, asked}
    assert simulator.open_subscriptions(user.id, "desktops") <= 2


async def test_an_identity_is_the_fields_that_were_named(simulate, serve, connect):
    simulator = await simulate(users=4)
    auth = {"identity_path": "/v1/me", "identity_fields": ["tier"]}
    relay = await serve(simulator.url, auth=auth)
    for number in (1, 2, 4):  # pro, max, pro
        await connect(relay, key=simulator.user(number).key)
    assert simulator.open_subscriptions() == 2


async def test_an_identity_service_that_is_away_is_told(simulator, user, serve):
    relay = await serve(simulator.url, auth={"identity_path": "/v1/me"})
    simulator.fault("500", stream="me")
    reply = await ask(relay.public_url, key=user.key)
    assert (reply.status, reply.code) == (503, "identity_unavailable")
    assert int(reply.headers["retry-after"]) >= 1


async def test_streams_outlast_an_identity_service_for_as_long_as_was_said(
    simulator, serve, connect
):
    brief, patient = [
        await serve(simulator.url, auth={"recheck_interval": 1, "max_stale": max_stale})
        for max_stale in (1, 0)
    ]
    let_go, kept = await connect(brief), await connect(patient)
    simulator.fault("500", stream="list")
    await let_go.ended()
    assert let_go.reason == "credential_revoked"
    failed = sum(seen.status == 500 for seen in simulator.requests)
    await eventually(
        lambda: sum(seen.status == 500 for seen in simulator.requests) >= failed + 2, 15
    )
    assert not kept.closed
    assert not kept.told


async def test_only_a_trusted_proxy_says_who_the_client_is(simulator, serve):
    limits = {"failed_auth_per_minute": 1}
    for trusted, second, third in (
        (["127.0.0.0/8"], "too_many_failures", "invalid_credential"),
        ([], "too_many_failures", "too_many_failures"),
    ):
        relay = await serve(simulator.url, limits=limits, proxy={"trusted": trusted})
        codes = [
            (
                await ask(relay.public_url, key=f"lb_k_{n}", headers=[("X-Forwarded-For", address)])
            ).code
            for n, address in enumerate(("192.0.2.1", "192.0.2.1", "192.0.2.2"))
        ]
        assert codes == ["invalid_credential", second, third]


async def test_the_console_answers_the_names_that_were_given(simulator, serve):
    relay = await serve(simulator.url, admin={"allowed_hosts": ["relay.internal"]})
    for host, status in (("relay.internal", 200), ("localhost", 403)):
        for path in ("/status", "/"):
            asked = head(path, headers=[("Connection", "close")])
            reply = await ask(relay.admin_url, raw=asked.replace(b"localhost", host.encode()))
            assert reply.status == status


async def test_pages_of_listed_origins_only_may_read(simulator, user, serve, connect):
    friend = "https://app.example.com"
    relay = await serve(simulator.url, cors={"allowed_origins": [friend]})
    client = await connect(relay, headers=[("Origin", friend)], key=user.key)
    assert client.headers["access-control-allow-origin"] == friend
    stranger = [("Origin", "https://app.example.com.evil.test")]
    reply = await ask(relay.public_url, key=user.key, headers=stranger)
    assert (reply.status, reply.code) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in reply.headers


async def test_the_log_speaks_to_people_where_that_is_asked_for(program):
    relay = await program(settings={"LOG__FORMAT": "console", "UPSTREAM__BASE_URL": "http://[::1]"})
    await eventually(lambda: any("relay.started" in line for line in relay.lines), 20)
    assert relay.log == []
    relay.signal()
    assert await relay.exit() == 0


async def test_and_says_nothing_below_its_level(program):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    port = url.rpartition(":")[2]
    relay = await program(
        "http://[::1]:9", settings={"LOG__LEVEL": "warning", "LISTEN__PORT": port}
    )
    async with asyncio.timeout(20):
        while True:
            with suppress(OSError):
                assert (await ask(url, key="lb_k_1")).code == "upstream_unavailable"
                break
            await asyncio.sleep(0.05)
    await eventually(lambda: relay.log)
    assert {(line["level"], line["event"]) for line in relay.log} == {
        ("warning", "upstream.refused")
    }
