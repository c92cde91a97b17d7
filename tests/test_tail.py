"""The client behind `tail` against real servers, and the program in real pipes and a terminal."""

import asyncio
import io
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lebureau_relay.core.backoff import Backoff
from lebureau_relay.core.event import Event
from lebureau_relay.errors import ConfigError, RelayError
from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream
from lebureau_relay.tail.client import Tail, _target
from lebureau_relay.tail.screen import Screen

QUICK = Backoff(min_s=0.01, max_s=0.02)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Reader:
    """A `tail` that runs beside the test, and what it has printed."""

    def __init__(self, url: str, *, key: str | None = None, since: str = "", **options) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        screen = Screen(self.out, self.err, **{"as_json": True, **options})
        self._tail = Tail(_target(url, key, since), screen, QUICK)

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._tail.follow())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    @property
    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]

    @property
    def ids(self) -> list[str]:
        return [each["id"] for each in self.events]

    async def until(self, true: Callable[[], object], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not true():
                if self.task.done():
                    await self.task
                await asyncio.sleep(0.005)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorOptions(users=1, rate=0))
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def served(aiohttp_server) -> Callable[[Handler], Awaitable[str]]:
    async def serve(handler: Handler) -> str:
        app = web.Application()
        app.router.add_get("/stream", handler)
        server: TestServer = await aiohttp_server(app)
        return str(server.make_url("/stream"))

    return serve


def streaming(*bodies: bytes) -> tuple[Handler, list[web.Request]]:
    """Answers one body after the other, the last one without an end; and the requests that came."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(bodies[min(len(seen), len(bodies)) - 1])
        if len(seen) >= len(bodies):
            await asyncio.Event().wait()  # until the client has gone
        return response

    return handler, seen


async def test_nothing_is_lost_or_repeated_over_cuts(simulator: Simulator) -> None:
    user, stream = simulator.user(), Stream.DESKTOPS
    async with Reader(simulator.url + stream.path, key=user.key) as reader:
        await reader.until(lambda: simulator.subscriptions_total == 1)
        simulator.emit(user.id, stream)
        await reader.until(lambda: reader.lines)  # before that there is nothing to read on from
        for _ in range(3):
            simulator.emit(user.id, stream, 5)
            simulator.cut_all()
            simulator.emit(user.id, stream, 5)
            await reader.until(lambda: simulator.subscriptions_total == 1)
        emitted = simulator.log(user.id, stream)
        await reader.until(lambda: len(reader.events) >= len(emitted))
    assert reader.ids == [record.id for record in emitted]
    assert [line["data"] for line in reader.events] == [json.loads(r.data) for r in emitted]
    assert [line["type"] for line in reader.events] == [
        line["data"]["type"] for line in reader.events
    ]
    assert "trying again" in reader.err.getvalue()


async def test_reads_on_from_a_given_id(simulator: Simulator) -> None:
    user, stream = simulator.user(), Stream.ACTIVITY
    records = simulator.emit(user.id, stream, 4)
    async with Reader(
        simulator.url + stream.path, key=user.key, since=records[1].id or ""
    ) as reader:
        await reader.until(lambda: len(reader.lines) == 2)
    assert reader.ids == [record.id for record in records[2:]]


async def test_the_key_in_the_url_goes_into_the_header(simulator: Simulator) -> None:
    user, path = simulator.user(), Stream.DESKTOPS.path
    async with Reader(f"{simulator.url}{path}?apiKey={user.key}&x=1", key="another") as reader:
        await reader.until(lambda: "connected" in reader.err.getvalue())
    (request,) = simulator.requests
    assert request.headers["x-api-key"] == user.key
    assert request.query == "x=1"
    assert user.key not in reader.err.getvalue()


async def test_waits_as_long_as_it_is_told(simulator: Simulator) -> None:
    user, path = simulator.user(), Stream.DESKTOPS.path
    simulator.fault("429:7", times=1)
    async with Reader(simulator.url + path, key=user.key) as reader:
        await reader.until(lambda: "trying again" in reader.err.getvalue())
    assert (
        "refused for now (429: too many tries, or streams open; close some); trying again in 7.0"
        in reader.err.getvalue()
    )


async def test_comes_back_after_an_outage(simulator: Simulator) -> None:
    user, stream = simulator.user(), Stream.DESKTOPS
    await simulator.stop()
    async with Reader(simulator.url + stream.path, key=user.key) as reader:
        await reader.until(lambda: "nothing listens at 127.0.0.1" in reader.err.getvalue())
        await simulator.start(port=int(simulator.url.rpartition(":")[2]))
        await reader.until(lambda: simulator.subscriptions_total == 1)
        simulator.emit(user.id, stream)
        await reader.until(lambda: reader.lines)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("401", "a valid key is needed; set LEBUREAU_API_KEY (401)"),
        ("403", "this key may not read this stream; ask whoever gave it for one that may (403)"),
        ("404", "there is no such stream; check the address (404)"),
        ("204", "this stream has ended for good (204)"),
        ("redirect", "sends us elsewhere"),
        ("content_type", "answers, but not with an event stream"),
    ],
)
async def test_final_answers_end_with_a_sentence(
    simulator: Simulator, fault: str, sentence: str
) -> None:
    simulator.fault(fault)
    url, key = simulator.url + Stream.DESKTOPS.path, simulator.user().key
    async with Reader(url, key=key) as reader:
        with pytest.raises(RelayError) as caught:
            await reader.until(lambda: False)
    assert str(caught.value).startswith(f"{url}: {sentence}")
    assert key not in str(caught.value)
    assert len(simulator.requests) == 1


async def test_a_name_without_an_address_is_told_and_tried_again() -> None:
    async with Reader("http://no-such-name.invalid:8080/stream") as reader:
        await reader.until(lambda: "trying again" in reader.err.getvalue())
    said = "no address is known for the name no-such-name.invalid; check it, or the network"
    assert said in reader.err.getvalue()


async def test_https_where_none_is_spoken_is_final(simulator: Simulator) -> None:
    async with Reader(simulator.url.replace("http:", "https:") + "/x") as reader:
        with pytest.raises(RelayError, match=r"no TLS can be agreed on; if it speaks plain HTTP"):
            await reader.until(lambda: False)


async def test_a_certificate_of_nobody_is_final(tmp_path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(
        subprocess.run, [*command.split(), *files], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, Reader(f"https://localhost:{port}/x") as reader:
        with pytest.raises(
            RelayError, match=r"isn't trusted \(self.signed certificate\); if it sho"
        ):
            await reader.until(lambda: False)


async def test_tells_what_the_problem_document_says(served) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        body = b'{"code":"forbidden","detail":"no \\u001b[31mdesktops"}'
        return web.Response(body=body, status=403, content_type="application/problem+json")

    async with Reader(await served(refuse)) as reader:
        with pytest.raises(RelayError, match=r"\(403: no \ufffd\[31mdesktops\)"):
            await reader.until(lambda: False)


async def test_the_relays_own_words_are_told_to_people_and_given_to_programs(served) -> None:
    handler, seen = streaming(
        b'id: 7\nevent: relay.gap\ndata: {"type":"relay.gap","payload":{"cause":"evicted"}}\n\n'
        b"retry: 20\nid: 8\nevent: relay.closing\n"
        b'data: {"type":"relay.closing","payload":{"reason":"draining","retry":20}}\n\n',
        b'id: 8\nevent: relay.refused\ndata: {"type":"relay.refused",'
        b'"payload":{"code":"at_capacity","status":503,"retryAfter":0.01}}\n\n',
        b"id: 9\ndata: {}\n\n",
    )
    url = await served(handler)
    async with Reader(url, as_json=False) as people:
        await people.until(lambda: people.lines)
    words = people.err.getvalue()
    assert "events may be missing here: you were away for longer than the relay remembers" in words
    assert "the relay closes the stream: the relay is being stopped or replaced" in words
    assert "the relay refuses for now (at_capacity)" in words
    assert len(people.lines) == 1
    assert [each.headers.get("Last-Event-ID") for each in seen] == [None, "8", "8"]
    seen.clear()
    async with Reader(url) as program:
        await program.until(lambda: len(program.lines) == 4)
    types = ["relay.gap", "relay.closing", "relay.refused", "message"]
    assert [each["type"] for each in program.events] == types


@pytest.mark.parametrize(
    ("wait", "told"),
    [("1" + "0" * 400, "300."), ("1e999", "300."), ("true", "1."), ('"soon"', "0."), ("-5", "0.")],
)
async def test_whatever_wait_is_asked_for_ends_nothing(served, wait, told) -> None:
    refused = f'event: relay.refused\ndata: {{"payload":{{"retryAfter":{wait}}}}}\n\n'
    handler, _ = streaming(refused.encode(), b"data: 1\n\n")
    async with Reader(await served(handler)) as reader:
        await reader.until(lambda: f"trying again in {told}" in reader.err.getvalue())


async def test_a_derived_id_is_never_asked_of_a_server_that_gave_none(served) -> None:
    handler, seen = streaming(b"id: a\ndata: 1\n\ndata: 2\n\n", b"data: 3\n\n")
    async with Reader(await served(handler)) as reader:
        await reader.until(lambda: len(reader.lines) == 3)
    assert reader.ids == ["a", "a~lbr1", "a~lbr1"]
    assert seen[1].headers["Last-Event-ID"] == "a"


def shown(data: bytes, *, kind: bytes = b"", **options) -> str:
    out = io.StringIO()
    Screen(out, io.StringIO(), **options).show(Event(b"1", kind, data))
    return out.getvalue()


def test_people_see_one_line_an_event() -> None:
    line = shown(
        '{"type":"desktop.status","payload":{"id":"clx1","name":"é","status":"running",'
        '"cpu":23.5,"note":"a b","readyAt":"2026"}}'.encode()
    )
    clock, rest = line.split("  ", 1)
    assert len(clock.split(":")) == 3
    assert rest == 'desktop.status      é  running  cpu=23.5  note="a b"\n'
    assert shown(b'{"type":"x","payload":{"desktopId":"d","on":true}}').endswith("d  on=true\n")


def test_a_desktop_goes_by_its_name_once_that_is_known() -> None:
    out = io.StringIO()
    screen = Screen(out, io.StringIO())
    for payload in (
        {"id": "clx1", "cpu": 1},
        {"id": "clx1", "name": "ventes", "status": "running"},
        {"id": "clx1", "cpu": 2},
        {"taskId": "task_1", "desktopId": "clx1", "status": "done"},
    ):
        data = json.dumps({"type": "t", "payload": payload}).encode()
        screen.show(Event(b"1", b"", data))
    summaries = [line.split("  ", 2)[2].strip() for line in out.getvalue().splitlines()]
    assert summaries == [
        "clx1  cpu=1",
        "ventes  running",
        "ventes  cpu=2",
        "ventes  task_1  done",
    ]


def test_what_a_stranger_sends_can_not_move_the_cursor() -> None:
    line = shown(b'{"type":"a\\u001b[2Jb","payload":{"name":"x\\ny\\u009bz"}}')
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "\x9b" not in line
    assert "\x1b" not in shown(b"\x1b[2J no JSON")


def test_what_a_terminal_could_obey_is_escaped_in_json() -> None:
    said = {"a\u009b2J": "\x7f \u202e \u2028 é 桌 \U000e0041", "b": [1]}
    line = shown(json.dumps(said, ensure_ascii=False, indent="\t").encode(), as_json=True)
    assert line[:-1].isprintable()
    assert "é 桌" in line
    assert json.loads(line)["data"] == said


def test_colours_go_by_type() -> None:
    failed = shown(b'{"type":"task.failed","payload":{}}', colour=True)
    assert "\x1b[31mtask.failed" in failed
    assert "\x1b[35mnews" in shown(b'{"type":"news","payload":{}}', colour=True)
    assert "\x1b" not in shown(b'{"type":"news","payload":{}}')


@pytest.mark.parametrize(
    "data",
    [
        b'{"type": "a", "n": 123456789012345678901234567890.10, "n": 1e400}',
        b'{"type": "a",\n"n": 1}',
        b"plain",
        b"[NaN]",
        b"",
        b"[" * 100_000,
    ],
)
def test_json_is_the_text_that_came(data: bytes) -> None:
    line = shown(data, as_json=True)
    assert line.count("\n") == 1
    said = json.loads(line)
    assert said["id"] == "1"
    if data.startswith(b"{"):
        assert data.replace(b"\n", b" ").decode() in line
    else:
        assert said == {"id": "1", "type": "message", "data": data.decode()}


def test_types_are_patterns() -> None:
    def passes(types: tuple[str, ...]) -> bool:
        return bool(shown(b'{"type":"task.review","payload":{}}', types=types))

    assert passes(())
    assert passes(("task.*",))
    assert passes(("desktop.*", "task.review"))
    assert not passes(("task",))


@pytest.mark.parametrize(
    ("url", "key", "since", "words"),
    [
        ("localhost:8080/x", None, "", "URL: isn't an http or https address"),
        ("http://[/secret", None, "", "URL: isn't an http or https address"),
        ("ftp://h/secret", None, "", "URL: isn't an http or https address"),
        ("http://h/", "secret\n", "", "API key: holds characters"),
        ("http://h/?apiKey=secr%C3%A9t", None, "a\nb", "API key: holds characters"),
        ("http://h/", None, "a\nb", "--since: holds control characters"),
    ],
)
def test_arguments_that_can_not_be_used(url, key, since, words) -> None:
    with pytest.raises(ConfigError) as caught:
        _target(url, key, since)
    assert str(caught.value).startswith(words)
    assert "secr" not in str(caught.value)


def test_the_target_shows_no_key() -> None:
    target = _target("http://user:pass@h:1/p?apiKey=secret&q=1", None, "")
    assert target.place == "http://h:1/p"
    assert "secret" not in repr(target)


# The program


@pytest.fixture
async def program(simulator: Simulator) -> AsyncIterator[Callable[..., Awaitable]]:
    """Starts `tail` as a user would; whatever is left is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*options: str, **pipes) -> asyncio.subprocess.Process:
        environment = {**os.environ, "LEBUREAU_API_KEY": simulator.user().key}
        url = simulator.url + Stream.DESKTOPS.path
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lebureau_relay", "tail", url, *options),
            env=environment,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ends_cleanly_when_told(simulator: Simulator, program, number) -> None:
    process = await program("--json")
    await simulator.until(lambda: simulator.subscriptions_total == 1, timeout_s=20)
    simulator.emit(simulator.user().id, Stream.DESKTOPS)
    line = await process.stdout.readline()
    assert json.loads(line)["data"]["type"] == "desktop.status"
    process.send_signal(number)
    _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors


async def test_ends_cleanly_when_nobody_reads(simulator: Simulator, program) -> None:
    reading, writing = os.pipe()
    process = await program("--json", stdout=writing)
    os.close(writing)
    await simulator.until(lambda: simulator.subscriptions_total == 1, timeout_s=20)
    os.close(reading)
    simulator.emit(simulator.user().id, Stream.DESKTOPS)
    _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors


async def test_a_final_answer_is_exit_code_1(simulator: Simulator, program) -> None:
    simulator.revoke(simulator.user().key)
    process = await program()
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().splitlines()[-1].startswith("error: http://127.0.0.1:")
    assert b"a valid key is needed" in errors


async def test_a_pipe_gets_events_alone_and_each_at_once(simulator: Simulator, program) -> None:
    """Also where words about the connection go to a terminal: what reads the pipe writes there."""
    leader, follower = os.openpty()
    process = await program(stderr=follower)
    os.close(follower)
    await simulator.until(lambda: simulator.subscriptions_total == 1, timeout_s=20)
    for n in range(3):
        simulator.emit(simulator.user().id, Stream.DESKTOPS)
        line = await asyncio.wait_for(process.stdout.readline(), 10)
        assert b"  desktop." in line, n
        assert b"\x1b" not in line
    words = os.read(leader, 4096)
    os.close(leader)
    assert b"connected to" in words
    assert b"\x1b" not in words
    assert b"events/s" not in words


async def test_head_ends_it_without_another_event(simulator: Simulator, tmp_path) -> None:
    environment = {**os.environ, "LEBUREAU_API_KEY": simulator.user().key, "PYTHON": sys.executable}
    url = simulator.url + Stream.DESKTOPS.path
    line = f'set -o pipefail; "$PYTHON" -m lebureau_relay tail {url} | head -1'
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-c", line), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    await simulator.until(lambda: simulator.subscriptions_total == 1, timeout_s=20)
    simulator.emit(simulator.user().id, Stream.DESKTOPS)
    out, errors = await asyncio.wait_for(shell.communicate(), 20)
    assert shell.returncode == 0
    assert out.count(b"\n") == 1
    (words,) = errors.splitlines()
    assert b"connected to" in words
