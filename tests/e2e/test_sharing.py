"""One upstream subscription per identity and stream, whoever comes, goes or leaves too soon."""

import asyncio
import time

import pytest
from tests.e2e.clients import ACTIVITY, DESKTOPS, ask, eventually

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
VIEWS = [{"name": "desktops", "path": DESKTOPS, "forward_query": ["view", "team"]}]


async def test_a_hundred_tabs_in_the_same_millisecond_open_one_subscription(
    simulator, user, relay, connect
):
    tabs = await asyncio.gather(*(connect(relay) for _ in range(100)))
    simulator.emit(user.id, "desktops", 20)
    expected = [record.id for record in simulator.log(user.id, "desktops")]
    for tab in tabs:
        await tab.has(20)
        assert tab.ids == expected
    assert simulator.subscriptions_opened() == 1
    assert simulator.subscriptions_peak(user.id, "desktops") == 1


async def test_streams_and_users_are_kept_apart(simulator, relay, connect):
    tabs = {
        (number, stream, n): await connect(relay, path, key=simulator.user(number).key)
        for number in (1, 2)
        for stream, path in (("desktops", DESKTOPS), ("activity", ACTIVITY))
        for n in range(3)
    }
    for number in (1, 2):
        for stream in ("desktops", "activity"):
            simulator.emit(simulator.user(number).id, stream, 5)
    for (number, stream, _), tab in tabs.items():
        await tab.has(5)
        log = simulator.log(simulator.user(number).id, stream)
        assert [event.data for event in tab.events] == [record.data for record in log]
    assert simulator.subscriptions_opened() == 4
    assert simulator.subscriptions_total == 4


async def test_two_keys_of_one_user_share_where_upstream_says_who_they_are(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth={"identity_path": "/v1/me"})
    tabs = [await connect(relay, key=key) for key in user.keys]
    tabs.append(await connect(relay, cookie=user.cookie))
    stranger = await connect(relay, key=simulator.user(2).key)
    simulator.emit(user.id, "desktops", 3)
    for tab in tabs:
        await tab.has(3)
    assert simulator.subscriptions_opened(user.id) == 1
    assert stranger.events == []


async def test_a_key_that_may_read_less_never_rides_on_one_that_may(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth={"identity_path": "/v1/me"})
    await connect(relay)
    reply = await ask(relay.public_url, key=user.limited_key)
    assert (reply.status, reply.code) == (403, "forbidden")


async def test_a_key_that_has_been_revoked_does_not_join_a_warm_feed(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth={"identity_path": "/v1/me", "recheck_interval": 0.5})
    first, second = [await connect(relay, key=key) for key in user.keys]
    simulator.revoke(user.keys[1])
    await second.ended()
    assert second.reason == "credential_revoked"
    reply = await ask(relay.public_url, key=user.keys[1])
    assert (reply.status, reply.code) == (401, "invalid_credential")
    simulator.emit(user.id, "desktops", 1)
    await first.has(1)
    assert not first.told


async def test_others_go_on_when_the_key_that_opened_upstream_is_revoked(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, auth={"identity_path": "/v1/me"})
    opener = await connect(relay, key=user.keys[0])
    other = await connect(relay, key=user.keys[1])
    simulator.emit(user.id, "desktops", 3)
    await other.has(3)
    simulator.revoke(user.keys[0], cut=True)
    simulator.emit(user.id, "desktops", 3)
    await other.has(6)
    await opener.ended()
    assert opener.reason == "credential_revoked"
    assert other.ids == [record.id for record in simulator.log(user.id, "desktops")]
    assert not other.told


async def test_a_feed_lingers_after_its_last_tab_and_then_lets_go(simulator, user, serve, connect):
    relay = await serve(simulator.url, feed={"linger": 1.5})
    tab = await connect(relay)
    simulator.emit(user.id, "desktops", 3)
    await tab.has(3)
    tab.close()
    await tab.ended()
    simulator.emit(user.id, "desktops", 2)
    again = await connect(relay, cursor=tab.last_id)
    await again.has(2)
    assert simulator.subscriptions_opened() == 1, "the feed was kept warm"
    assert not again.told
    left_s = time.monotonic()
    again.close()
    await eventually(lambda: simulator.subscriptions_total == 0)
    assert time.monotonic() - left_s > 1.4


async def test_a_tab_that_leaves_while_upstream_opens_disturbs_no_other(
    serve, raw_upstream, connect
):
    relay = await serve(raw_upstream.url)
    first = await connect(relay, opened=False)
    await eventually(lambda: raw_upstream.heads)
    others = [await connect(relay, opened=False) for _ in range(5)]
    first.abort()
    await first.ended()
    raw_upstream.writers[0].write(STREAM_HEAD)
    for other in others:
        await other.opened()
    raw_upstream.writers[0].write(b"f\r\nid: 1\ndata: a\n\n\r\n")
    for other in others:
        await other.has(1)
        assert other.blocks == [("1", "", "a", None)]
    assert len(raw_upstream.heads) == 1


async def test_upstream_is_let_go_when_all_leave_while_it_opens(
    serve, raw_upstream, connect, counts
):
    relay = await serve(raw_upstream.url, upstream={"connect_timeout": 0.5})
    tabs = [await connect(relay, opened=False) for _ in range(5)]
    await eventually(lambda: raw_upstream.writers)
    for tab in tabs:
        tab.abort()
    await eventually(lambda: raw_upstream.left == 1)
    await counts(relay, 0, "feeds")
    assert len(raw_upstream.heads) == 1


async def test_a_restless_crowd_leaves_nothing_behind(simulator, user, serve, connect, counts):
    relay = await serve(simulator.url, feed={"linger": 0})
    for _ in range(10):
        crowd = [await connect(relay, opened=False) for _ in range(20)]
        for number, tab in enumerate(crowd):
            if number % 3:
                tab.abort()
            else:
                await tab.opened()
                tab.close()
    await counts(relay, 0, "subscribers")
    await counts(relay, 0, "feeds")
    await eventually(lambda: simulator.subscriptions_total == 0)
    assert simulator.subscriptions_peak(user.id, "desktops") == 1


async def test_listed_parameters_go_upstream_and_part_feeds(simulator, user, serve, connect):
    relay = await serve(simulator.url, streams=VIEWS)
    for query in ("view=a&team=1", "team=1&utm=x&view=a", "view=b", "", "utm=y"):
        await connect(relay, f"{DESKTOPS}?{query}")
    assert simulator.subscriptions_opened() == 3
    queries = [seen.query for seen in simulator.requests if seen.path == DESKTOPS]
    assert sorted(queries) == ["", "team=1&view=a", "view=b"]


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("apiKey={key}", []),
        ("apiKey={key}&view=a", []),
        ("", [("x-api-key", "{key}")]),
        ("", [("X-API-KEY", "{key}")]),
        ("", [("Authorization", "Bearer {key}")]),
        ("", [("authorization", "bearer {key}")]),
        ("apiKey={key}", [("x-api-key", "{key}"), ("Authorization", "Bearer {key}")]),
        ("apiKey={key}", [("Cookie", "__Secure-lebureau.session=other; theme=dark")]),
    ],
)
async def test_a_key_goes_upstream_in_its_header_and_nowhere_else(
    simulator, user, serve, connect, query, headers
):
    relay = await serve(simulator.url, streams=VIEWS)
    headers = [(name, value.format(key=user.key)) for name, value in headers]
    await connect(relay, f"{DESKTOPS}?{query.format(key=user.key)}", headers=headers)
    (seen,) = [seen for seen in simulator.requests if seen.path == DESKTOPS]
    assert seen.headers["x-api-key"] == user.key
    assert user.key not in seen.query
    assert "Cookie" not in seen.headers
    assert "Authorization" not in seen.headers


async def test_only_session_cookies_go_upstream(simulator, user, relay, connect):
    await connect(relay, cookie=f"theme=dark; {user.cookie}; tracking=1")
    (seen,) = [seen for seen in simulator.requests if seen.path == DESKTOPS]
    assert seen.headers["Cookie"] == user.cookie
    assert "x-api-key" not in seen.headers


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("", [], 401, "missing_credential"),
        ("apiKey=", [], 401, "missing_credential"),
        ("", [("Cookie", "theme=dark")], 401, "missing_credential"),
        ("", [("Authorization", "Basic abc")], 401, "missing_credential"),
        ("apiKey=a", [("x-api-key", "b")], 400, "conflicting_credentials"),
        ("apiKey=a&apiKey=b", [], 400, "conflicting_credentials"),
        ("", [("x-api-key", "a"), ("x-api-key", "b")], 400, "conflicting_credentials"),
        ("apiKey=%00%0d%0a", [], 401, "invalid_credential"),
        ("apiKey=%ff%fe", [], 401, "invalid_credential"),
        ("apiKey=lb_k_nobody_knows_me", [], 401, "invalid_credential"),
        ("", [("Cookie", "__Secure-lebureau.session=forged")], 401, "invalid_credential"),
    ],
)
async def test_what_is_no_credential_is_told_so(relay, query, headers, status, code):
    reply = await ask(relay.public_url, f"{DESKTOPS}?{query}", headers=headers)
    assert (reply.status, reply.code) == (status, code)
    assert ("www-authenticate" in reply.headers) == (status == 401)
    assert b"lb_k_" not in reply.raw
    assert b"forged" not in reply.raw


async def test_one_that_opens_in_the_middle_of_a_drain_is_told(serve, raw_upstream, connect):
    """Its position would be lost with it, had it no goodbye."""
    relay = await serve(raw_upstream.url, drain={"spread": 1})
    opening = [asyncio.ensure_future(connect(relay, key="a")) for _ in range(4)]
    await eventually(lambda: raw_upstream.writers)
    raw_upstream.writers[0].write(STREAM_HEAD)
    clients = await asyncio.gather(*opening)
    late = await connect(relay, key="b", opened=False)
    await eventually(lambda: len(raw_upstream.writers) == 2)
    draining = asyncio.ensure_future(relay.drain())
    await clients[0].ended()
    raw_upstream.writers[1].write(STREAM_HEAD)
    await draining
    await relay.stop()
    await late.ended()
    assert late.reason == "draining"
