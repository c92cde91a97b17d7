"""Budgets: connections per key and failures per address, as documented, and switched off."""

import asyncio

from lebureau_relay.simulator.limits import Window


def test_a_window_slides():
    window = Window(2)
    assert window.wait_s("a", 0.0) == 0.0
    window.hit("a", 0.0)
    window.hit("a", 10.0)
    assert window.wait_s("a", 15.0) == 45.0
    assert window.wait_s("b", 15.0) == 0.0
    assert window.wait_s("a", 60.0) == 0.0
    window.hit("a", 60.0)
    assert window.wait_s("a", 60.0) == 10.0


def test_a_window_of_nothing_is_no_limit():
    window = Window(0)
    window.hit("a", 0.0)
    assert window.wait_s("a", 0.0) == 0.0


def test_a_window_forgets_the_names_that_were_used_longest_ago():
    window = Window(1)
    for n in range(10_001):
        window.hit(str(n), 0.0)
    assert window.wait_s("0", 0.0) == 0.0
    assert window.wait_s("10000", 0.0) == 60.0


async def test_a_key_connects_so_often_a_minute_and_events_cost_nothing(simulate, ask):
    simulator = await simulate(connects_per_minute=3)
    user = simulator.user()
    wires = [await ask(simulator) for _ in range(3)]
    simulator.emit(user.id, "desktops", 500)
    assert len(await wires[0].ids(500)) == 500
    refused = await ask(simulator)
    assert refused.status == 429
    assert 55 <= int(refused.headers["Retry-After"]) <= 60
    assert (await ask(simulator, key=user.keys[1])).status == 200


async def test_failures_block_the_address_with_all_its_keys(simulate, ask):
    simulator = await simulate(failed_auth_per_minute=2)
    assert [(await ask(simulator, key="lb_k_no")).status for _ in range(3)] == [401, 401, 429]
    blocked = await ask(simulator)
    assert blocked.status == 429
    assert int(blocked.headers["Retry-After"]) >= 55


async def test_no_credential_at_all_is_no_failure(simulate, ask):
    simulator = await simulate(failed_auth_per_minute=2)
    assert [(await ask(simulator, key=None)).status for _ in range(5)] == [401] * 5


async def test_limits_can_be_switched_off(simulate, ask):
    simulator = await simulate(connects_per_minute=0, failed_auth_per_minute=0)
    strangers = await asyncio.gather(*(ask(simulator, key="lb_k_no") for _ in range(15)))
    assert {wire.status for wire in strangers} == {401}
    friends = await asyncio.gather(*(ask(simulator, path="/v1/me") for _ in range(130)))
    assert {wire.status for wire in friends} == {200}


async def test_the_documented_limits_are_the_default(simulate, ask):
    simulator = await simulate()
    friends = await asyncio.gather(*(ask(simulator, path="/v1/me") for _ in range(121)))
    assert sorted(wire.status for wire in friends)[-2:] == [200, 429]
    strangers = await asyncio.gather(*(ask(simulator, key="lb_k_no") for _ in range(11)))
    assert sorted(wire.status for wire in strangers)[-2:] == [401, 429]
