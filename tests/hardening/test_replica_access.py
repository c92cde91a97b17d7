"""What holds on one replica holds on each of several: a log that is shared lets nobody in."""

import asyncio
import secrets

import pytest
from aiohttp import web
from tests.broker.programs import VALKEY
from tests.broker.programs import Program as Server
from tests.e2e.clients import DESKTOPS, ask, eventually
from tests.e2e.veneer import secret_of

pytestmark = pytest.mark.server

ME = {"identity_path": "/v1/me"}
BOTH = pytest.mark.parametrize("auth", [ME, {}], ids=["identity path", "probe path"])
RECHECK_S = 1.0
SECRET = "a secret that the replicas of these tests share"


@pytest.fixture(scope="module")
def server():
    server = Server(VALKEY)
    yield server.start()
    server.end()


@pytest.fixture
def deploy(serve, server):
    """Two replicas at one server, under a prefix of the test's own."""
    prefix = secrets.token_hex(4)

    async def start(upstream_url, **sections):
        redis = {"url": server.url, "hash_secret": SECRET, "prefix": prefix, "lease_ttl": 2}
        return [await serve(upstream_url, redis=redis, **sections) for _ in range(2)]

    return start


@BOTH
async def test_a_joiner_on_a_replica_that_never_asked_is_asked_about_there(
    simulator, user, deploy, connect, auth
):
    owner, follower = await deploy(simulator.url, auth=auth)
    first = await connect(owner)
    simulator.emit(user.id, "desktops", 3)
    await first.has(3)
    second = await connect(follower, cursor=first.ids[0])
    await second.has(2)
    asked = [one.path for one in simulator.requests]
    # Without an identity path the stream itself has vouched for the owner's.
    assert asked.count("/v1/me" if auth else "/api/desktops") == (2 if auth else 1)
    assert simulator.subscriptions_opened() == 1, "it follows"


@BOTH
async def test_a_bad_joiner_gets_nothing_out_of_a_shared_log(
    simulator, user, deploy, connect, auth
):
    """Not by a key that was good when the log was written, and on no replica."""
    owner, follower = await deploy(
        simulator.url,
        auth=auth | {"recheck_interval": RECHECK_S},
        limits={"failed_auth_per_minute": 1000},
    )
    keeper = await connect(owner, key=user.keys[1] if auth else user.key)
    tab = await connect(owner)
    simulator.emit(user.id, "desktops", 3)
    await keeper.has(3)
    await tab.has(3)
    simulator.revoke(user.key)
    replies = await asyncio.gather(
        *(
            ask(follower.public_url, key=user.key, cursor=cursor, method=method)
            for cursor in (None, tab.ids[0])
            for method in ("GET", "HEAD")
        )
    )
    assert {reply.status for reply in replies} == {401}
    assert not [reply for reply in replies if b"data:" in reply.raw]
    stranger = await ask(follower.public_url, key="lb_k_stranger", cursor=tab.ids[0])
    assert stranger.code == "invalid_credential"
    limited = await ask(follower.public_url, key=user.limited_key, cursor=tab.ids[0])
    assert limited.code == "forbidden"
    await tab.ended()
    assert tab.reason == "credential_revoked"


async def test_a_revocation_on_a_follower_ends_its_streams_and_no_others(
    simulator, user, deploy, connect, counts
):
    owner, follower = await deploy(simulator.url, auth=ME | {"recheck_interval": RECHECK_S})
    here = await connect(owner, key=user.keys[0])
    simulator.emit(user.id, "desktops", 2)
    await here.has(2)
    gone = [await connect(follower, key=user.keys[1]) for _ in range(2)]
    stays = await connect(follower, key=user.keys[0])
    simulator.revoke(user.keys[1])
    for tab in gone:
        await tab.ended()
        assert tab.reason == "credential_revoked"
    simulator.emit(user.id, "desktops", 2)
    await here.has(4)
    await stays.has(2)
    assert not here.told
    assert not stays.told
    assert simulator.subscriptions_opened() == 1, "upstream was none of its business"
    await counts(follower, 2, "closes_total", reason="credential_revoked")
    await counts(owner, 0, "closes_total")


async def test_the_owner_of_a_feed_loses_its_key_and_the_follower_goes_on(
    simulator, user, veneer, deploy, connect
):
    owner, follower = await deploy(veneer.url, auth=ME | {"recheck_interval": RECHECK_S})
    opener = await connect(owner, key=user.keys[0])
    simulator.emit(user.id, "desktops", 3)
    await opener.has(3)
    other = await connect(follower, key=user.keys[1], cursor=opener.ids[0])
    await other.has(2)
    simulator.revoke(user.keys[0])
    await opener.ended()
    assert opener.reason == "credential_revoked"
    await eventually(lambda: veneer.asked[DESKTOPS, user.keys[1]], 10, "it took over")
    await eventually(lambda: simulator.subscriptions_total == 1)
    simulator.emit(user.id, "desktops", 3)
    await other.has(5)
    assert other.ids == [record.id for record in simulator.log(user.id, "desktops")][1:]
    assert not other.told


async def test_scopes_stay_apart_in_the_log_as_well(simulator, user, deploy, connect):
    """Two keys of one user on two replicas: not one feed, whatever the server holds."""
    owner, follower = await deploy(simulator.url, auth=ME)
    less = simulator.add_key(user.id, ["desktop:read"])
    first, second = await connect(owner), await connect(follower, key=less)
    await eventually(lambda: simulator.open_subscriptions(user.id) == 2)
    simulator.emit(user.id, "desktops", 2)
    await first.has(2)
    await second.has(2)


async def test_a_key_revoked_while_the_replicas_are_alone_ends_there_too(
    simulator, user, serve, connect
):
    """Availability first, but not for those who may not: with Redis away each checks its own."""
    server = Server(VALKEY).start()
    try:
        redis = {"url": server.url, "hash_secret": SECRET, "lease_ttl": 1}
        auth = ME | {"recheck_interval": RECHECK_S}
        replicas = [await serve(simulator.url, redis=redis, auth=auth) for _ in range(2)]
        tabs = {
            (number, key): await connect(relay, key=key)
            for number, relay in enumerate(replicas)
            for key in user.keys
        }
        server.kill()
        await eventually(lambda: simulator.open_subscriptions(user.id) == 2, 15, "each its own")
        simulator.revoke(user.keys[0])
        for (_, key), tab in tabs.items():
            if key == user.keys[0]:
                await tab.ended()
                assert tab.reason == "credential_revoked"
        left = [tab for (_, key), tab in tabs.items() if key == user.keys[1]]
        async with asyncio.timeout(10):
            # Again and again: an event may fall between the old subscription and the new one, which
            # with no id known yet is a gap.
            while not all(tab.events for tab in left):
                simulator.emit(user.id, "desktops", 1)
                await asyncio.sleep(0.05)
    finally:
        server.end()


@BOTH
async def test_all_replicas_together_cause_no_more_401s_than_the_budget(
    simulator, user, server, program, connect, auth
):
    """As two programs, with guesses at both in the same instant."""
    settings = {
        "REDIS__URL": server.url,
        "REDIS__HASH_SECRET": SECRET,
        "REDIS__PREFIX": secrets.token_hex(4),
        "LIMITS__FAILED_AUTH_PER_MINUTE": 1000,
        "LIMITS__UPSTREAM_AUTH_FAILURES_PER_MINUTE": 4,
        "AUTH__IDENTITY_PATH": auth.get("identity_path", ""),
    }
    started = await asyncio.gather(*(program(simulator.url, settings=settings) for _ in range(2)))
    replicas = [await one.started() for one in started]
    live = [await connect(one.public_url) for one in replicas]
    replies = await asyncio.gather(
        *(
            ask(one.public_url, key=f"lb_k_guess_{place}_{n}")
            for n in range(40)
            for place, one in enumerate(replicas)
        )
    )
    statuses = [reply.status for reply in replies]
    assert statuses.count(401) == 4
    assert statuses.count(429) == 76
    refused = [one for one in simulator.requests if one.status == 401]
    assert len(refused) == 4
    for one in replicas:
        newcomer = await ask(one.public_url, key=user.keys[1])
        assert newcomer.code == "too_many_failures"
        await connect(one.public_url)
    simulator.emit(user.id, "desktops", 1)
    for tab in live:
        await tab.has(1)


async def test_a_403_on_a_stream_is_heard_on_the_replica_that_follows_once_it_asks(
    simulator, user, veneer, deploy, connect
):
    """A follower asks the stream itself only when it must; then it hears the same."""
    may, may_not = user.keys
    forbidden = False

    async def answer(request):
        if forbidden and request.path == DESKTOPS and secret_of(request) == may_not:
            return web.Response(status=403)
        return None

    veneer.answer = answer
    owner, follower = await deploy(veneer.url, auth=ME)
    first = await connect(owner, key=may)
    second = await connect(follower, key=may_not)
    forbidden = True
    first.close()
    await first.ended()
    await second.ended()
    assert second.reason == "credential_revoked"
    assert (await ask(follower.public_url, key=may_not)).code == "forbidden"
