"""Slow, stuck and vanished readers: found, ended by their own limits, and felt by nobody else."""

import ctypes
import socket
import struct
import time

import pytest
from tests.e2e.clients import breaks, eventually

# A socket filter that lets nothing in: the peer of a cable that was pulled (linux/filter.h).
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)


def vanish(client) -> None:
    """From now on this client's host answers nothing, not even TCP."""
    code = ctypes.create_string_buffer(_DROP_ALL)
    program = struct.pack("HP", 1, ctypes.addressof(code))
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def reappear(client) -> None:
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def emitted(simulator, user):
    return [record.id for record in simulator.log(user.id, "desktops")]


def flood(simulator, user, megabytes: int = 2) -> None:
    """More than any buffer between relay and client holds."""
    for _ in range(megabytes * 100):
        simulator.emit_event(user.id, "desktops", "t", {"pad": "x" * 10_000})


@pytest.fixture
async def impatient(serve, simulator):
    """A relay that bears a stuck reader for a second."""
    return await serve(
        simulator.url,
        stream={"write_timeout": 1, "buffer_bytes": 65536},
        replay={"max_bytes": 50_000_000},
    )


@pytest.fixture
async def patient(serve, simulator):
    """A relay that bears a stuck reader for longer than any test lasts."""
    return await serve(
        simulator.url, stream={"buffer_bytes": 65536}, replay={"max_bytes": 50_000_000}
    )


async def test_nobody_waits_for_those_that_never_read(simulator, user, patient, connect, counts):
    others = [await connect(patient) for _ in range(5)]
    stuck = [await connect(patient, receive_bytes=4096) for _ in range(40)]
    for each in stuck:
        each.transport.pause_reading()
    flood(simulator, user, 4)
    for other in others:
        await other.has(400)
    await counts(patient, 45, "subscribers")
    late = await connect(patient, cursor=others[0].ids[0])
    await late.has(399)
    simulator.emit(user.id, "desktops", 20)
    for other in others:
        await other.has(420)
        assert other.ids == emitted(simulator, user)
        assert not other.told
    await counts(patient, 46, "subscribers")


async def test_one_that_never_reads_is_ended(simulator, user, impatient, connect, counts):
    other = await connect(impatient)
    stuck = [await connect(impatient, receive_bytes=4096) for _ in range(3)]
    for each in stuck:
        each.transport.pause_reading()
    flood(simulator, user)
    await other.has(200)
    await counts(impatient, 3, "closes_total", stream="desktops", reason="slow")
    await counts(impatient, 1, "subscribers")
    assert not other.told


async def test_one_that_reads_slowly_but_moves_is_kept_and_loses_nothing(
    simulator, user, impatient, connect
):
    slow = await connect(impatient, receive_bytes=4096)
    swift = await connect(impatient)
    slow.transport.pause_reading()
    flood(simulator, user, 1)
    await swift.has(100)
    deadline_s = time.monotonic() + 20
    while len(slow.events) < 100 and time.monotonic() < deadline_s:
        size = len(slow.raw)
        slow.transport.resume_reading()
        await eventually(  # what is left in the end may be less than a step
            lambda size=size: len(slow.raw) >= size + 4000 or len(slow.events) == 100 or slow.closed
        )
        slow.transport.pause_reading()
        assert not slow.closed
    assert slow.ids == emitted(simulator, user)
    assert not slow.told


async def test_one_that_the_history_has_overtaken_is_told(simulator, user, serve, connect, counts):
    relay = await serve(
        simulator.url, stream={"buffer_bytes": 16384}, replay={"max_bytes": 100_000}
    )
    slow = await connect(relay, receive_bytes=4096)
    swift = await connect(relay)
    slow.transport.pause_reading()
    flood(simulator, user, 8)
    await swift.has(800)
    slow.transport.resume_reading()
    await eventually(lambda: slow.ids[-1:] == emitted(simulator, user)[-1:])
    assert "slow" in slow.gaps
    assert breaks(slow.blocks, emitted(simulator, user)) == []
    assert not swift.told
    simulator.emit(user.id, "desktops", 1)
    await eventually(lambda: slow.ids[-1:] == emitted(simulator, user)[-1:])
    await counts(relay, len(slow.gaps), "gaps_total", cause="slow")


async def test_no_heartbeats_pile_up_behind_what_is_not_read(simulator, user, serve, connect):
    relay = await serve(simulator.url, replay={"max_bytes": 50_000_000})
    stuck = await connect(relay, receive_bytes=4096)
    swift = await connect(relay)
    stuck.transport.pause_reading()
    flood(simulator, user)
    await swift.has(200)
    beats = swift.heartbeats
    await eventually(lambda: swift.heartbeats > beats + 3)
    stuck.transport.resume_reading()
    await stuck.has(200)
    first = stuck.timeline.index("block")
    assert stuck.timeline[first:].count("beat") == stuck.timeline[::-1].index("block")


async def test_a_peer_that_has_vanished_is_found(simulator, user, impatient, connect, counts):
    gone = await connect(impatient)
    other = await connect(impatient)
    vanish(gone)
    try:
        await counts(impatient, 1, "subscribers")
    finally:
        reappear(gone)
    simulator.emit(user.id, "desktops", 1)
    await other.has(1)
    assert not other.told


async def test_a_vanished_peer_under_traffic_is_found_too(
    simulator, user, impatient, connect, counts
):
    gone = await connect(impatient)
    other = await connect(impatient)
    vanish(gone)
    try:
        flood(simulator, user)
        await other.has(200)
        await counts(impatient, 1, "subscribers")
    finally:
        reappear(gone)
    assert not other.told


async def test_a_drain_is_not_held_up_by_one_that_does_not_read(simulator, user, patient, connect):
    stuck = await connect(patient, receive_bytes=4096)
    stuck.transport.pause_reading()
    gone = await connect(patient)
    other = await connect(patient)
    flood(simulator, user)
    await other.has(200)
    vanish(gone)
    try:
        began_s = time.monotonic()
        await patient.drain()
        assert 4 < time.monotonic() - began_s < 8, "a goodbye is given five seconds"
    finally:
        reappear(gone)
    await other.ended()
    assert other.reason == "draining"


async def test_a_replay_to_one_that_does_not_read_costs_the_others_nothing(
    simulator, user, patient, connect
):
    swift = await connect(patient)
    flood(simulator, user, 4)
    await swift.has(400)
    for _ in range(20):
        stuck = await connect(patient, cursor=swift.ids[0], receive_bytes=4096)
        stuck.transport.pause_reading()
    for number in range(1, 50):
        simulator.emit(user.id, "desktops", 1)
        await swift.has(400 + number)
    assert not swift.told
