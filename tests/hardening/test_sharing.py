"""Every subscriber is let in by its own credential, whoever else has the feed open."""

import asyncio
from collections import Counter

import pytest
from tests.e2e.clients import ACTIVITY, DESKTOPS, ask, eventually
from tests.e2e.veneer import secret_of

ME = {"identity_path": "/v1/me"}
PROBE = "/api/desktops"


def asked_about(simulator, path) -> Counter[str]:
    """How often each key was asked about."""
    seen = [one for one in simulator.requests if one.path == path]
    return Counter(one.headers.get("x-api-key") or one.headers["Cookie"] for one in seen)


async def test_each_credential_is_asked_about_once_however_many_bring_it(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth=ME)
    bearers = [{"key": key} for key in user.keys] + [{"cookie": user.cookie}]
    tabs = await asyncio.gather(*(connect(relay, **who) for who in bearers * 20))
    simulator.emit(user.id, "desktops", 2)
    for tab in tabs:
        await tab.has(2)
    assert asked_about(simulator, "/v1/me") == {**dict.fromkeys(user.keys, 1), user.cookie: 1}
    assert simulator.subscriptions_opened(user.id) == 1


async def test_a_stream_that_was_just_accepted_vouches_for_the_same_credential_only(
    simulator, user, serve, connect
):
    """Without an identity path the credential is who somebody is."""
    relay = await serve(simulator.url)
    tabs = [await connect(relay, key=user.keys[0]) for _ in range(5)]
    assert asked_about(simulator, PROBE) == {}
    other = await connect(relay, key=user.keys[1])
    simulator.emit(user.id, "desktops", 1)
    for tab in (*tabs, other):
        await tab.has(1)
    assert asked_about(simulator, DESKTOPS) == dict.fromkeys(user.keys, 1)


@pytest.mark.parametrize("auth", [ME, {}], ids=["identity path", "probe path"])
async def test_who_cant_be_asked_about_joins_nothing_however_warm_the_feed(
    simulator, user, serve, connect, auth
):
    relay = await serve(
        simulator.url, auth=auth | {"recheck_interval": 0.3}, limits={"connects_per_minute": 2}
    )
    first = await connect(relay)
    place = "me" if auth else "list"
    simulator.fault("500", stream=place)
    await eventually(lambda: simulator.requests[-1].status == 500, said="a recheck came to nothing")
    await asyncio.sleep(0.3)  # until the last verdict is too old for a joiner
    for method in ("GET", "HEAD"):
        reply = await ask(relay.public_url, key=user.key, method=method)
        assert reply.status == 503
        assert "retry-after" in reply.headers
    reply = await ask(relay.public_url, key=user.key, cursor="evt_1")
    assert reply.code == "identity_unavailable"
    simulator.emit(user.id, "desktops", 1)
    await first.has(1)
    simulator.clear_faults()
    await connect(relay)  # the refusals have spent nothing of its budget
    assert not first.closed


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_key_that_was_good_a_moment_ago_rides_on_nobodys_feed(
    simulator, user, serve, connect, method
):
    relay = await serve(simulator.url, auth=ME | {"recheck_interval": 0.4})
    first, second = [await connect(relay, key=key) for key in user.keys]
    simulator.emit(user.id, "desktops", 3)
    await second.has(3)
    second.close()
    await second.ended()
    simulator.revoke(user.keys[1])
    await asyncio.sleep(0.4)  # so long it may still be let in
    for cursor in (None, second.ids[0], "unheard-of"):
        reply = await ask(relay.public_url, key=user.keys[1], cursor=cursor, method=method)
        assert reply.status == 401
        assert b"data:" not in reply.raw
    simulator.emit(user.id, "desktops", 1)
    await first.has(4)


async def test_a_verdict_must_be_fresh_when_the_stream_begins_not_when_the_request_came(
    simulator, user, veneer, serve, connect
):
    """Between the two stands an upstream that takes its time to open."""
    opens = asyncio.Event()

    async def slowly(request):
        if request.path == DESKTOPS:
            await opens.wait()

    veneer.answer = slowly
    relay = await serve(veneer.url, auth=ME | {"recheck_interval": 0.3})
    opener = await connect(relay, key=user.keys[0], opened=False)
    await eventually(lambda: veneer.asked[DESKTOPS, user.keys[0]])
    late = await connect(relay, key=user.keys[1], opened=False)
    await eventually(lambda: veneer.asked["/v1/me", user.keys[1]])
    simulator.revoke(user.keys[1])
    await asyncio.sleep(0.4)  # its verdict grows old while it waits
    opens.set()
    await opener.opened()
    await eventually(lambda: late.status)
    assert late.status == 401
    simulator.emit(user.id, "desktops", 1)
    await opener.has(1)
    assert not late.blocks


async def test_a_key_that_loses_its_right_while_it_opens_upstream_opens_it_for_nobody(
    simulator, user, veneer, serve, connect
):
    """Upstream has let it in before, and says so after it has revoked it elsewhere."""
    opens = asyncio.Event()

    async def slowly(request):
        if request.path == ACTIVITY and secret_of(request) == user.keys[0]:
            await opens.wait()

    veneer.answer = slowly
    relay = await serve(veneer.url, auth=ME)
    elsewhere = await connect(relay, key=user.keys[0])
    late = await connect(relay, ACTIVITY, key=user.keys[0], opened=False)
    await eventually(lambda: veneer.asked[ACTIVITY, user.keys[0]])
    simulator.fault("401", stream="desktops", times=1)
    simulator.fault("cut", stream="desktops", while_open=True)
    await elsewhere.ended()
    assert elsewhere.reason == "credential_revoked"
    opens.set()
    await eventually(lambda: late.status)
    assert late.status in (401, 503)
    await eventually(lambda: simulator.open_subscriptions(stream="activity") == 0)
    assert not late.events


async def test_one_secret_as_key_and_as_cookie_are_two_credentials(simulator, user, serve, connect):
    relay = await serve(simulator.url)
    await connect(relay)
    forged = f"__Secure-lebureau.session={user.key}"
    reply = await ask(relay.public_url, cookie=forged)
    assert (reply.status, reply.code) == (401, "invalid_credential")
    await connect(relay, cookie=user.cookie)
    reply = await ask(relay.public_url, key=user.cookie)
    assert (reply.status, reply.code) == (401, "invalid_credential")


async def test_a_key_decides_alone_where_somebody_elses_cookie_comes_with_it(
    simulator, user, serve, connect
):
    other = simulator.user(2)
    relay = await serve(simulator.url, auth=ME)
    await connect(relay, cookie=other.cookie)
    mixed = await connect(relay, key=user.key, cookie=other.cookie)
    simulator.emit(other.id, "desktops", 2)
    simulator.emit(user.id, "desktops", 1)
    await mixed.has(1)
    assert [one.data for one in mixed.events] == [
        one.data for one in simulator.log(user.id, "desktops")
    ]


async def test_a_feed_that_lingers_on_a_revoked_key_lets_nobody_in_and_goes(
    simulator, user, serve, connect, counts
):
    relay = await serve(simulator.url, auth={"recheck_interval": 0.4}, feed={"linger": 60})
    tab = await connect(relay)
    simulator.emit(user.id, "desktops", 3)
    await tab.has(3)
    tab.close()
    await tab.ended()
    simulator.revoke(user.key)
    # Nobody reads it, and still it is asked about: it is in use upstream.
    await eventually(lambda: simulator.subscriptions_total == 0, 3)
    await counts(relay, 0, "feeds")
    reply = await ask(relay.public_url, key=user.key, cursor=tab.ids[0])
    assert (reply.status, reply.code) == (401, "invalid_credential")
