"""The kit on a deployment that reads its own upstream: what it sees, and where it can not tell."""

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from bench.chaos.foreign import (
    Deployment,
    chosen,
    episode,
    headers_of,
    mistake,
    query_of,
    reachable,
)
from bench.chaos.judge import Diary, judge
from bench.chaos.library import LIBRARIES, Target, reader
from bench.chaos.look import look
from bench.chaos.observe import BAD, GOOD, NO_VERDICT, observable, observe
from bench.chaos.observed import ObservedStage
from bench.chaos.plan import scenarios
from bench.chaos.processes import Process, Relay
from bench.chaos.road import Road
from bench.chaos.stage import Size
from bench.chaos.witness import ALL, BY_NAME, Chronicle, Sightings
from bench.machine import BenchError
from bench.programs import free_port

from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream

ROOT = Path(__file__).parents[2]
KNOWN = scenarios()
PATH = "/api/desktops/stream"
KEY = Simulator(SimulatorOptions(users=1)).user().key
QUICK = Size(feeds=1, tabs=6, rate=0, retry_s=0.1, silence_s=5.0)


# -- what was said, by those who heard it


class Telling:
    """Diaries from lists of `id:text`, and what the judge makes of them; names are event types."""

    def __init__(self) -> None:
        self.sightings = Sightings()
        self.chronicle = Chronicle(self.sightings)
        self.diaries: list[Diary] = []

    def hear(self, client: int, *events: str, kind: str = "message") -> "Telling":
        while len(self.diaries) <= client:
            self.diaries.append(Diary(ALL))
        for event in events:
            event_id, _, text = event.partition(":")
            diary = self.diaries[client]
            at_s = diary.times_s[-1] + 1 if diary.times_s else 1.0
            diary.note(self.sightings.number(event_id, kind, text), at_s)
        return self

    def page(self, mark: int | None = None):
        heard = self.diaries[0].numbers
        told = {"message"}
        self.written = self.chronicle.write(
            self.diaries, len(heard) if mark is None else mark, told
        )
        self.judged = judge([self.chronicle.page(one) for one in self.diaries], self.chronicle.said)
        return self.judged.lost, self.judged.repeated, self.judged.reordered


def told(*rows: str) -> Telling:
    telling = Telling()
    for client, row in enumerate(rows):
        telling.hear(client, *row.split())
    return telling


WITNESS = "1:a 2:b 3:c 4:d"


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("1:a 2:b 3:c 4:d", (0, 0, 0)),
        ("3:c 4:d", (0, 0, 0)),  # it came later
        ("1:a 2:b 4:d", (1, 0, 0)),
        ("1:a 2:b 3:c", (1, 0, 0)),
        ("1:a 2:b 2:b 3:c 4:d", (0, 1, 0)),
        ("1:a 3:c 2:b 4:d", (0, 0, 1)),
        ("1:a 2:b 3:other 4:d", (1, 0, 0)),  # the same id is not the same event
        ("1:a :hello 2:b 3:c 4:d", (0, 0, 0)),  # what it alone got was not said to all
    ],
)
def test_a_client_is_held_against_the_witness(row, wrong):
    assert told(WITNESS, WITNESS, row).page() == wrong


def test_what_the_witness_lost_is_found_where_two_others_have_it():
    telling = told("1:a 2:b 5:e", "1:a 2:b 3:c 4:d 5:e", "1:a 2:b 3:c 4:d 5:e", "1:a 2:b 4:d 5:e")
    assert telling.page() == (3, 0, 0), "two by the witness, one by the last client"
    assert telling.written == 5


def test_what_one_witness_alone_got_is_no_loss_of_all_others():
    assert told("1:a :hello 2:b", "1:a 2:b", "1:a 2:b").page() == (0, 0, 0)


def test_what_both_witnesses_got_and_nobody_else_is_lost():
    assert told("1:a 2:b 3:c", "1:a 2:b 3:c", "1:a 3:c", "1:a 3:c").page() == (2, 0, 0)


def test_a_relay_that_says_everything_twice_is_seen():
    assert told("1:a 1:a 2:b 2:b", "1:a 1:a 2:b 2:b").page() == (0, 4, 0)


def test_the_relays_ids_are_ids():
    row = "1:a 1~lbr1:ping 1~lbr2:ping 2:b"
    twice = "1:a 1~lbr1:ping 1~lbr1:ping 1~lbr2:ping 2:b"
    assert told(row, row, "1:a 1~lbr1:ping 2:b", twice).page() == (1, 1, 0)


def test_another_replicas_numbering_is_known_by_what_it_says():
    here, there = "~lbr7-1:a ~lbr7-2:b ~lbr7-3:c", "~lbr9-5:a ~lbr9-6:b ~lbr9-7:c"
    assert told(here, here, there).page() == (0, 0, 0)
    assert told(here, here, "~lbr9-5:a ~lbr9-7:c").page() == (1, 0, 0)


def test_an_event_without_an_id_is_known_by_what_it_says():
    row = "1:a :x 2:b"
    # Libraries report the id before it; one whose connection is new has none to report.
    assert told(row, row, "1:a 1:x 2:b").page() == (0, 0, 0)
    # Nor is what has the id before it the same event, said twice.
    row = "1:a 1:ping 1:ping 2:b"
    assert told(row, row).page() == (0, 0, 0)
    telling = told("1:a :x 2:b", "1:a :x 2:b", "1:a 2:b")
    assert telling.page() == (1, 0, 0)
    assert telling.chronicle.nameless == 1


def test_what_comes_twice_without_an_id_counts_for_nothing():
    row = ":ping 1:a :ping 2:b"
    telling = told(row, row, "1:a 2:b", ":ping :ping :ping 1:a 2:b")
    assert telling.page() == (0, 0, 0)
    assert len(telling.chronicle.doubtful) == 1


def test_a_greeting_on_each_page_counts_for_nothing():
    telling = told(":hello 1:a", ":hello 1:a", ":hello 1:a")
    telling.page()
    for client, row in enumerate(("2:b", "2:b", ":hello 2:b")):
        telling.hear(client, *row.split())
    assert telling.page() == (0, 0, 0)


def test_pages_follow_one_another():
    telling = told("1:a 2:b 3:c", "1:a 2:b 3:c", "1:a 2:b")
    telling.diaries[2].gap("slow")  # about what follows
    assert telling.page(mark=2) == (0, 0, 0)
    assert telling.written == 2
    assert telling.judged.gaps == 0
    telling.hear(0, "4:d", "5:e").hear(1, "4:d", "5:e").hear(2, "5:e", "2:b")
    assert telling.page() == (0, 1, 0), "what an earlier page had came again"
    assert (telling.judged.told, telling.judged.gaps) == (2, 1)


def test_a_gap_at_the_end_is_about_what_is_missing_there():
    telling = told(WITNESS, WITNESS, "1:a 2:b")
    telling.diaries[2].gap("slow")
    telling.page()
    assert (telling.judged.lost, telling.judged.told) == (0, 2)


def test_who_hears_by_name_lacks_nothing_of_other_names():
    telling = told("1:a", "1:a", "1:a")
    telling.diaries[2].feed = BY_NAME
    for client in (0, 1):
        telling.hear(client, "2:b", kind="task.progress").hear(client, "3:c")
    telling.hear(2, "3:c")
    assert telling.page() == (0, 0, 0)


def test_delays_are_against_the_witness():
    telling = told(WITNESS, WITNESS)
    telling.diaries[1].times_s = type(telling.diaries[1].times_s)("d", [1.5, 2.5, 3.5, 4.5])
    telling.page()
    assert telling.judged.delays_s == (0.5, 0.5, 0.5)


# -- what is asked of it


def test_what_can_be_done_from_outside_is_what_touches_clients():
    parts = {name: part for name, one in KNOWN.items() if (part := observable(one))}
    assert {"clients-reset", "clients-cut", "clients-pieces", "clients-parted"} < set(parts)
    assert {"clients-lost", "clients-frozen"} < set(parts)
    assert all(" clients " in step for part in parts.values() for step in part.steps)


def test_credentials_come_from_where_nobody_else_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAOS_TEST_KEY", "secret-1")
    (tmp_path / "bearer").write_text("Bearer secret-2\n")
    lines = ["x-api-key: env:CHAOS_TEST_KEY", f"authorization:file:{tmp_path}/bearer", "a: b: c"]
    assert headers_of(lines) == {
        "x-api-key": "secret-1", "authorization": "Bearer secret-2", "a": "b: c",
    }  # fmt: skip
    assert query_of("apiKey=env:CHAOS_TEST_KEY") == "apiKey=secret-1"
    shown = repr(Deployment("http://h/?k=secret-1", {"x": "secret-1"}, "k=secret-1"))
    assert "secret" not in shown


@pytest.mark.parametrize(
    "line",
    ["secret", "x-api-key:", "x-api-key: env:NOT_THERE_7", "x: file:/not/there", "x: a\nsecret"],
)
def test_a_header_that_can_not_be_is_told_without_its_value(line):
    with pytest.raises(BenchError) as told:
        headers_of([line])
    assert "secret" not in str(told.value)


def test_of_each_name_what_can_be_done_there_is_played_several_at_once_if_asked():
    (pair,) = chosen(KNOWN, ["clients-cut+clients-parted"], observable)
    assert [one.name for one in pair] == ["clients-cut", "clients-parted"]
    assert len(episode(pair, 1).steps) == sum(len(one.steps) for one in pair)
    everything = chosen(KNOWN, [], observable)
    assert everything == chosen(KNOWN, ["all"], observable)
    assert {len(one) for one in everything} == {1}
    with pytest.raises(BenchError, match=r"^cut can't be played on it; these can: .*clients-cut"):
        chosen(KNOWN, ["clients-cut+cut"], observable)
    assert chosen(KNOWN, ["cut"], reachable) == [(KNOWN["cut"],)]


@pytest.mark.server
@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["clients-reset"], NO_VERDICT, "can't be reached: Connection refused"),
        (["cut"], 2, "cut can't be played on it"),
        (["--header", "secret"], 2, "--header number 1 is not 'name: value'"),
        (["--query", "secret"], 2, "--query is not 'key=value'"),
        (["--minutes", "1"], 2, "--url is a run of its own"),
    ],
)
def test_no_verdict_is_no_broken_promise(arguments, code, why):
    command = (sys.executable, "-m", "bench.chaos", "--url", "http://127.0.0.1:1/x", *arguments)
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert why in ran.stderr
    assert not {"Traceback", "secret"} & set(re.findall(r"\w+", ran.stderr))


@pytest.mark.parametrize(
    "url",
    ["", "h/x", "ftp://h/x", "http://", "http://h:x/", "https://u:secret@h/x", "http://h/a b"],
)
def test_an_address_that_can_not_be_is_told_and_not_repeated(url):
    assert mistake(url)
    assert "secret" not in mistake(url)


# -- for real


async def served(stack: AsyncExitStack, handler) -> str:
    """A server of one handler; its address."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def started(stack: AsyncExitStack, **options) -> Simulator:
    calm = {"heartbeat_s": 1, "connects_per_minute": 0, "failed_auth_per_minute": 0}
    simulator = Simulator(SimulatorOptions(**({"users": 1, "rate": 20} | calm | options)))
    await simulator.start()
    stack.push_async_callback(simulator.stop)
    return simulator


def proxy(upstream: str, session: aiohttp.ClientSession, mix):
    """Passes a stream on, event by event; `mix(events so far, event)` says what becomes of one."""

    async def handler(request: web.Request) -> web.StreamResponse:
        names = ("x-api-key", "last-event-id")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        async with session.get(upstream + request.path, headers=headers) as answer:
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.content_type}
            )
            await response.prepare(request)
            rest, seen, held = b"", 0, list[bytes]()
            async for data in answer.content.iter_any():
                *blocks, rest = (rest + data).split(b"\n\n")
                for block in blocks:
                    seen += b"data:" in block
                    held.append(block + b"\n\n")
                    for out in mix(seen, held):
                        await response.write(out)
            return response

    return handler


def dropping(seen, held):
    return [] if seen % 7 == 3 and held.pop() else [held.pop()]


def doubling(seen, held):
    return [held.pop()] if seen % 7 != 3 else [held[-1], held.pop()]


def swapping(seen, held):
    if seen % 7 == 3 and len(held) == 1:
        return []
    return [held.pop() for _ in range(len(held))]


def faithful(_seen, held):
    return [held.pop()]


async def verdict(url: str, *names: str, capsys, meanwhile=None, **more) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    where = Deployment(url, {"x-api-key": KEY}, "")
    more = {"size": QUICK, "patience_s": 10.0} | more
    stage = ObservedStage(where, 1, libraries=False, **more)
    also = asyncio.ensure_future(meanwhile(stage)) if meanwhile else None
    code = await observe(stage, chosen(KNOWN, names, observable), 1)
    if also is not None:
        await also
    said = capsys.readouterr().out
    assert KEY not in said
    return code, said


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("mix", "code", "what"),
    [
        (faithful, GOOD, "lost 0, repeated 0, reordered 0"),
        (dropping, BAD, "lost "),
        (doubling, BAD, "repeated "),
        (swapping, BAD, "reordered "),
    ],
)
async def test_a_relay_that_mixes_events_up_is_caught_each_way(mix, code, what, capsys):
    async with AsyncExitStack() as stack:
        simulator = await started(stack)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = await served(stack, proxy(simulator.url, session, mix))
        got, said = await verdict(url + PATH, "clients-reset", capsys=capsys)
    assert got == code, said
    assert what in said
    if code == BAD:
        assert f"{what}0" not in said
        assert "NOT as promised" in said
        assert re.search(r"tab \d+, feed 0: \d+ \(id evt_\d+\) ", said), said


@pytest.mark.timeout(60)
async def test_a_quiet_stream_does_not_pass(capsys):
    async with AsyncExitStack() as stack:
        simulator = await started(stack, rate=0)
        url = simulator.url + PATH
        code, said = await verdict(url, "clients-reset", capsys=capsys, patience_s=1.0)
    assert (code, said.splitlines()[-1]) == (NO_VERDICT, "nothing was said: no verdict")


@pytest.mark.timeout(60)
async def test_a_stream_that_falls_silent_is_given_no_verdict_from_then_on(capsys):
    async with AsyncExitStack() as stack:
        simulator = await started(stack, rate=0)

        async def talk_a_page(stage) -> None:
            while not stage.chronicle.said[ALL]:
                simulator.emit(simulator.user().id, Stream.DESKTOPS, 1)
                await asyncio.sleep(0.05)

        code, said = await verdict(
            simulator.url + PATH,
            *("clients-reset", "clients-reset", "clients-reset"),
            capsys=capsys,
            meanwhile=talk_a_page,
            patience_s=1.5,
        )
    assert code == NO_VERDICT, said
    assert "\nok  yours clients-reset" in said
    assert "\n--  yours clients-reset: nothing was said" in said
    assert said.endswith(": nothing was said meanwhile\n")


@pytest.mark.timeout(60)
async def test_without_ids_nobody_can_tell_what_falls_between_two_connections(capsys):
    async with AsyncExitStack() as stack:
        simulator = await started(stack, ids="none")
        code, said = await verdict(simulator.url + PATH, "clients-reset", capsys=capsys)
    assert code == NO_VERDICT, said
    assert "events had no id" in said
    assert "no verdict on what falls between two: no event has an id" in said


def telling(event):
    """Every connection is told, ten times a second, what `event(its number)` is."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in count(1):
            await response.write(event(number))
            await asyncio.sleep(0.1)
        return response

    return handler


@pytest.mark.timeout(60)
async def test_what_nobody_can_judge_was_not_nothing(capsys):
    async with AsyncExitStack() as stack:
        url = await served(stack, telling(lambda _: b"data: tick\n\n"))
        code, said = await verdict(url, "clients-reset", capsys=capsys, patience_s=1.0)
    assert code == NO_VERDICT, said
    assert "--  yours clients-reset: nothing that can be judged was said" in said
    assert "1 texts came more than once without an id" in said
    assert said.splitlines()[-1] == "nothing that can be judged was said: no verdict"


@pytest.mark.timeout(60)
async def test_who_is_told_something_else_on_each_connection_is_no_stream_of_several(capsys):
    async with AsyncExitStack() as stack:
        own = telling(lambda number: b"id: %d\ndata: %d\n\n" % (number, time.time_ns()))
        url = await served(stack, own)
        with pytest.raises(BenchError, match="no two clients got the same event"):
            await verdict(url, "clients-reset", capsys=capsys, patience_s=1.0)


@pytest.mark.timeout(60)
async def test_a_relay_that_dies_has_broken_its_promise_and_is_waited_for_no_longer(capsys):
    async with AsyncExitStack() as stack:
        simulator = await started(stack)

        async def death(stage) -> None:
            await stage.wait_for(lambda: stage.chronicle.said[ALL], "a page")
            await simulator.stop()

        code, said = await verdict(
            simulator.url + PATH,
            *("clients-reset", "clients-cut", "clients-reset"),
            capsys=capsys,
            meanwhile=death,
            size=replace(QUICK, silence_s=1.5),
            patience_s=3.0,
        )
    assert code == BAD, said
    assert said.count("BAD yours") == 1
    assert said.count("6 of 6 clients could not come back") == 1
    assert said.splitlines()[-1] == "NOT as promised"


@pytest.mark.server
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [one.name for one in LIBRARIES if one.run_by == "python"])
async def test_a_stream_that_is_packed_for_who_unpacks_it_is_heard(name, tmp_path):
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_compression()  # as the client offers
        await response.prepare(request)
        await response.write(b"id: 1\ndata: %s\n\n" % json.dumps({"n": 7}).encode())
        await response.write_eof()
        return response

    (library,) = (one for one in LIBRARIES if one.name == name)
    if why := library.missing():
        pytest.skip(why)
    async with AsyncExitStack() as stack:
        port = int((await served(stack, handler)).rpartition(":")[2])
        road = await Road(port).start()
        stack.push_async_callback(road.end)
        client = await reader(library, Target(ALL, "/x", {}, ""), road, tmp_path / "log").start()
        stack.push_async_callback(client.end)
        async with asyncio.timeout(30):
            while not client.diary.numbers:  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.05)
    assert set(client.diary.numbers) == {7}


@pytest.fixture
async def deployment(tmp_path):
    """A relay and what it reads, each a process of its own; `start(ids)` is the relay's address."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(ids: str = "all") -> str:
            port = free_port()
            program = (sys.executable, "-m", "lebureau_relay", "simulate", "--port", str(port))
            api = Process("api", [*program, "--rate", "20", "--ids", ids], tmp_path)
            stack.push_async_callback(api.end)
            await api.launch()
            base = {"UPSTREAM__BASE_URL": f"http://127.0.0.1:{port}", "STREAM__RETRY": 0.1}
            relay = Relay(0, base | {"LIMITS__CONNECTS_PER_MINUTE": 0}, tmp_path)
            stack.push_async_callback(relay.end)
            await relay.start(session)
            return f"http://127.0.0.1:{relay.port}"

        yield start


@pytest.mark.timeout(90)
@pytest.mark.parametrize("ids", ["all", "some", "none"])
async def test_this_relay_keeps_its_promises_whatever_ids_its_upstream_gives(
    ids, deployment, capsys
):
    url = await deployment(ids)
    code, said = await verdict(url + PATH, "clients-reset", "clients-cut", capsys=capsys)
    assert code == GOOD, said
    assert said.count("ok  yours") == 2
    assert said.splitlines()[-1] == "as promised"


def arguments_of_children(pid: int) -> str:
    """What everybody may read of a process and of those that it has started."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return "\n".join(lines.get(one, "") for one in family)


def certificate(folder: Path) -> Path:
    """For localhost, and its key in the same file."""
    path = folder / "localhost.pem"
    argv = (
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", "/dev/stdout"),
    )
    made = subprocess.run(argv, check=True, capture_output=True).stdout
    path.write_bytes(path.read_bytes() + made)
    return path


@asynccontextmanager
async def secured(port: int, folder: Path):
    """The same server by TLS: address and certificate."""
    pem = certificate(folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    road = await Road(port, tls=tls).start()
    try:
        yield f"https://localhost:{road.port}", pem
    finally:
        await road.end()


@pytest.mark.server
@pytest.mark.browser
@pytest.mark.timeout(120)
async def test_as_a_program_by_tls_with_real_clients_until_ctrl_c(deployment, tmp_path):
    """Its verdict so far comes, the credential goes nowhere, and nothing is left running."""
    url = await deployment()
    async with secured(int(url.rpartition(":")[2]), tmp_path) as (secure, pem):
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.chaos", "clients-cut", "clients-parted"),
            *("--url", secure + PATH, "--header", "x-api-key: env:CHAOS_TEST_KEY"),
            *("--query", "apiKey=env:CHAOS_TEST_KEY", "--clients", "4"),
            cwd=ROOT,
            env=os.environ | {"CHAOS_TEST_KEY": KEY, "SSL_CERT_FILE": str(pem)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        said = ""
        while "yours clients-cut" not in said:
            line = await run.stdout.readline()
            assert line, said
            said += line.decode()
        shown = arguments_of_children(run.pid)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        said += (await run.stdout.read()).decode()
        await run.wait()
    assert "bench.chaos" in shown
    assert KEY not in shown
    assert KEY not in said
    assert "Traceback" not in said
    assert "ok  yours clients-cut" in said, said
    assert run.returncode == NO_VERDICT, said
    assert said.splitlines()[-1] == (
        "as promised as far as it was seen; no verdict on clients-parted: not played to the end"
    )


def answering(status: int, **headers):
    async def handler(_request):
        return web.Response(
            status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return handler


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (answering(401), "answers 401: it does not take the credential"),
        (answering(404), "answers 404: there is no such stream"),
        (answering(500), "answers 500"),
        (answering(200), "not an event stream"),
        (
            answering(200, Content_Type="text/event-stream", Content_Encoding="gzip"),
            "packs its stream (gzip)",
        ),
        (answering(302, Location="https://login.test/in?next=secret"), "https://login.test/in)"),
        (answering(302, Location="/in?next=secret"), "sends elsewhere (http://127.0.0.1:"),
    ],
)
async def test_what_is_no_stream_is_told_to_people(handler, why):
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"{await served(stack, handler)}/stream?token=secret"
        target = Target(ALL, "/stream?token=secret", {"x-api-key": "secret"}, "")
        with pytest.raises(BenchError) as told:
            await look(session, target, url)
    assert why in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/x", "can't be reached: Connection refused"),
        ("NO TLS", "can't be reached: it speaks no TLS"),
        ("http://no-such-name.invalid/x", "can't be reached"),
        ("TLS", "a certificate that can't be verified"),
    ],
)
async def test_who_can_not_be_reached_is_told_to_people(url, why, tmp_path):
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if url == "NO TLS":
            url = (await served(stack, answering(200))).replace("http:", "https:")
        if url == "TLS":
            port = int((await served(stack, answering(200))).rpartition(":")[2])
            url, _ = await stack.enter_async_context(secured(port, tmp_path))
        with pytest.raises(BenchError) as told:
            await look(session, Target(ALL, "/x", {}, ""), url)
    assert why in str(told.value)
