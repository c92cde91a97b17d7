"""Tables that strangers can fill: each has its bound, and whoever was good stays good."""

import pytest
from tests.e2e.clients import ask, head

from lebureau_relay.core.limiter import MAX_KEYS
from lebureau_relay.identity import table
from lebureau_relay.relay.budgets import BudgetLimits, LocalBudgets

ADDRESSES = 100_000


async def test_a_hundred_thousand_addresses_are_remembered_within_bounds():
    """Each is punished as long as it is remembered; the last ones are."""
    budgets = LocalBudgets(BudgetLimits(failed_auth_per_minute=2), lambda: 100.0)
    for n in range(ADDRESSES):
        address = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        await budgets.spend(address)
        await budgets.spend(address)
    assert len(budgets._failures) == MAX_KEYS
    assert not (await budgets.peek(address)).allowed
    assert (await budgets.peek("192.0.2.1")).allowed


@pytest.fixture
def small_tables(monkeypatch):
    monkeypatch.setattr(table, "MAX_RECORDS", 100)


async def test_keys_that_are_none_push_out_nobody_who_streams(
    simulate, serve, connect, small_tables
):
    """More bad keys than records are kept, all of them asked about upstream."""
    simulator = await simulate()
    limits = {"upstream_auth_failures_per_minute": 10_000, "failed_auth_per_minute": 10_000}
    relay = await serve(simulator.url, limits=limits)
    user = simulator.user(1)
    client = await connect(relay, key=user.key)
    for n in range(300):
        assert (await ask(relay.public_url, key=f"lb_k_{n}")).code == "invalid_credential"
    asked = len(simulator.requests)
    again = await connect(relay, key=user.key)
    assert len(simulator.requests) == asked, "its verdict is still known"
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)
    await again.has(1)


async def test_one_ipv6_network_is_one_address_and_a_proxy_hides_none(serve, simulator):
    limits = {"failed_auth_per_minute": 3}
    relay = await serve(simulator.url, limits=limits, proxy={"trusted": ["127.0.0.1/32"]})

    async def guess(address: str) -> str:
        forwarded = [("X-Forwarded-For", address), ("Connection", "close")]
        raw = head(key="lb_k_bad", headers=forwarded)
        return (await ask(relay.public_url, raw=raw)).code

    seen = [await guess(f"2001:db8::{n + 1:x}") for n in range(6)]
    assert seen == ["invalid_credential"] * 3 + ["too_many_failures"] * 3
    assert await guess("2001:db8:0:1::1") == "invalid_credential"
    # What a client writes itself stands to the left of what the proxy saw.
    assert await guess("198.51.100.1, 2001:db8::99") == "too_many_failures"
