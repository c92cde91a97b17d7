"""The chaos kit: its parts, a short run of it on the relay, and that it sees what others lose."""

import asyncio
import importlib.util
import random
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from bench.chaos import plan
from bench.chaos.acts import ACTS, play
from bench.chaos.crowd import Parser
from bench.chaos.foreign import Deployment, ForeignStage, reachable
from bench.chaos.library import LIBRARIES, absent
from bench.chaos.peer import Follower, Publisher
from bench.chaos.peers import PeerStage, chosen, missing
from bench.chaos.plan import STAGES, alone, mixed, scenarios
from bench.chaos.processes import Process, Relay
from bench.chaos.road import Road
from bench.chaos.runner import played
from bench.chaos.stage import SMALL
from bench.chaos.starvation import pulses, starve
from bench.chaos.story import Story
from bench.machine import BenchError
from bench.programs import free_port
from tests.conformance.cases import interpret
from tests.conformance.stage import CASES

from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream

ROOT = Path(__file__).parents[2]
KNOWN = scenarios()
OPENED: list[asyncio.StreamWriter] = []  # by `travel`, until the test is over


# -- schedules


def test_every_step_of_every_scenario_can_be_played():
    for scenario in KNOWN.values():
        for step in alone(scenario, random.Random(0), 3).steps:
            assert (step.actor, step.verb) in ACTS, f"{scenario.name}: {step}"


def test_a_seed_replays_a_schedule():
    def schedule(seed: str) -> list[plan.Episode]:
        dice = random.Random(seed)
        return [mixed(list(KNOWN.values()), dice, "three") for _ in range(20)]

    assert schedule("a") == schedule("a")
    assert schedule("a") != schedule("b")


@pytest.mark.parametrize("on", STAGES)
def test_random_schedules_combine_nothing_that_nobody_promises(on):
    dice, names = random.Random(1), set()
    for _ in range(500):
        episode = mixed(list(KNOWN.values()), dice, on)
        members = [KNOWN[name] for name in episode.names]
        names.update(episode.names)
        assert not (any(one.forgets for one in members) and any(one.cold for one in members))
        assert episode.gaps == any(one.gaps for one in members)
        assert [step.at_s for step in episode.steps] == sorted(step.at_s for step in episode.steps)
    fit = {one.name for one in KNOWN.values() if one.mix and (on == "three" or "one" in one.on)}
    assert names == fit, "each comes up"


def test_pulses_are_moments_between_sleeps_and_a_seed_replays_them():
    seen = [list(pulses(str(seed), 12.0, 2.0)) for seed in range(50)]
    assert seen == [list(pulses(str(seed), 12.0, 2.0)) for seed in range(50)]
    assert len({len(one) for one in seen}) > 1
    for one in seen:
        assert 12.0 <= sum(map(sum, one)) < 12.0 + 3.5
        assert all(sleep_s >= 0.05 and 0.02 <= run_s <= 0.3 for sleep_s, run_s in one)
    longest = [max(sleep_s for sleep_s, _ in one) for one in seen]
    assert sum(sleep_s > 2.0 for sleep_s in longest) > 10, "longer than a lease"


async def test_what_starves_lives_on_whatever_ends_it(tmp_path):
    process = Process("sleep", ["sleep", "60"], tmp_path)
    await process.launch()

    def state() -> str:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    async def becomes(wanted: str) -> None:
        async with asyncio.timeout(10.0):
            while state() not in wanted:  # noqa: ASYNC110 - the kernel doesn't say
                await asyncio.sleep(0.001)

    try:
        starving = asyncio.ensure_future(
            starve(
                lambda: process.signal(signal.SIGSTOP),
                lambda: process.signal(signal.SIGCONT),
                pulses("1", 30.0, 2.0),
            )
        )
        await becomes("T")
        await becomes("SR")
        await becomes("T")
        starving.cancel()
        await becomes("SR")
        assert not process.stopped
    finally:
        await process.end()


async def test_no_step_goes_on_after_one_has_failed(monkeypatch):
    done = []

    async def long(_stage):
        try:
            await asyncio.Event().wait()
        finally:
            done.append("undone")

    async def fails(_stage):
        raise TimeoutError

    monkeypatch.setitem(ACTS, ("test", "long"), long)
    monkeypatch.setitem(ACTS, ("test", "fails"), fails)
    steps = (plan.Step(0.0, "test", "long", ()), plan.Step(0.0, "test", "fails", ()))
    with pytest.raises(TimeoutError):
        await play(None, plan.Episode(("x",), steps, gaps=False))
    assert done == ["undone"]


# -- the instruments


def test_a_browser_without_what_drives_it_is_missing(monkeypatch):
    """Where only the relay is installed, as `make demo` does."""
    (browser,) = (one for one in LIBRARIES if one.run_by == "browser")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert browser.missing() == "the package playwright is not installed (make dev)"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_crowd_reads_a_stream_in_any_pieces(size):
    stream = (
        b"\xef\xbb\xbfretry: 5\n\nid: a\r\nevent: x\r\ndata: 1\r\ndata: 2\r\n\r\n:\n"
        b"data:3\r\rid: b\n\ndata: 4\n\ndata: broken off\n"
    )
    parser = Parser()
    found = [
        event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])
    ]
    assert found == [("a", "x", "1\n2"), ("a", "message", "3"), ("b", "message", "4")]


@pytest.mark.parametrize(("case", "stream"), [(one[0], one[1]) for one in CASES])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_the_kits_own_clients_hear_what_the_standard_says(case, stream, size):
    parser, heard = Parser(), list[tuple[str, str, str]]()
    for start in range(0, len(stream), size):
        heard += parser.feed(stream[start : start + size])
    assert heard == [(m.last_event_id, m.type, m.data) for m in interpret(stream).messages], case


@pytest.fixture
async def echo():
    """A server that says what it is told, and the road to it."""
    talks: set[asyncio.StreamWriter] = set()

    async def talk(reader, writer):
        talks.add(writer)
        with suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    road = await Road(server.sockets[0].getsockname()[1]).start()
    yield road, talks
    for writer in OPENED:
        writer.transport.abort()
    OPENED.clear()
    await road.end()
    server.close()


async def said(
    reader: asyncio.StreamReader, size: int = 100, timeout_s: float = 0.3
) -> bytes | None:
    """What comes; None for nothing."""
    try:
        return await asyncio.wait_for(reader.read(size), timeout_s)
    except TimeoutError:
        return None


async def travel(road: Road):
    reader, writer = await asyncio.open_connection("127.0.0.1", road.port)
    OPENED.append(writer)
    writer.write(b"hello")
    assert await said(reader, timeout_s=5.0) == b"hello"
    return reader, writer


async def test_a_parted_road_keeps_what_is_on_it(echo):
    road, _ = echo
    reader, writer = await travel(road)
    road.part()
    writer.write(b"later")
    assert await said(reader) is None
    road.heal()
    assert await said(reader, timeout_s=5.0) == b"later"


async def test_a_lost_connection_says_nothing_and_does_not_end(echo):
    road, _ = echo
    reader, writer = await travel(road)
    road.lose()
    writer.write(b"into the void")
    assert await said(reader) is None
    assert await travel(road), "new ones are as good as any"


async def test_a_half_open_connection_is_over_at_the_far_end_only(echo):
    road, talks = echo
    reader, _writer = await travel(road)
    (far,) = talks
    road.half_open()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(far.wait_closed(), 5.0)
    assert await said(reader) is None


async def test_a_reset_is_one(echo):
    road, _ = echo
    reader, _ = await travel(road)
    road.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(10), 5.0)


async def test_a_cut_lets_some_bytes_through_and_ends(echo):
    road, _ = echo
    reader, writer = await travel(road)
    road.cut(most_bytes=10)
    writer.write(b"x" * 50)
    assert len(await asyncio.wait_for(reader.read(), 5.0)) < 10


async def test_pieces_arrive_as_one_text(echo):
    road, _ = echo
    reader, writer = await travel(road)
    road.piece_bytes = 3
    writer.write(bytes(range(100)))
    got = await asyncio.wait_for(reader.readexactly(3), 5.0)
    road.heal()  # what is under way is still one text
    got += await asyncio.wait_for(reader.readexactly(97), 5.0)
    assert got == bytes(range(100))
    assert await said(reader) is None


async def test_a_closed_port_refuses_and_comes_back_as_the_same(echo):
    road, _ = echo
    port = road.port
    road.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await road.start()
    assert road.port == port
    await travel(road)


async def test_a_road_sees_who_names_a_place(echo):
    road, _ = echo
    for request in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nLast-Event-ID: evt_7\r\nHost: x\r\n\r\n",
        b"GET /?apiKey=k&lastEventId=evt%5F8&x=y HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nLast-Event-ID: caf\xe9\r\n\r\n",  # as Python's libraries send it
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", road.port)
        writer.write(request)
        OPENED.append(writer)
        assert await said(reader, 1000, timeout_s=5.0) == request
    assert [cursor for _, cursor in road.arrivals] == ["", "evt_7", "evt_8", "caf\ufffd"]


def test_a_story_knows_its_events_by_number_and_by_id():
    told = []
    story = Story(2, lambda feed, payload: told.append((feed, payload["n"])) or f"id{len(told)}")
    before_s = time.time()
    story.say_everywhere()
    story.say(1)
    assert told == [(0, 1), (1, 1), (1, 2)]
    assert [story.number(1, cursor) for cursor in ("id3", "id1", "")] == [2, -1, 0]
    assert all(before_s <= at_s <= time.time() for at_s in story.said[1])


# -- runs


@pytest.mark.server
@pytest.mark.browser
@pytest.mark.timeout(400)
async def test_a_short_run_of_fixed_seed_loses_nothing():
    """Real relays, real clients: one relay, then three with Redis."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.chaos"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await run.communicate()
    text = output.decode()
    assert run.returncode == 0, text
    told = dict(re.findall(r"^ok  one   (\S+): .* gaps told (0|{'upstream')", text, re.MULTILINE))
    assert told["cursor-ignored"] == "{'upstream'", text
    assert told["cut-at-any-byte"] == "0", text
    assert "ok  three" in text
    clients = SMALL.tabs + len(LIBRARIES) - len(absent())
    assert text.count(f" to {clients} clients ") == text.count("ok  "), "each library takes part"


@pytest.mark.timeout(120)
async def test_a_deployment_of_somebody_else_is_reached_by_its_address_alone(tmp_path):
    """It reads the kit's upstream, and hears of its own host, not of the road."""
    port, key = free_port(), Simulator(SimulatorOptions(users=1)).user().key
    base_url = f"http://127.0.0.1:{port}"
    relay = Relay(0, {"UPSTREAM__BASE_URL": base_url, "STREAM__RETRY": 0.2}, tmp_path)
    url = f"http://localhost:{relay.port}/api/desktops/stream"
    where = Deployment(url, {"x-api-key": key}, "", upstream_port=port)
    async with ForeignStage(where, 1, libraries=False) as stage:
        await relay.start(stage.session)
        try:
            await stage.opened()
            outcome = await played(stage, alone(KNOWN["clients-cut"], random.Random(1), 1), "yours")
        finally:
            await relay.end()
    assert outcome.good, str(outcome)
    assert outcome.judgement.connections >= len(stage.tabs)
    reached = {one.name for one in KNOWN.values() if reachable(one)}
    assert {"cut", "clients-lost"} < reached
    assert not {"relay-killed", "redis-full", "road-cut", "clock-back", "log-full"} & reached


class Impatient(ForeignStage):
    async def wait_for(self, true, said, timeout_s=0.5) -> None:
        await super().wait_for(true, said, timeout_s)


async def test_a_deployment_that_does_not_read_the_kits_upstream_is_told_to_people():
    where = Deployment("http://127.0.0.1:1/x", {"x-api-key": "secret"}, "")
    async with Impatient(where, 1, libraries=False) as nobody:
        with pytest.raises(BenchError, match="20 of 20 clients got no event: is there a relay at"):
            await nobody.opened()
        port = nobody.upstream_port
        where = Deployment("http://127.0.0.1:1/x", {}, "", upstream_port=port)
        with pytest.raises(BenchError, match=f"can't listen on 127.0.0.1:{port} "):
            async with ForeignStage(where, 1, libraries=False):
                pass


@pytest.mark.timeout(120)
async def test_it_sees_what_a_relay_without_a_history_loses():
    """The control: a relay as one writes it in an hour, and clients whose connections break."""
    async with PeerStage("aiohttp-sse", 1) as stage:
        await stage.opened()
        outcome = await played(stage, alone(KNOWN["relay-killed"], random.Random(1), 1), "one")
        assert outcome.judgement.lost > 0
        assert not outcome.good


# -- what reads and publishes for peers


async def test_a_follower_goes_on_where_it_was():
    """Refused, ended, broken off inside an event: it hands each out once, in order."""
    upstream = Simulator(SimulatorOptions(users=1, rate=0))
    await upstream.start()
    user, got, more = upstream.user(), [], asyncio.Event()

    async def take(event_id: str, _kind: str, text: str) -> None:
        got.append((event_id, text))
        more.set()

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(got) < count:
                more.clear()
                await more.wait()

    url = upstream.url + Stream.DESKTOPS.path
    following = asyncio.ensure_future(Follower(url, user.key, 1.0).follow(take))
    said = []
    try:
        await upstream.until(lambda: upstream.subscriptions_total > 0, 20.0)
        for fault in ("cut:70", "end", "silence", "mixed"):
            upstream.fault(fault, while_open=True)
            upstream.fault("503,times=2")
            for _ in range(3):
                said.append(upstream.emit_event(user.id, Stream.DESKTOPS, "x", {"n": len(said)}).id)
            await until(len(said))
    finally:
        following.cancel()
        await upstream.stop()
    assert [event_id for event_id, _ in got] == said


async def test_a_publisher_posts_each_until_it_is_taken_and_keeps_its_place(tmp_path):
    """One that will never be taken is passed over; started again it knows where it was."""
    posts: list[tuple[str, str | None, int]] = []
    statuses = iter((503, 201, 0, 202, 413, 201))

    async def publish(request: web.Request) -> web.Response:
        status = next(statuses)
        posts.append((await request.text(), request.headers.get("X-EventSource-Event"), status))
        if not status:
            request.transport.abort()
        return web.Response(status=status or 500)

    app = web.Application()
    app.router.add_post("/publish", publish)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        publisher = Publisher(str(server.make_url("/publish")), tmp_path / "place", session)
        assert not publisher.cursor
        for at, kind in enumerate(("message", "desk", "message", "message"), 1):
            await publisher.take(f"evt_{at}", kind, f"text {at}")
            again = Publisher("", tmp_path / "place", session)
            assert again.cursor == f"evt_{at}"
    assert posts == [
        ("text 1", None, 503),
        ("text 1", None, 201),
        ("text 2", "desk", 0),
        ("text 2", "desk", 202),
        ("text 3", None, 413),
        ("text 4", None, 201),
    ]


@pytest.mark.timeout(120)
@pytest.mark.skipif(bool(missing("nchan")), reason=missing("nchan") or "here")
async def test_nchan_has_by_its_publisher_what_a_refused_api_said_meanwhile():
    async with PeerStage("nchan", 1) as stage:
        await stage.opened()
        outcome = await played(stage, alone(KNOWN["refused-503"], random.Random(1), 1), "one")
        assert outcome.good, str(outcome)
        assert outcome.judgement.deliveries >= 10 * len(stage.tabs), "said while it was refused"
        cursor = stage.tabs[0].last_id
        assert stage.story.number(0, cursor) > 0, f"the kit knows what nchan calls {cursor}"


def test_peers_have_what_can_be_done_to_any_relay():
    names = {one.name for one in chosen(KNOWN)}
    assert {"cut", "road-half-open", "clients-lost", "relay-killed", "clock-back"} < names
    assert not {"redis-full", "rolling-kill", "log-full", "dns-gone"} & names
