"""Budgets: who may connect how often, how many streams, and what a refusal looks like to whom."""

import asyncio
import random

import pytest
from tests.e2e.clients import DESKTOPS, ask, eventually

BROWSER = [("Accept", "text/event-stream"), ("Sec-Fetch-Mode", "cors")]
RATE_HEADERS = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after")


async def test_connects_are_counted_per_identity_and_refusals_spend_nothing(
    simulator, user, serve, connect, counts
):
    relay = await serve(simulator.url, limits={"connects_per_minute": 60})
    await asyncio.gather(*(connect(relay) for _ in range(60)))
    for _ in range(30):
        reply = await ask(relay.public_url, key=user.key)
        assert (reply.status, reply.code) == (429, "rate_limited")
        assert [reply.headers[name] for name in RATE_HEADERS] == ["60", "0", "1", "1"]
    other = await connect(relay, key=simulator.user(2).key)
    assert other.status == 200
    # One a second comes back, had the thirty refusals cost anything this would take long.
    async with asyncio.timeout(3):
        while True:
            client = await connect(relay, opened=False)
            await eventually(lambda client=client: client.status)
            if client.status == 200:
                break
            await asyncio.sleep(0.05)
    await counts(relay, 62, "connects_total", stream="desktops", outcome="accepted")


async def test_events_never_count(simulator, user, serve, connect):
    relay = await serve(simulator.url, limits={"connects_per_minute": 2})
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 500)
    await client.has(500)
    again = await connect(relay, cursor=client.last_id)
    assert again.status == 200


async def test_a_bad_key_is_asked_about_once_and_its_address_runs_dry(
    simulator, user, serve, connect, counts
):
    relay = await serve(simulator.url, limits={"failed_auth_per_minute": 3})
    good = await connect(relay)
    for _ in range(3):
        reply = await ask(relay.public_url, key="lb_k_wrong")
        assert (reply.status, reply.code) == (401, "invalid_credential")
    reply = await ask(relay.public_url, key="lb_k_another")
    assert (reply.status, reply.code) == (429, "too_many_failures")
    assert all(int(reply.headers[name]) >= 0 for name in RATE_HEADERS)
    asked = [seen for seen in simulator.requests if seen.headers["x-api-key"] != user.key]
    assert [seen.headers["x-api-key"] for seen in asked] == ["lb_k_wrong"]
    again = await connect(relay)
    assert again.status == 200, "who is known to be good still passes"
    assert not good.closed
    await counts(relay, 1, "refusals_total", code="too_many_failures")


async def test_a_crowd_of_bad_keys_costs_upstream_no_more_than_its_budget(
    simulator, user, serve, connect
):
    relay = await serve(
        simulator.url,
        limits={"failed_auth_per_minute": 1000, "upstream_auth_failures_per_minute": 4},
    )
    known = await connect(relay)
    replies = await asyncio.gather(
        *(ask(relay.public_url, key=f"lb_k_guess_{n}") for n in range(50))
    )
    codes = [reply.code for reply in replies]
    assert set(codes) == {"invalid_credential", "too_many_failures"}
    assert codes.count("invalid_credential") == 4
    refused = [seen for seen in simulator.requests if seen.status == 401]
    assert len(refused) == 4
    second = await connect(relay)
    assert (known.closed, second.status) == (False, 200)


async def test_the_newest_stream_too_many_is_refused(simulator, user, serve, connect):
    relay = await serve(simulator.url, limits={"streams_per_user": 3})
    first = [await connect(relay) for _ in range(3)]
    reply = await ask(relay.public_url, key=user.key)
    assert (reply.status, reply.code) == (429, "too_many_streams")
    assert reply.headers["ratelimit-limit"] == "3"
    stranger = await connect(relay, key=simulator.user(2).key)
    assert stranger.status == 200
    first[0].close()
    await first[0].ended()
    late = await connect(relay)
    assert late.status == 200


async def test_or_the_oldest_makes_room_and_stays_away_for_long(
    simulator, user, serve, connect, counts
):
    relay = await serve(simulator.url, limits={"streams_per_user": 3, "on_excess": "retire_oldest"})
    tabs = [await connect(relay) for _ in range(5)]
    for tab in tabs[:2]:
        await tab.ended()
        assert tab.reason == "retired"
        assert 300_000 <= tab.blocks[-1].retry_ms <= 600_000
    simulator.emit(user.id, "desktops", 1)
    for tab in tabs[2:]:
        await tab.has(1)
    await counts(relay, 2, "closes_total", reason="retired")
    await counts(relay, 3, "subscribers")


async def test_a_retired_tab_that_does_not_read_keeps_nobody_out(simulator, serve, connect):
    relay = await serve(simulator.url, limits={"streams_per_user": 1, "on_excess": "retire_oldest"})
    stuck = await connect(relay, receive_bytes=1000)
    stuck.transport.pause_reading()
    for _ in range(5):
        tab = await connect(relay)
        assert tab.status == 200


async def test_the_process_has_a_bound(simulator, user, serve, connect):
    relay = await serve(simulator.url, limits={"streams_total": 4})
    tabs = [await connect(relay, key=simulator.user(n).key) for n in (1, 1, 2, 2)]
    reply = await ask(relay.public_url, key=simulator.user(3).key)
    assert (reply.status, reply.code) == (503, "at_capacity")
    assert "retry-after" in reply.headers
    tabs[0].close()
    await tabs[0].ended()
    late = await connect(relay, key=simulator.user(3).key)
    assert late.status == 200


async def test_counts_do_not_drift_whatever_clients_do(simulator, user, serve, connect, counts):
    relay = await serve(simulator.url, limits={"streams_per_user": 40})
    rng = random.Random(5)
    for _ in range(8):
        crowd = [
            await connect(relay, opened=False, version=rng.choice(("1.0", "1.1")))
            for _ in range(30)
        ]
        for client in crowd:
            how = rng.choice(("abort", "close", "opened"))
            if how == "opened":
                await eventually(lambda client=client: client.status)
            client.abort() if how == "abort" else client.close()
        for client in crowd:
            await client.ended()
        await counts(relay, 0, "subscribers")
    kept = [await connect(relay) for _ in range(40)]
    reply = await ask(relay.public_url, key=user.key)
    assert reply.code == "too_many_streams"
    assert len(kept) == 40


# What a browser is told


@pytest.mark.parametrize(
    ("limits", "code", "status"),
    [
        ({"streams_per_user": 1}, "too_many_streams", 429),
        ({"connects_per_minute": 1}, "rate_limited", 429),
        ({"streams_total": 1}, "at_capacity", 503),
    ],
)
async def test_an_event_source_gets_a_refusal_that_it_survives(
    simulator, user, serve, connect, limits, code, status
):
    relay = await serve(simulator.url, limits=limits)
    await connect(relay)
    path = f"{DESKTOPS}?apiKey={user.key}"
    client = await connect(relay, path, opened=False, headers=BROWSER, cursor="evt_7")
    await client.ended()
    assert client.status == 200
    assert client.headers["content-type"] == "text/event-stream"
    (refused,) = client.blocks
    assert (refused.type, refused.id) == ("relay.refused", "evt_7")
    assert refused.payload["code"] == code
    assert refused.payload["status"] == status
    assert refused.retry_ms >= 1000 * refused.payload["retryAfter"] - 1000
    fetched = await ask(relay.public_url, key=user.key, headers=BROWSER)
    assert (fetched.status, fetched.code) == (status, code), "fetch can read a status"


async def test_an_event_source_is_told_of_an_upstream_that_is_away(simulator, user, relay, connect):
    simulator.fault("503:9")
    path = f"{DESKTOPS}?apiKey={user.key}"
    client = await connect(relay, path, opened=False, headers=BROWSER)
    await client.ended()
    (refused,) = client.blocks
    assert refused.payload["code"] == "upstream_unavailable"
    assert refused.payload["retryAfter"] >= 9
    assert refused.retry_ms >= 9000


@pytest.mark.parametrize(("fault", "status"), [("401", 401), ("403", 403), ("204", 204)])
async def test_what_is_final_keeps_its_status_and_stops_an_event_source(
    simulator, user, relay, fault, status
):
    simulator.fault(fault)
    reply = await ask(relay.public_url, f"{DESKTOPS}?apiKey={user.key}", headers=BROWSER)
    assert reply.status == status


async def test_browsers_can_be_told_by_status_too(simulator, user, serve, connect):
    relay = await serve(simulator.url, limits={"streams_per_user": 1, "browser_refusals": "status"})
    await connect(relay)
    reply = await ask(relay.public_url, f"{DESKTOPS}?apiKey={user.key}", headers=BROWSER)
    assert (reply.status, reply.code) == (429, "too_many_streams")


async def test_streams_grow_no_older_than_they_may(simulator, user, serve, connect, counts):
    relay = await serve(simulator.url, stream={"max_age": 0.5})
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 1)
    await client.ended()
    assert client.reason == "max_age"
    assert client.last_id == client.ids[-1]
    await counts(relay, 1, "closes_total", reason="max_age")
