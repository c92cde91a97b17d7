"""The control API does over HTTP what the methods do, says what is wrong, and answers pages."""

import pytest

from lebureau_relay.simulator import Fault

USER = "user_0001"


@pytest.fixture
def control(simulator, ask):
    """Sends an order, returns the status and the JSON."""

    async def send(name, body=None, *, method=None, **query):
        wire = await ask(
            simulator,
            key=None,
            path=f"/_sim/{name}",
            method=method or ("GET" if body is None else "POST"),
            json=body,
            params=query,
        )
        return wire.status, await wire.json()

    return send


async def test_events_are_emitted_and_logged(simulator, ask, control):
    wire = await ask(simulator)
    events = [
        {"type": "task.odd", "payload": {"a": 1}},
        {"type": "x", "id": "mine", "event": "named"},
        {"type": "y", "id": None},
        {"raw": "data: caf\xe9\n\n", "id": "r"},
    ]
    order = {"user": USER, "stream": "desktops", "events": events, "count": 1}
    status, emitted = await control("emit", order)
    assert status == 200
    assert [each["id"] for each in emitted] == [
        "evt_0000000001",
        "mine",
        None,
        "r",
        "evt_0000000002",
    ]
    assert await control("log", user=USER, stream="desktops") == (200, emitted)
    head = b'id: evt_0000000001\ndata: {"type":"task.odd","payload":{"a":1}}\n\n'
    assert await wire.exactly(len(head)) == head
    assert (await wire.until(b"caf\xe9\n\n")).startswith(b"id: mine\nevent: named\ndata: ")


async def test_an_order_without_events_tells_the_story(simulator, control):
    await control("emit", {"user": USER, "stream": "activity"})
    await control("emit", {"user": USER, "stream": "activity", "count": 3})
    assert len(simulator.log(USER, "activity")) == 4


async def test_faults_stand_strike_and_are_cleared(simulator, ask, control):
    order = {"fault": "429:7", "user": USER, "stream": "desktops", "times": 2}
    assert await control("faults", order) == (200, {"done": 0})
    assert (await ask(simulator)).status == 429
    status, faults = await control("faults")
    assert status == 200
    assert faults["catalogue"].keys() == {fault.value for fault in Fault}
    assert faults["standing"][0]["fault"] == "429"
    assert await control("faults", method="DELETE") == (200, {})
    wire = await ask(simulator)
    assert wire.status == 200
    assert await control("faults", {"fault": "cut", "open": True}) == (200, {"done": 1})
    assert await wire.end() == (b"", False)


async def test_users_and_keys_come_and_go(simulator, ask, control):
    _, user = await control("users", {})
    assert user["id"] == "user_0003"
    _, made = await control("keys", {"user": user["id"]})
    wire = await ask(simulator, key=made["key"])
    assert wire.status == 200
    assert await control("revoke", {"secret": made["key"], "cut": True}) == (200, {"known": True})
    assert await wire.end() == (b"", False)
    _, users = await control("users")
    assert [each["id"] for each in users] == ["user_0001", "user_0002", "user_0003"]
    _, limited = await control("keys", {"user": USER, "capabilities": ["kb:read"]})
    assert (await ask(simulator, key=limited["key"])).status == 403


async def test_the_state_counts(simulator, ask, control):
    for stream in ("desktops", "desktops", "activity"):
        await ask(simulator, stream)
    simulator.emit(USER, "desktops", 4)
    assert await control("state") == (
        200,
        {
            "subscriptions": {"total": 3, "users": {USER: {"desktops": 2, "activity": 1}}},
            "events": 4,
            "requests": 3,
        },
    )


async def test_requests_are_shown_as_they_came(simulator, ask, control):
    await ask(simulator, headers={"X-A": "1"})
    _, (seen,) = await control("requests")
    assert (seen["path"], seen["status"]) == ("/api/desktops/stream", 200)
    assert ["X-A", "1"] in seen["headers"]


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("emit", {"stream": "desktops"}, "'user' is missing"),
        ("emit", {"user": "nobody", "stream": "desktops"}, "'nobody'"),
        ("emit", {"user": USER, "stream": "tasks"}, "'tasks' is not a valid Stream"),
        ("emit", {"user": USER, "stream": "desktops", "count": 10**9}, "give 0 to"),
        ("emit", {"user": USER, "stream": "desktops", "events": [1]}, "can't be read"),
        ("faults", {"fault": "explode"}, "choose from"),
        ("faults", {"fault": "bom", "open": True}, "can't be done to an open stream"),
        ("faults", {"fault": "cut", "while_open": True}, "'while_open' is no part"),
        ("keys", {"user": "nobody"}, "'nobody'"),
        ("revoke", {}, "'secret' is missing"),
    ],
)
async def test_mistakes_are_told(control, name, body, says):
    status, answer = await control(name, body)
    assert status == 400
    assert says in answer["mistakes"][0]


async def test_what_is_no_json_is_told(simulator, ask):
    wire = await ask(simulator, path="/_sim/emit", method="POST", data=b"{")
    assert wire.status == 400


async def test_any_page_may_ask(simulator, ask):
    for method, path in (("GET", "/_sim/state"), ("OPTIONS", "/_sim/emit")):
        wire = await ask(simulator, path=path, method=method)
        assert wire.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Origin" not in (await ask(simulator, path="/v1/me")).headers
