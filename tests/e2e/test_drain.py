"""Leaving service in good order, whatever else is the matter: newcomers, readers that don't read, a
Redis that is away, signals at bad moments. Never a herd, never longer than the grace period.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.e2e.clients import ask, eventually

# What a process gets beside delay and spread (docs/operations.md).
MARGIN_S = 10.0
BROWSER = (("Sec-Fetch-Mode", "cors"),)


async def until_unready(relay, within_s: float = 5.0) -> None:
    """Until /readyz says no; the process answers probes meanwhile."""
    async with asyncio.timeout(within_s):
        while (await ask(relay.admin_url, "/readyz")).status != 503:
            pass


async def test_for_the_delay_newcomers_are_served_and_nobody_is_ended(
    simulator, user, program, connect
):
    settings = {"DRAIN__DELAY": 1.5, "DRAIN__SPREAD": 0.5}
    relay = await (await program(simulator.url, settings=settings)).started()
    early = [await connect(relay.public_url) for _ in range(5)]
    signalled_s = time.monotonic()
    relay.signal()
    await until_unready(relay)
    late = await connect(relay.public_url)
    simulator.emit(user.id, "desktops", 2)
    await late.has(2)
    came_s = time.monotonic() - signalled_s
    assert came_s < 1.5, "the machine was too slow to see anything of the delay"
    assert not any(client.closed or client.reason for client in early)
    await early[0].ended()
    assert time.monotonic() - signalled_s >= 1.5
    for client in (*early, late):
        await client.ended()
        assert (client.reason, client.finished) == ("draining", True)
        assert client.last_id == client.ids[-1]
    assert await relay.exit() == 0


async def test_streams_end_evenly_each_with_a_hint_of_its_own(simulator, user, program, connect):
    settings = {"DRAIN__SPREAD": 3, "STREAM__RETRY": 3}
    relay = await (await program(simulator.url, settings=settings)).started()
    clients = [await connect(relay.public_url, key=user.keys[n % 2]) for n in range(30)]
    ended_s = {}
    relay.signal()
    signalled_s = time.monotonic()

    async def ends(number: int) -> None:
        await clients[number].ended()
        ended_s[number] = time.monotonic() - signalled_s

    await asyncio.gather(*map(ends, range(30)))
    thirds = [sum(1 for at_s in ended_s.values() if int(at_s) == second) for second in range(3)]
    assert all(6 <= count <= 14 for count in thirds), thirds
    hints = [client.blocks[-1].retry_ms for client in clients]
    assert all(3000 <= hint <= 4500 for hint in hints)
    assert len(set(hints)) > 25
    assert await relay.exit() == 0


async def test_who_comes_back_to_it_after_the_delay_is_sent_on_with_its_place(
    simulator, user, program, connect
):
    settings = {"DRAIN__SPREAD": 600, "STREAM__RETRY": 1}
    relay = await (await program(simulator.url, settings=settings)).started()
    clients = [await connect(relay.public_url) for _ in range(3)]
    simulator.emit(user.id, "desktops", 1)
    for client in clients:
        await client.has(1)
    relay.signal()
    await clients[0].ended()
    cursor = clients[0].last_id
    plain = await ask(relay.public_url, key=user.key, cursor=cursor)
    assert (plain.status, plain.code, plain.headers["retry-after"]) == (503, "draining", "1")
    for _ in range(2):
        soft = await connect(
            relay.public_url, cookie=user.cookie, cursor=cursor, headers=BROWSER, opened=False
        )
        await soft.ended()
        (refused,) = soft.told
        assert refused.type == "relay.refused"
        assert (refused.payload["code"], refused.payload["status"]) == ("draining", 503)
        assert refused.id == cursor
        assert refused.retry_ms >= 1000
    relay.signal()
    assert await relay.exit() == 0


async def test_without_streams_only_the_delay_is_waited_for(simulator, program):
    settings = {"DRAIN__DELAY": 1, "DRAIN__SPREAD": 600}
    relay = await (await program(simulator.url, settings=settings)).started()
    signalled_s = time.monotonic()
    relay.signal()
    assert await relay.exit() == 0
    assert 1 <= time.monotonic() - signalled_s < MARGIN_S


@pytest.mark.server
async def test_nothing_that_hangs_outlasts_the_grace_period(
    simulator, user, program, connect, valkey
):
    """Readers that take nothing, a Redis that takes calls and says nothing, an upstream that hangs
    with newcomers waiting for it: all at once.
    """
    settings = {
        "DRAIN__DELAY": 0.5,
        "DRAIN__SPREAD": 1,
        "REDIS__URL": valkey.url,
        "REDIS__HASH_SECRET": "any secret of some length will do here",
    }
    relay = await (await program(simulator.url, settings=settings)).started()
    reader = await connect(relay.public_url)
    stuck = [await connect(relay.public_url, receive_bytes=4096) for _ in range(20)]
    for each in stuck:
        each.transport.pause_reading()
    for n in range(10):  # no more at once than a reader that is busy may have before it
        for _ in range(20):
            simulator.emit_event(user.id, "desktops", "t", {"pad": "x" * 10_000})
        await reader.has(20 * (n + 1))
    simulator.fault("stall")
    other = await connect(relay.public_url, "/api/mission-control/activity/stream", opened=False)
    await eventually(lambda: len(simulator.requests) > 1)
    valkey.pause()
    try:
        signalled_s = time.monotonic()
        relay.signal()
        assert await relay.exit(30) == 0
        assert time.monotonic() - signalled_s < 0.5 + 1 + MARGIN_S
    finally:
        valkey.resume()
    await reader.ended()
    assert reader.reason == "draining"
    await other.ended()
    assert "Traceback" not in relay.stderr


@pytest.mark.server
async def test_while_redis_is_away_streams_end_with_their_place_all_the_same(
    simulator, user, program, connect, tab, valkey
):
    """And go on at a replica that has nothing but upstream."""
    shared = {
        "DRAIN__SPREAD": 1,
        "REDIS__URL": valkey.url,
        "REDIS__HASH_SECRET": "any secret of some length will do here",
        "REDIS__LEASE_TTL": 1,
    }
    relay = await (await program(simulator.url, settings=shared)).started()
    port = relay.public_url.rpartition(":")[2]
    tabs = [tab(relay) for _ in range(5)]
    await eventually(lambda: all(each.connections and each.client.retry_ms for each in tabs))
    simulator.emit(user.id, "desktops", 5)
    await eventually(lambda: all(len(each.events) == 5 for each in tabs))
    valkey.pause()
    try:
        relay.signal()
        assert await relay.exit() == 0
        simulator.emit(user.id, "desktops", 5)
        settings = shared | {"LISTEN__PORT": port}
        await (await program(simulator.url, settings=settings)).started()
        await eventually(lambda: all(len(each.events) == 10 for each in tabs), 15)
    finally:
        valkey.resume()
    simulator.emit(user.id, "desktops", 5)
    await eventually(lambda: all(len(each.events) == 15 for each in tabs), 15)
    for each in tabs:
        assert each.ids == [record.id for record in simulator.log(user.id, "desktops")]
        assert each.gaps == []


# Signals at bad moments


async def test_a_second_signal_ends_the_delay_too(simulator, program, connect):
    settings = {"DRAIN__DELAY": 600}
    relay = await (await program(simulator.url, settings=settings)).started()
    client = await connect(relay.public_url)
    relay.signal()
    await until_unready(relay)
    assert not client.closed
    relay.signal()
    assert await relay.exit() == 0
    await client.ended()
    assert "Traceback" not in relay.stderr


async def test_a_signal_while_it_starts_ends_it_also_as_the_first_process(tmp_path):
    """Of a container: there the kernel drops signals that nobody handles, and a pod that is deleted
    while it starts would be there until SIGKILL.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--pid", "--fork", "--kill-child"),
        *(sys.executable, "-m", "lebureau_relay", "serve"),
        env={"LEBUREAU_RELAY_LISTEN__PORT": "0", "LEBUREAU_RELAY_ADMIN__PORT": "0"},
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        first = await _child_that_imports("pydantic_core", process.pid)
        os.kill(first, signal.SIGTERM)
        async with asyncio.timeout(MARGIN_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _child_that_imports(library: str, parent: int) -> int:
    """The parent's only child, as soon as it has loaded this."""

    def has_loaded() -> bool:
        with suppress(OSError, ValueError):
            return library in Path(f"/proc/{_child(parent)}/maps").read_text()
        return False

    await eventually(has_loaded, 20, f"it imports {library}")
    return _child(parent)


def _child(parent: int) -> int:
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text())


@pytest.mark.server
async def test_a_signal_while_it_waits_for_redis_ends_it_in_good_order(simulator, program, valkey):
    shared = {"REDIS__URL": valkey.url, "REDIS__HASH_SECRET": "any secret of some length will do"}
    valkey.pause()
    try:
        relay = await program(simulator.url, settings=shared)
        # Its first call is on its way: signals are listened to, and nothing is served yet.
        await eventually(lambda: _connected(relay.process.pid, valkey.port), 20, "it asks Redis")
        relay.signal()
        assert await relay.exit() == 0
    finally:
        valkey.resume()
    assert "Traceback" not in relay.stderr


def _connected(pid: int, port: int) -> bool:
    """Whether a process has a connection to a local port."""
    ours = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            ours.add(str(descriptor.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    there = f"0100007F:{port:04X}"
    return any(line[2] == there and f"socket:[{line[9]}]" in ours for line in lines)
