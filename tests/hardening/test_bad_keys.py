"""Bad keys hardly reach upstream, and whoever was good stays good while they knock."""

import asyncio
from itertools import count

import pytest
from tests.e2e.clients import ACTIVITY, DESKTOPS, SseClient, ask, eventually

ME = {"identity_path": "/v1/me"}
TRUSTING = {"trusted": ["127.0.0.0/8"]}
BOTH = pytest.mark.parametrize("auth", [ME, {}], ids=["identity path", "probe path"])


def came_from(address):
    return [("X-Forwarded-For", address)]


def refused_upstream(simulator) -> int:
    return sum(one.status == 401 for one in simulator.requests)


@BOTH
async def test_a_refusal_answers_for_upstream_whatever_is_asked_and_however(simulator, serve, auth):
    relay = await serve(simulator.url, auth=auth, limits={"failed_auth_per_minute": 1000})
    bad = [{"key": "lb_k_wrong"}, {"cookie": "__Secure-lebureau.session=wrong"}]
    for who in bad:
        for path in (DESKTOPS, ACTIVITY):
            for method in ("GET", "HEAD"):
                for cursor in (None, "evt_1"):
                    reply = await ask(relay.public_url, path, method=method, cursor=cursor, **who)
                    assert reply.status == 401
    for headers in ([("Authorization", "Bearer lb_k_wrong")], [("X-API-Key", "lb_k_wrong")]):
        assert (await ask(relay.public_url, headers=headers)).code == "invalid_credential"
    assert (await ask(relay.public_url, f"{ACTIVITY}?apiKey=lb_k_wrong")).status == 401
    assert refused_upstream(simulator) == 2


async def test_what_cant_be_a_key_is_never_asked_about(simulator, serve):
    relay = await serve(simulator.url, auth=ME)
    for key in ("a b", "\u00e9", "x" * 4097, "a\x7f", "a\x01b"):
        reply = await ask(relay.public_url, headers=[("x-api-key", key.encode())])
        assert reply.status in (400, 401)
    for query in ("apiKey=%0d%0ax", "apiKey=a%20b", "apiKey=%ff"):
        assert (await ask(relay.public_url, f"{DESKTOPS}?{query}")).status == 401
    assert not simulator.requests


@BOTH
async def test_one_address_runs_dry_for_unknown_keys_and_for_nobody_else(
    simulator, user, serve, connect, auth
):
    relay = await serve(
        simulator.url, auth=auth, limits={"failed_auth_per_minute": 3}, proxy=TRUSTING
    )
    home, away = came_from("203.0.113.7"), came_from("203.0.113.8")
    known = [("x-api-key", user.keys[0]), *home]
    live = await connect(relay, headers=known)
    for number in range(3):
        reply = await ask(relay.public_url, key=f"lb_k_guess_{number}", headers=home)
        assert reply.code == "invalid_credential"
    for key in ("lb_k_guess_9", user.keys[1], simulator.user(2).key):
        reply = await ask(relay.public_url, key=key, headers=home)
        assert (reply.status, reply.code) == (429, "too_many_failures")
        assert int(reply.headers["retry-after"]) >= 1
    assert refused_upstream(simulator) == 3
    await connect(relay, headers=known)
    await connect(relay, headers=[("x-api-key", user.keys[1]), *away])
    simulator.emit(user.id, "desktops", 1)
    await live.has(1)


@BOTH
async def test_guesses_of_one_instant_spend_no_more_than_the_budget_of_their_address(
    simulator, user, serve, connect, auth
):
    """Or one address alone would spend that of the deployment, and lock out all newcomers."""
    relay = await serve(
        simulator.url, auth=auth, limits={"failed_auth_per_minute": 3}, proxy=TRUSTING
    )
    home, away = came_from("203.0.113.7"), came_from("203.0.113.8")
    replies = await asyncio.gather(
        *(ask(relay.public_url, key=f"lb_k_guess_{n}", headers=home) for n in range(50))
    )
    assert [reply.status for reply in replies].count(401) == 3
    assert refused_upstream(simulator) == 3
    await connect(relay, headers=[("x-api-key", user.key), *away])


async def test_who_was_good_stays_good_long_after_the_last_verdict(
    simulator, user, serve, connect, counts
):
    """A laptop that slept through an attack from its own office."""
    relay = await serve(
        simulator.url,
        auth=ME | {"recheck_interval": 0.2},
        limits={"failed_auth_per_minute": 2, "upstream_auth_failures_per_minute": 2},
        feed={"linger": 0},
    )
    tab = await connect(relay)
    tab.close()
    await tab.ended()
    await counts(relay, 0, "feeds")
    for number in range(2):
        await ask(relay.public_url, key=f"lb_k_guess_{number}")
    await asyncio.sleep(0.3)  # nothing is known afresh of anybody
    assert (await ask(relay.public_url, key="lb_k_guess_9")).code == "too_many_failures"
    assert (await ask(relay.public_url, key=user.keys[1])).code == "too_many_failures"
    await connect(relay)
    await connect(relay, ACTIVITY)


@BOTH
async def test_guesses_from_everywhere_cost_upstream_no_more_than_the_deployments_budget(
    simulator, user, serve, connect, counts, log, auth
):
    """Three hundred addresses at once; upstream would lock the relay out at ten."""
    relay = await serve(
        simulator.url,
        auth=auth,
        limits={"upstream_auth_failures_per_minute": 4},
        proxy=TRUSTING,
    )
    live = await connect(relay)
    number = count()

    async def guess(method="GET"):
        n = next(number)
        headers = came_from(f"198.51.{n // 250}.{n % 250 + 1}")
        return await ask(relay.public_url, key=f"lb_k_guess_{n}", headers=headers, method=method)

    replies = await asyncio.gather(*(guess() for _ in range(200)))
    replies += await asyncio.gather(*(guess("HEAD") for _ in range(100)))
    statuses = [reply.status for reply in replies]
    assert refused_upstream(simulator) == statuses.count(401) == 4
    assert statuses.count(429) == 296
    newcomer = await ask(relay.public_url, key=user.keys[1], headers=came_from("192.0.2.1"))
    assert newcomer.code == "too_many_failures"
    assert 1 <= int(newcomer.headers["retry-after"]) <= 60
    await connect(relay)
    await connect(relay, ACTIVITY)
    simulator.emit(user.id, "desktops", 1)
    await live.has(1)
    assert not live.told
    spent = [line for line in log if line["event"] == "identity.failures_spent"]
    assert len(spent) == 1, "told once, not a line a guess"


async def test_good_newcomers_pass_while_places_are_left(simulator, serve, connect):
    """Forty colleagues come back at once after a restart: none is a guess, none is refused."""
    users = [simulator.user(1), *(simulator.add_user() for _ in range(39))]
    relay = await serve(simulator.url, auth=ME, limits={"upstream_auth_failures_per_minute": 2})
    tabs = await asyncio.gather(*(connect(relay, key=each.key) for each in users))
    assert all(tab.status == 200 for tab in tabs)


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_first_forwarded_header_from_an_untrusted_peer_is_warned_of_once(
    simulator, serve, user, log, trusted
):
    relay = await serve(simulator.url, proxy=TRUSTING if trusted else {})
    for n in range(3):
        await ask(
            relay.public_url, key=user.key, method="HEAD", headers=came_from(f"203.0.113.{n}")
        )
    lines = [line for line in log if line["event"] == "proxy.untrusted"]
    assert len(lines) == (0 if trusted else 1)
    for line in lines:
        assert (line["log_level"], line["peer"]) == ("warning", "127.0.0.1")
        assert "proxy.trusted" in line["mend"]
        assert "203.0.113" not in str(line)


async def test_a_stranger_cant_write_its_own_address(simulator, serve):
    """What a client says of itself counts for nothing, or each guess would have its own budget."""
    relay = await serve(simulator.url, auth=ME, limits={"failed_auth_per_minute": 2})
    codes = []
    for n in range(6):
        reply = await ask(
            relay.public_url, key=f"lb_k_guess_{n}", headers=came_from(f"203.0.113.{n}")
        )
        codes.append(reply.code)
    assert codes == ["invalid_credential"] * 2 + ["too_many_failures"] * 4


async def test_a_real_address_of_its_own_has_a_budget_of_its_own(simulator, user, serve):
    relay = await serve(simulator.url, auth=ME, limits={"failed_auth_per_minute": 1})
    statuses = []
    for source, key in (
        ("127.0.0.2", "lb_k_guess_1"),
        ("127.0.0.2", "lb_k_guess_2"),
        ("127.0.0.3", user.key),
    ):
        client = await SseClient.connect(relay.public_url, key=key, source=source)
        await eventually(lambda client=client: client.status)
        statuses.append(client.status)
        client.close()
    assert statuses == [401, 429, 200]
