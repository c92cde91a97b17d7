"""A credential that is revoked ends exactly the streams that hold it, in time and by name."""

import asyncio
import time

import pytest
from aiohttp import web
from tests.e2e.clients import ACTIVITY, DESKTOPS, ask, eventually

from lebureau_relay.simulator.accounts import READ

ME = {"identity_path": "/v1/me"}
PATHS = (DESKTOPS, ACTIVITY)
RECHECK_S = 1.0
# What a loaded machine may take on top, to ask and to say goodbye.
SLACK_S = 1.0
BOTH = pytest.mark.parametrize("auth", [ME, {}], ids=["identity path", "probe path"])


@BOTH
async def test_exactly_the_streams_of_the_revoked_key_end(
    simulator, serve, connect, counts, log, auth
):
    relay = await serve(simulator.url, auth=auth | {"recheck_interval": RECHECK_S})
    first, second = simulator.user(1), simulator.user(2)
    keys = [*first.keys, second.key]
    tabs = {
        (key, path, n): await connect(relay, path, key=key)
        for key in keys
        for path in PATHS
        for n in range(2)
    }
    for each in (first, second):
        for stream in ("desktops", "activity"):
            simulator.emit(each.id, stream, 1)
    for tab in tabs.values():
        await tab.has(1)
    simulator.revoke(first.keys[1])
    revoked_s = time.monotonic()
    ended = [tab for (key, _, _), tab in tabs.items() if key == first.keys[1]]
    for tab in ended:
        await tab.ended()
        assert (tab.reason, tab.finished) == ("credential_revoked", True)
        assert tab.last_id == tab.ids[-1], "it says where it stood"
    assert time.monotonic() - revoked_s < RECHECK_S + SLACK_S
    for each in (first, second):
        for stream in ("desktops", "activity"):
            simulator.emit(each.id, stream, 1)
    for tab in tabs.values():
        if tab not in ended:
            await tab.has(2)
            assert not tab.told
    assert all(len(tab.events) == 1 for tab in ended)
    for stream in ("desktops", "activity"):
        await counts(relay, 2, "closes_total", stream=stream, reason="credential_revoked")
        await counts(relay, 4, "subscribers", stream=stream)
    await counts(relay, 4, "closes_total")
    lines = [line for line in log if line["event"] == "stream.closed"]
    assert [line["reason"] for line in lines] == ["credential_revoked"] * 4
    (line,) = [line for line in log if line["event"] == "identity.revoked"]
    assert (line["why"], line["kind"]) == ("unauthorized", "key")


@BOTH
async def test_a_401_on_resume_ends_what_holds_that_key_on_every_stream_at_once(
    simulator, user, serve, connect, counts, auth
):
    """Long before anybody's next recheck."""
    relay = await serve(simulator.url, auth=auth)
    mine = [await connect(relay, path) for path in PATHS]
    others = [await connect(relay, path, key=simulator.user(2).key) for path in PATHS]
    if auth:
        others += [await connect(relay, path, key=user.keys[1]) for path in PATHS]
    for number in (1, 2):
        for stream in ("desktops", "activity"):
            simulator.emit(simulator.user(number).id, stream, 2)
    for tab in (*mine, *others):
        await tab.has(2)
    simulator.revoke(user.key)
    simulator.fault("cut", stream="desktops", user=user.id, while_open=True)
    for tab in mine:
        await tab.ended()
        assert tab.reason == "credential_revoked"
    for number in (1, 2):
        for stream in ("desktops", "activity"):
            simulator.emit(simulator.user(number).id, stream, 2)
    for tab in others:
        await tab.has(4)
        assert not tab.told
    await counts(relay, 2, "closes_total", reason="credential_revoked")


async def test_coming_back_over_and_over_prolongs_nothing(simulator, user, serve, connect):
    relay = await serve(simulator.url, auth=ME | {"recheck_interval": RECHECK_S})
    opener = await connect(relay, key=user.keys[1])
    tab = await connect(relay)
    simulator.revoke(user.key)
    revoked_s = time.monotonic()
    while tab.status == 200:
        tab.close()
        tab = await connect(relay, opened=False)
        await eventually(lambda tab=tab: tab.status)
        await asyncio.sleep(RECHECK_S / 50)
    assert tab.status == 401
    assert time.monotonic() - revoked_s < RECHECK_S + SLACK_S
    assert not opener.closed


async def test_an_identity_that_reads_differently_ends_the_stream(
    simulator, user, veneer, serve, connect, counts, log
):
    relay = await serve(veneer.url, auth=ME | {"recheck_interval": 0.5})
    demoted, other = [await connect(relay, key=key) for key in user.keys]
    simulator.emit(user.id, "desktops", 2)
    await demoted.has(2)
    less = {"id": user.id, "capabilities": [READ]}
    veneer.answers(
        "/v1/me", lambda secret: web.json_response(less) if secret == user.keys[0] else None
    )
    await demoted.ended()
    assert (demoted.reason, demoted.last_id) == ("credential_revoked", demoted.ids[-1])
    again = await connect(relay, key=user.keys[0], cursor=demoted.last_id)
    simulator.emit(user.id, "desktops", 1)
    await again.has(1)
    await other.has(3)
    assert simulator.open_subscriptions(user.id) == 2, "no longer one feed"
    assert not other.told
    await counts(relay, 1, "closes_total", reason="credential_revoked")
    assert [line["event"] for line in log if line["event"].startswith("identity.")] == [
        "identity.changed"
    ]


@pytest.mark.parametrize("fault", ["500", "503", "429:0", "404", "redirect:http://127.0.0.1:9"])
async def test_only_401_and_403_on_resume_end_anything(simulator, user, serve, connect, fault):
    relay = await serve(simulator.url)
    tab = await connect(relay)
    simulator.fault(fault, stream="desktops", times=2)
    simulator.cut_all()
    await eventually(lambda: not list(simulator._api.faults), said="the fault was met twice")
    await eventually(lambda: simulator.subscriptions_total == 1)
    simulator.emit(user.id, "desktops", 1)
    await tab.has(1)
    assert not tab.closed


async def test_a_revoked_key_is_refused_from_then_on_and_upstream_not_bothered(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth={"recheck_interval": 0.3})
    tab = await connect(relay)
    simulator.revoke(user.key)
    await tab.ended()
    before = len(simulator.requests)
    for path in PATHS:
        for method in ("GET", "HEAD"):
            reply = await ask(relay.public_url, path, key=user.key, method=method)
            assert reply.status == 401
    assert len(simulator.requests) == before
