"""The program: starts in words, drains on a signal, ends with 0, and leaves nothing behind."""

import asyncio
import signal
import socket

import pytest
from tests.e2e.clients import DESKTOPS, ask, eventually


async def test_sigterm_ends_streams_in_good_order_and_the_process_with_0(
    simulator, user, program, connect
):
    relay = await (await program(simulator.url)).started()
    url = relay.public_url
    clients = [await connect(url) for _ in range(5)]
    simulator.emit(user.id, "desktops", 3)
    for client in clients:
        await client.has(3)
    relay.signal()
    assert await relay.exit() == 0
    for client in clients:
        await client.ended()
        assert client.reason == "draining"
        assert client.finished
        assert client.last_id == client.ids[-1]
        assert client.blocks[-1].retry_ms == client.blocks[-1].payload["retry"] > 0
    assert simulator.subscriptions_total == 0
    assert [line["event"] for line in relay.log[:1]] == ["relay.started"]
    assert relay.log[-1]["event"] == "relay.stopped"
    closed = relay.said("stream.closed")
    assert [line["reason"] for line in closed] == ["draining"] * 5
    assert "Traceback" not in relay.stderr


async def test_a_drain_is_spread_and_refuses_newcomers_meanwhile(simulator, user, program, connect):
    settings = {"DRAIN__SPREAD": 2}
    relay = await (await program(simulator.url, settings=settings)).started()
    clients = [await connect(relay.public_url) for _ in range(4)]
    relay.signal()
    await clients[0].ended()
    reply = await ask(relay.public_url, key=user.key)
    assert (reply.status, reply.code) == (503, "draining")
    assert reply.headers["retry-after"] == "1"
    simulator.emit(user.id, "desktops", 1)
    await clients[3].has(1)
    assert (await ask(relay.admin_url, "/readyz")).status == 503
    assert await relay.exit() == 0
    for client in clients:
        await client.ended()
        assert client.reason == "draining"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(simulator, program, connect, second):
    settings = {"DRAIN__SPREAD": 600}
    relay = await (await program(simulator.url, settings=settings)).started()
    clients = [await connect(relay.public_url) for _ in range(3)]
    relay.signal()
    await clients[0].ended()
    assert not clients[2].closed
    relay.signal(second)
    assert await relay.exit(5) == 0
    for client in clients:
        await client.ended()
    assert "Traceback" not in relay.stderr


async def test_ctrl_c_is_a_clean_end(simulator, program):
    relay = await (await program(simulator.url)).started()
    relay.signal(signal.SIGINT)
    assert await relay.exit() == 0
    assert "Traceback" not in relay.stderr


async def test_whoever_waits_for_upstream_when_it_drains_is_refused(
    simulator, user, program, connect
):
    simulator.fault("stall")
    relay = await (await program(simulator.url)).started()
    waiting = await connect(relay.public_url, opened=False)
    await eventually(lambda: simulator.requests)
    relay.signal()
    assert await relay.exit() == 0
    await waiting.ended()
    assert waiting.status == 503
    assert b'"draining"' in waiting.raw
    assert "Traceback" not in relay.stderr


async def test_a_killed_relay_is_resumed_by_the_next(simulator, user, program, tab):
    relay = await (await program(simulator.url)).started()
    port = relay.public_url.rpartition(":")[2]
    tabs = [tab(relay) for _ in range(4)]
    await eventually(lambda: all(each.connections and each.client.retry_ms for each in tabs))
    simulator.emit(user.id, "desktops", 10)
    await eventually(lambda: all(len(each.events) == 10 for each in tabs))
    await relay.kill()
    simulator.emit(user.id, "desktops", 10)
    await (await program(simulator.url, settings={"LISTEN__PORT": port})).started()
    simulator.emit(user.id, "desktops", 10)
    await eventually(lambda: all(len(each.events) == 30 for each in tabs), 10)
    for each in tabs:
        assert each.ids == [record.id for record in simulator.log(user.id, "desktops")]
        assert each.gaps == []


async def test_a_crash_of_upstream_is_a_line_in_the_log_and_no_traceback(
    simulator, user, program, connect
):
    relay = await (await program(simulator.url)).started()
    client = await connect(relay.public_url)
    await simulator.stop()
    await eventually(lambda: relay.said("upstream.refused"))
    await simulator.restart()
    simulator.emit(user.id, "desktops", 1)
    relay.signal()
    assert await relay.exit() == 0
    await client.ended()
    assert client.reason == "draining"
    assert "Traceback" not in relay.stderr


@pytest.mark.parametrize(
    ("order", "facts"),
    [
        ("content_type", {"problem": "unusable", "status": 200}),
        ("404", {"problem": "unusable", "status": 404}),
        ("500", {"problem": "unavailable", "status": 500}),
    ],
)
async def test_what_a_refusal_says_the_log_tells_is_there(simulator, user, program, order, facts):
    slow = {"UPSTREAM__RETRY_MIN": 5, "UPSTREAM__RETRY_MAX": 10}
    relay = await (await program(simulator.url, settings=slow)).started()
    simulator.fault(order)
    for _ in range(3):
        assert (await ask(relay.public_url, key=user.key)).status in {502, 503}
    await eventually(lambda: len(relay.said("request.refused")) == 3)
    (line,) = relay.said("upstream.refused")  # one for each time that upstream was asked
    assert facts.items() <= line.items()
    assert line["stream"] == "desktops"
    assert str(facts["status"]) in line["detail"] or "text/html" in line["detail"]


async def test_a_redis_that_is_not_there_from_the_start_is_told(simulator, user, program, connect):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
        away = {"REDIS__URL": url, "REDIS__HASH_SECRET": "any secret of some length will do here"}
        relay = await (await program(simulator.url, settings=away)).started()
        client = await connect(relay.public_url)
        simulator.emit(user.id, "desktops", 1)
        await client.has(1)
    (line,) = relay.said("redis.down")
    assert "operations.md" in line["mend"]


async def test_no_credential_is_written_anywhere(simulator, user, program, connect, tmp_path):
    relay = await (await program(simulator.url, settings={"LOG__LEVEL": "debug"})).started()
    url = relay.public_url
    bearer = [("Authorization", f"Bearer {user.keys[1]}")]
    clients = [
        await connect(url, f"{DESKTOPS}?apiKey={user.key}"),
        await connect(url, headers=bearer),
        await connect(url, cookie=user.cookie),
    ]
    for path in (f"/nowhere?apiKey={user.key}", f"{DESKTOPS}?apiKey={user.key}&apiKey=lb_k_b"):
        await ask(url, path)
    await ask(url, f"{DESKTOPS}?apiKey=lb_k_unknown_{user.key}")
    await ask(url, raw=f"GET {DESKTOPS}?apiKey={user.key} HTTP/9\r\nx-api-key: \0\r\n\r\n".encode())
    simulator.emit(user.id, "desktops", 1)
    for client in clients:
        await client.has(1)
    simulator.fault("500", times=2)
    simulator.cut_all()
    simulator.emit(user.id, "desktops", 1)
    for client in clients:
        await client.has(2)
    pages = [(await ask(relay.admin_url, path)).raw for path in ("/metrics", "/status")]
    relay.signal()
    assert await relay.exit() == 0
    secrets = [*user.keys, user.cookies[0], "lb_k_"]
    told = [relay.stderr.encode(), *pages, *(bytes(client.raw) for client in clients)]
    assert len(relay.log) > 5
    for secret in secrets:
        assert not any(secret.encode() in text for text in told)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


async def test_one_line_per_stream_and_none_per_event(simulator, user, program, connect):
    relay = await (await program(simulator.url)).started()
    client = await connect(relay.public_url)
    simulator.emit(user.id, "desktops", 200)
    await client.has(200)
    client.close()
    await eventually(lambda: relay.said("stream.closed"))
    (line,) = relay.said("stream.closed")
    assert line["reason"] == "client_gone"
    assert line["stream"] == "desktops"
    assert line["age_s"] > 0
    assert len(relay.lines) == len(relay.log) < 6


# Starting


@pytest.mark.parametrize("section", ["LISTEN", "ADMIN"])
async def test_a_port_that_is_taken_is_told_with_the_setting(simulator, program, section):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {f"{section}__PORT": taken.getsockname()[1]}
        relay = await program(simulator.url, settings=settings)
        assert await relay.exit() == 1
    assert f"{section.lower()}.port" in relay.stderr
    assert "Traceback" not in relay.stderr


async def test_every_mistake_in_the_settings_is_told_at_once(program):
    settings = {
        "UPSTREAM__BASE_URL": "ftp://nowhere",
        "STREAM__HEARTBEAT": "soon",
        "LIMITS__ON_EXCES": "refuse_newest",
        "LISTEN__PORT": 70000,
    }
    relay = await program(settings=settings)
    assert await relay.exit() == 2
    for name in ("upstream.base_url", "stream.heartbeat", "on_excess", "listen.port"):
        assert name.lower() in relay.stderr.lower()
    assert "Traceback" not in relay.stderr


async def test_a_settings_file_is_read_and_the_environment_wins(
    simulator, user, program, connect, tmp_path
):
    file = tmp_path / "relay.yaml"
    file.write_text(
        "upstream: {base_url: 'http://127.0.0.1:9'}\n"
        "stream: {heartbeat: 0.2}\nlimits: {streams_per_user: 1}\n"
    )
    relay = await program(simulator.url, "serve", "--config", str(file))
    await relay.started()
    client = await connect(relay.public_url)
    await eventually(lambda: client.heartbeats >= 2)
    reply = await ask(relay.public_url, key=user.key)
    assert reply.code == "too_many_streams"


async def test_a_settings_file_that_is_not_there_is_told(program, tmp_path):
    relay = await program("", "serve", "--config", str(tmp_path / "no.yaml"))
    assert await relay.exit() == 2
    assert "no.yaml" in relay.stderr
    assert "Traceback" not in relay.stderr


async def test_a_command_that_there_is_not_is_bad_usage(program):
    relay = await program("", "nonsense")
    assert await relay.exit() == 2
    assert "Traceback" not in relay.stderr


@pytest.mark.server
async def test_a_relay_may_be_stopped_again(simulator, user, serve, connect, valkey):
    """By whoever isn't sure, at the same time and later: the first one does it."""
    shared = {"url": valkey.url, "hash_secret": "any secret of some length will do here"}
    relay = await serve(simulator.url, redis=shared)
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 1)
    await client.has(1)
    await asyncio.gather(relay.stop(), relay.stop())
    await relay.stop()
    await client.ended()
    await eventually(lambda: valkey.ask("CLIENT", "LIST").count("\n") == 1, said="only who asks")
