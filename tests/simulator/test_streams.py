"""The API as documented: both streams, every credential, ids, exact replay, and restarts."""

import asyncio
import json
import random
import time

import pytest

from lebureau_relay.errors import ConfigError, StartError
from lebureau_relay.simulator import IdMode, Simulator, SimulatorOptions, Stream


def evt(number: int) -> str:
    return f"evt_{number:010d}"


@pytest.mark.parametrize("stream", Stream)
async def test_a_stream_carries_unnamed_json_messages_with_ids(simulator, ask, stream):
    wire = await ask(simulator, stream)
    assert wire.status == 200
    assert wire.headers["Content-Type"] == "text/event-stream"
    emitted = simulator.emit("user_0001", stream, 3)
    blocks = await wire.blocks(3)
    assert [block.keys() for block in blocks] == [{"id", "data"}] * 3
    assert [block["id"] for block in blocks] == [evt(1), evt(2), evt(3)]
    assert [block["data"] for block in blocks] == [record.data for record in emitted]
    assert all(json.loads(block["data"]).keys() == {"type", "payload"} for block in blocks)
    assert simulator.log("user_0001", stream) == tuple(emitted)


async def test_users_and_streams_are_apart(simulator, ask):
    mine = await ask(simulator, "desktops")
    simulator.emit("user_0002", "desktops")
    simulator.emit("user_0001", "activity")
    simulator.emit_event("user_0001", "desktops", "mine", {})
    assert (await mine.events(1))[0] == (evt(1), "mine", {})


@pytest.mark.parametrize("way", ["x-api-key", "bearer", "query", "cookie", "second key"])
async def test_every_documented_credential_opens_a_stream(simulator, ask, way):
    user = simulator.user()
    extra = {
        "x-api-key": {"headers": {"x-api-key": user.key}},
        "bearer": {"headers": {"Authorization": f"Bearer {user.key}"}},
        "query": {"params": {"apiKey": user.key}},
        "cookie": {"headers": {"Cookie": f"theme=dark; {user.cookie}"}},
        "second key": {"headers": {"x-api-key": user.keys[1]}},
    }[way]
    wire = await ask(simulator, key=None, **extra)
    assert wire.status == 200
    simulator.emit_event(user.id, "desktops", "hello", {})
    assert (await wire.events(1))[0][1] == "hello"


@pytest.mark.parametrize("path", ["/api/desktops/stream", "/v1/me", "/api/desktops"])
async def test_strangers_get_401_in_json(simulator, ask, path):
    for key in (None, "lb_k_nobody"):
        wire = await ask(simulator, key=key, path=path)
        assert (wire.status, await wire.json()) == (
            401,
            {"error": "Unauthorized", "statusCode": 401},
        )


async def test_a_bad_key_is_not_saved_by_a_good_cookie(simulator, ask):
    cookie = {"Cookie": simulator.user().cookie}
    assert (await ask(simulator, key="lb_k_nobody", headers=cookie)).status == 401


async def test_who_am_i_tells_of_the_calling_key(simulator, ask):
    user = simulator.user()
    full = await (await ask(simulator, path="/v1/me")).json()
    limited = await (await ask(simulator, path="/v1/me", key=user.limited_key)).json()
    assert full.keys() == {"id", "email", "role", "tier", "capabilities"}
    assert full["id"] == limited["id"] == user.id
    assert "desktop:read" in full["capabilities"]
    assert "desktop:read" not in limited["capabilities"]
    assert (await ask(simulator, key=user.limited_key)).status == 403


async def test_desktops_are_an_array(simulator, ask):
    listed = await (await ask(simulator, path="/api/desktops")).json()
    assert [desktop["tier"] for desktop in listed] == ["pro"] * 3


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
async def test_streams_are_read_with_get_only(simulator, ask, method):
    assert (await ask(simulator, method=method)).status == 405


async def test_keys_are_a_function_of_the_seed():
    keys = [Simulator(SimulatorOptions(seed=seed)).user().key for seed in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0].startswith("lb_k_demo_0001")
    assert keys[0] not in repr(Simulator(SimulatorOptions(seed=1)).user())


# Replay


async def test_a_cursor_is_followed_by_what_came_after_it_then_by_live(simulator, ask):
    simulator.emit("user_0001", "desktops", 5)
    wire = await ask(simulator, cursor=evt(2))
    simulator.emit("user_0001", "desktops", 2)
    assert await wire.ids(5) == [evt(n) for n in range(3, 8)]


async def test_the_second_newest_id_brings_the_newest_back(simulator, ask):
    simulator.emit("user_0001", "desktops", 5)
    assert await (await ask(simulator, cursor=evt(4))).ids(1) == [evt(5)]


@pytest.mark.parametrize("cursor", [None, "", "evt_nowhere", evt(1)])
async def test_without_a_cursor_that_is_known_a_stream_is_live(simulate, ask, cursor):
    simulator = await simulate(log_events=3)
    simulator.emit("user_0001", "desktops", 5)
    wire = await ask(simulator, cursor=cursor)
    simulator.emit("user_0001", "desktops")
    assert await wire.ids(1) == [evt(6)]


async def test_history_accrues_while_nobody_listens(simulate, ask):
    simulator = await simulate(rate=200.0)
    await simulator.until(lambda: len(simulator.log("user_0001", "activity")) > 5)
    assert await (await ask(simulator, "activity", cursor=evt(1))).ids(3) == [
        evt(2),
        evt(3),
        evt(4),
    ]


async def test_replay_meets_live_without_a_hole_or_a_repeat(simulate, ask):
    """Clients come and go at random places while events pour; each reads on without a seam."""
    simulator = await simulate(rate=500.0, connects_per_minute=0)
    chance = random.Random(7)

    async def reader() -> int:
        seen: list[str] = []
        while len(seen) < 300:
            wire = await ask(simulator, cursor=seen[-1] if seen else None)
            seen += await wire.ids(chance.randrange(1, 40))
            wire.close()
        first = int(seen[0].removeprefix("evt_"))
        assert seen == [evt(first + n) for n in range(len(seen))]
        return len(seen)

    assert min(await asyncio.gather(*(reader() for _ in range(8)))) >= 300


async def test_a_long_replay_is_whole(simulator, ask):
    simulator.emit("user_0001", "desktops", 2000)
    wire = await ask(simulator, cursor=evt(1))
    assert await wire.ids(1999) == [evt(n) for n in range(2, 2001)]


async def test_a_reader_that_the_log_overtook_is_ended(simulate, ask):
    simulator = await simulate(log_events=10)
    simulator.fault("silence", times=1)
    wire = await ask(simulator)
    simulator.emit("user_0001", "desktops", 11)
    simulator.clear_faults()
    assert await wire.end() == (b"", True)


# Ids, stamps, pace, comments


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (IdMode.ALL, [evt(1), evt(2), evt(3), evt(4)]),
        (IdMode.SOME, [None, None, evt(3), None]),
        (IdMode.NONE, [None] * 4),
    ],
)
async def test_ids_come_as_often_as_asked(simulate, ask, ids, expected):
    simulator = await simulate(ids=ids)
    wire = await ask(simulator)
    simulator.emit("user_0001", "desktops", 4)
    assert await wire.ids(4) == expected


async def test_a_stamp_stands_first_in_the_data(simulate, ask):
    simulator = await simulate(stamp=True)
    wire = await ask(simulator)
    before_ns = time.time_ns()
    simulator.emit("user_0001", "desktops")
    data = (await wire.blocks(1))[0]["data"]
    assert data.startswith('{"t":')
    assert before_ns <= json.loads(data)["t"] <= time.time_ns()


async def test_events_come_by_themselves_at_the_rate(simulate):
    simulator = await simulate(rate=50.0, users=3)
    began_s = time.monotonic()
    await simulator.until(lambda: simulator.state()["events"] >= 300)
    took_s = time.monotonic() - began_s
    counts = [len(simulator.log(user.id, s)) for user in simulator.users for s in Stream]
    assert took_s > 0.8  # 300 events at 300 a second, less what is rounded at the ends
    assert max(counts) - min(counts) <= 1


async def test_the_default_is_an_event_a_second_and_stream():
    assert SimulatorOptions().rate == 1.0


async def test_a_user_who_comes_later_has_a_story_too(simulate):
    simulator = await simulate(rate=50.0, users=1)
    user = simulator.add_user()
    await simulator.until(lambda: len(simulator.log(user.id, "activity")) > 1)


async def test_comments_come_in_silence_only(simulate, ask):
    simulator = await simulate(heartbeat_s=0.1)
    wire = await ask(simulator)
    assert await wire.until(b"\n\n") == b": heartbeat\n\n"
    assert await wire.until(b"\n\n") == b": heartbeat\n\n"
    quiet = await simulate(heartbeat_s=0)
    assert await (await ask(quiet)).quiet(0.3)


async def test_a_retry_line_opens_the_stream(simulate, ask):
    simulator = await simulate(retry_ms=1500)
    assert await (await ask(simulator)).until(b"\n\n") == b"retry: 1500\n\n"


async def test_a_test_may_emit_what_it_likes(simulator, ask):
    wire = await ask(simulator)
    simulator.emit_event("user_0001", "desktops", "x", {"é": "\n"}, event_id="mine", event="named")
    simulator.emit_event("user_0001", "desktops", "y", {}, event_id=None)
    raw = b"id: r\xff\rdata\r\r\n\x00"
    simulator.emit_raw("user_0001", "desktops", raw, event_id="r")
    expected = (
        'id: mine\nevent: named\ndata: {"type":"x","payload":{"é":"\\n"}}\n\n'
        'data: {"type":"y","payload":{}}\n\n'
    ).encode() + raw
    assert await wire.exactly(len(expected)) == expected
    simulator.emit("user_0001", "desktops")
    assert await (await ask(simulator, cursor="r")).ids(1) == [evt(1)]


# Counting, revocation, restarts


async def test_open_subscriptions_are_counted(simulator, ask):
    wires = [await ask(simulator, stream) for stream in ("desktops", "desktops", "activity")]
    assert simulator.subscriptions_total == 3
    assert simulator.open_subscriptions("user_0001", "desktops") == 2
    assert simulator.open_subscriptions("user_0002") == 0
    wires[0].close()
    await simulator.until(lambda: simulator.open_subscriptions(stream="desktops") == 1)
    assert simulator.subscriptions_opened("user_0001", "desktops") == 2
    assert simulator.subscriptions_peak("user_0001", "desktops") == 2


async def test_a_revoked_key_opens_nothing_more(simulator, ask):
    key = simulator.add_key("user_0001")
    kept = await ask(simulator, key=key)
    assert simulator.revoke(key)
    assert (await ask(simulator, key=key)).status == 401
    assert (await ask(simulator)).status == 200
    simulator.emit("user_0001", "desktops")
    assert await kept.ids(1) == [evt(1)]
    assert not simulator.revoke(key)


@pytest.mark.parametrize("kind", ["key", "cookie"])
async def test_revocation_may_cut_what_is_open(simulator, ask, kind):
    user = simulator.user()
    secret = user.key if kind == "key" else user.cookies[0]
    headers = {"Cookie": user.cookie} if kind == "cookie" else {"x-api-key": secret}
    doomed = await ask(simulator, key=None, headers=headers)
    other = await ask(simulator, key=user.keys[1])
    simulator.revoke(secret, cut=True)
    assert await doomed.end() == (b"", False)
    simulator.emit(user.id, "desktops")
    assert await other.ids(1) == [evt(1)]


async def test_a_restart_keeps_the_port_and_the_log(simulator, ask):
    url = simulator.url
    simulator.emit("user_0001", "desktops", 3)
    wire = await ask(simulator)
    await simulator.restart()
    assert await wire.end() == (b"", False)
    assert simulator.url == url
    assert await (await ask(simulator, cursor=evt(1))).ids(2) == [evt(2), evt(3)]


async def test_a_restart_may_forget_and_count_from_one(simulator, ask):
    simulator.emit("user_0001", "desktops", 3)
    await simulator.restart(amnesia=True, renumber=True)
    wire = await ask(simulator, cursor=evt(1))
    simulator.emit("user_0001", "desktops")
    assert await wire.ids(1) == [evt(1)]
    assert len(simulator.log("user_0001", "desktops")) == 4


async def test_while_it_is_down_nothing_listens(simulator, ask):
    await simulator.stop()
    with pytest.raises(OSError, match=r"refused|Cannot connect"):
        await ask(simulator)
    await simulator.stop()


async def test_a_taken_port_is_told_in_a_sentence(simulator):
    port = int(simulator.url.rpartition(":")[2])
    with pytest.raises(
        StartError, match=rf"127.0.0.1:{port} \(address already in use\); choose another"
    ):
        await Simulator(SimulatorOptions(rate=0)).start(port=port)


async def test_requests_are_remembered_as_they_came(simulator, ask):
    key = simulator.user().key
    await ask(simulator, key=None, params={"apiKey": key}, headers={"X-Trace": "a"})
    await ask(simulator, path="/v1/me", key="lb_k_nobody")
    first, second = simulator.requests
    assert (first.method, first.path, first.status) == ("GET", "/api/desktops/stream", 200)
    assert first.query == f"apiKey={key}"
    assert first.headers["x-trace"] == "a"
    assert (second.path, second.status) == ("/v1/me", 401)
    assert key not in repr(first)


def test_impossible_options_are_told_at_once():
    with pytest.raises(ConfigError) as told:
        SimulatorOptions(users=0, rate=-1.0, faults=("nonsense", "429:soon"))
    assert len(told.value.mistakes) == 4
