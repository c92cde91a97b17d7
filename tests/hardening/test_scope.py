"""What a credential may read is part of who it is, and an upstream that says no is heard."""

import asyncio

import pytest
from aiohttp import web
from tests.e2e.clients import ACTIVITY, DESKTOPS, ask, eventually
from tests.e2e.veneer import secret_of

from lebureau_relay.simulator.accounts import CAPABILITIES, READ

ME = {"identity_path": "/v1/me"}


async def test_keys_of_one_user_with_other_capabilities_never_share(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth=ME)
    keys = [user.key, simulator.add_key(user.id, [READ]), simulator.add_key(user.id, [READ, "x"])]
    for key in keys:
        await connect(relay, key=key)
    assert simulator.open_subscriptions(user.id) == 3


async def test_capabilities_are_a_set(simulator, user, serve, connect):
    relay = await serve(simulator.url, auth=ME)
    for key in (user.key, simulator.add_key(user.id, CAPABILITIES[::-1])):
        await connect(relay, key=key)
    assert simulator.open_subscriptions(user.id) == 1


async def test_a_key_that_may_not_read_stays_out_of_every_feed_of_its_user(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth=ME)
    for path in (DESKTOPS, ACTIVITY):
        tab = await connect(relay, path)
        for cursor in (None, "evt_1"):
            reply = await ask(relay.public_url, path, key=user.limited_key, cursor=cursor)
            assert (reply.status, reply.code) == (403, "forbidden")
            assert "retry-after" not in reply.headers
        assert not tab.closed
    refused = [one for one in simulator.requests if one.status == 403]
    assert [one.path for one in refused] == [DESKTOPS, ACTIVITY], "asked once a stream"


@pytest.mark.parametrize("fields", [["id"], ["id", "capabilities"]])
async def test_what_only_the_stream_refuses_is_refused_with_a_warm_feed_too(
    simulator, user, veneer, serve, connect, fields
):
    """The identity path doesn't tell the two keys apart; upstream's 403 on the stream does."""
    may, may_not = user.keys

    async def answer(request):
        forbidden = request.path == DESKTOPS and secret_of(request) == may_not
        return web.Response(status=403) if forbidden else None

    veneer.answer = answer
    relay = await serve(veneer.url, auth=ME | {"identity_fields": fields})
    assert (await ask(relay.public_url, key=may_not)).code == "forbidden"
    tab = await connect(relay, key=may)
    assert (await ask(relay.public_url, key=may_not)).code == "forbidden"
    activity = await connect(relay, ACTIVITY, key=may_not)
    simulator.emit(user.id, "desktops", 1)
    simulator.emit(user.id, "activity", 1)
    await tab.has(1)
    await activity.has(1)
    assert veneer.asked[DESKTOPS, may_not] == 1


@pytest.mark.parametrize("auth", [ME, {}], ids=["identity path", "probe path"])
async def test_a_403_on_a_stream_ends_that_stream_only(
    simulator, user, serve, connect, counts, log, auth
):
    relay = await serve(simulator.url, auth=auth)
    tabs = [await connect(relay) for _ in range(3)]
    activity = await connect(relay, ACTIVITY)
    stranger = await connect(relay, key=simulator.user(2).key)
    simulator.emit(user.id, "desktops", 2)
    for tab in tabs:
        await tab.has(2)
    simulator.fault("403", user=user.id, stream="desktops")
    simulator.cut_all()
    for tab in tabs:
        await tab.ended()
        assert (tab.reason, tab.finished) == ("credential_revoked", True)
        assert tab.last_id == tab.ids[-1]
    await eventually(lambda: simulator.subscriptions_total == 2, said="the others came back")
    simulator.emit(user.id, "activity", 1)
    simulator.emit(simulator.user(2).id, "desktops", 1)
    await activity.has(1)
    await stranger.has(1)
    reply = await ask(relay.public_url, key=user.key, cursor=tabs[0].ids[0])
    assert reply.code == "forbidden"
    await counts(relay, 3, "closes_total", stream="desktops", reason="credential_revoked")
    await counts(relay, 0, "closes_total", stream="activity")
    ends = [line["reason"] for line in log if line["event"] == "stream.closed"]
    assert ends == ["credential_revoked"] * 3


@pytest.mark.parametrize("left", [True, False], ids=["its tab has left", "its tab is open"])
@pytest.mark.parametrize("cut", [True, False], ids=["upstream cuts", "upstream goes on"])
async def test_the_feed_goes_on_by_others_when_the_key_that_opened_it_is_revoked(
    simulator, user, veneer, serve, connect, left, cut
):
    relay = await serve(veneer.url, auth=ME | {"recheck_interval": 0.4})
    opener = await connect(relay, key=user.keys[0])
    others = [await connect(relay, key=user.keys[1]), await connect(relay, cookie=user.cookie)]
    simulator.emit(user.id, "desktops", 3)
    for tab in (opener, *others):
        await tab.has(3)
    if left:
        opener.close()
        await opener.ended()
    simulator.revoke(user.keys[0], cut=cut)
    await eventually(
        lambda: veneer.asked[DESKTOPS, user.keys[1]] and simulator.subscriptions_total == 1,
        said="upstream is open by another key, and by that alone",
    )
    simulator.emit(user.id, "desktops", 3)
    expected = [record.id for record in simulator.log(user.id, "desktops")]
    for tab in others:
        await tab.has(6)
        assert tab.ids == expected
        assert not tab.told
    if not left:
        await opener.ended()
        assert opener.reason == "credential_revoked"


async def test_a_crowd_of_keys_loses_one_after_the_other_and_the_last_still_reads(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth=ME)
    keys = [simulator.add_key(user.id) for _ in range(6)]
    tabs = [await connect(relay, key=key) for key in keys]
    for number, key in enumerate(keys[:-1]):
        simulator.emit(user.id, "desktops", 2)
        await tabs[-1].has(2 * number + 2)
        simulator.revoke(key, cut=True)
        await tabs[number].ended()
        assert tabs[number].reason == "credential_revoked"
    simulator.emit(user.id, "desktops", 1)
    await tabs[-1].has(11)
    assert tabs[-1].ids == [record.id for record in simulator.log(user.id, "desktops")]
    assert not tabs[-1].told


async def test_a_wave_of_scopes_and_streams_stays_apart(simulator, serve, connect):
    """Three users, two scopes each, both streams, all at once: everybody reads their own."""
    relay = await serve(simulator.url, auth=ME)
    users = [simulator.user(number) for number in (1, 2, 3)]
    keys = {each.id: [*each.keys, simulator.add_key(each.id, [READ])] for each in users}
    wanted = [
        (each.id, name, path, key)
        for each in users
        for key in keys[each.id]
        for name, path in (("desktops", DESKTOPS), ("activity", ACTIVITY))
    ] * 3
    tabs = await asyncio.gather(*(connect(relay, path, key=key) for _, _, path, key in wanted))
    for each in users:
        for name in ("desktops", "activity"):
            simulator.emit(each.id, name, 4)
    for (who, name, _, _), tab in zip(wanted, tabs, strict=True):
        await tab.has(4)
        assert [one.data for one in tab.events] == [one.data for one in simulator.log(who, name)]
    assert simulator.subscriptions_total == 12
