"""Failures inside and crashes: what a process says in its last breath holds no secret either.

The relays here are sabotaged: the real program in a process of its own, with one function replaced
by one that fails with the request in its hands, in the words that libraries use for it.
"""

import resource
import signal
from pathlib import Path

import pytest
from tests.e2e.clients import DESKTOPS, SseClient, ask, eventually
from tests.hardening.places import canary
from tests.hardening.searcher import Searcher
from tests.hardening.stage import Told, launch

# What fails is chosen by a harmless header, or by the type of an event.
SABOTAGE = """
import asyncio, gc, os, sys, threading
import structlog
from lebureau_relay.cli import main
from lebureau_relay import process
from lebureau_relay.edge import stream
from lebureau_relay.relay import owner

answer = stream.StreamHandler._answer
take = owner.Owner._take
last_words = []

def lose(text):
    raise ValueError(text)

async def lost(text):
    lose(text)

class Odd:
    def __init__(self, text):
        self.text = text
        self.me = self

    def __del__(self):
        raise ValueError(self.text)

async def stop(self):
    await stop_well(self)
    if last_words:
        raise RuntimeError(last_words.pop())

stop_well, process.Relay.stop = process.Relay.stop, stop

async def failing(self, request, spec):
    how = request.headers.get("X-Break")
    message = request._message
    if how == "message":
        raise RuntimeError(f"can't use {message}")
    if how == "url":
        raise LookupError(f"no route to {request.url!r} for {request.raw_headers!r}")
    if how == "headers":
        raise KeyError(dict(request.headers))
    if how == "timeout":
        raise TimeoutError(str(message))
    if how == "task":
        asyncio.ensure_future(lost(str(message)))
        await asyncio.sleep(0)
        gc.collect()
    if how == "callback":
        asyncio.get_running_loop().call_soon(lose, str(message))
    if how == "thread":
        threading.Thread(target=lose, args=[str(message)]).start()
    if how == "garbage":
        Odd(str(message))
        gc.collect()
    if how == "log":
        structlog.get_logger("lebureau_relay").debug("planted", word=request.headers["X-Plant"])
    if how == "abort":
        os.abort()
    if how == "end":
        last_words.append(f"{message}")
    return await answer(self, request, spec)

def breaking(self, continuity, events):
    if any(event.type == b"break" for event in events):
        raise RuntimeError(f"x-api-key: {next(iter(self._feed.credentials())).reveal()}")
    return take(self, continuity, events)

stream.StreamHandler._answer = failing
owner.Owner._take = breaking
sys.exit(main())
"""


def core_bytes(pid: int | str) -> str:
    """How big a core file the process may leave, as the system says it."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    return limits.partition("Max core file size")[2].split()[0]


@pytest.fixture
async def sabotaged(tmp_path, simulator):
    """Starts the sabotaged relay."""
    running = []

    async def start(*flags):
        settings = {"UPSTREAM__BASE_URL": simulator.url}
        running.append(await launch(tmp_path, settings, "-c", SABOTAGE, *flags, "serve"))
        return await running[-1].started()

    yield start
    for each in running:
        await each.kill()


@pytest.fixture
def broken(simulator):
    """Sends a request that breaks something, with secrets in it; the answer and the secrets."""
    told = Told()

    async def send(relay, how, expect=500):
        secrets = {f"{how}: {n}": canary() for n in ("key", "query", "cookie", "bearer", "value")}
        one, query, cookie, bearer, value = secrets.values()
        reply = await ask(
            relay.public_url,
            f"{DESKTOPS}?apiKey={query}&a=lb_k_{value}",
            key=one,
            cookie=f"__Host-session={cookie}; sid={cookie}",
            headers=[("Authorization", f"Bearer {bearer}"), ("X-Break", how)],
        )
        assert reply.raw == b"" or reply.status == expect
        told.add(f"answer to {how}", reply.raw)
        return secrets

    send.told = told
    return send


ANSWERED = ["message", "url", "headers", "timeout"]
ELSEWHERE = ["callback", "task", "thread", "garbage"]


async def test_failures_inside_tell_their_place_and_no_secret(sabotaged, broken):
    relay = await sabotaged("--debug")
    secrets = {}
    for how in ANSWERED:
        secrets |= await broken(relay, how)
    for how in ELSEWHERE:
        secrets |= await broken(relay, how, expect=400)  # the request goes on: it has two keys
    await eventually(lambda: len(relay.said("request.failed")) >= len(ANSWERED))
    failed = relay.said("request.failed")
    assert [line["error"] for line in failed] == [
        *("RuntimeError", "LookupError", "KeyError", "TimeoutError")
    ]
    assert all(str(line["place"]).startswith("__main__:") for line in failed)
    await eventually(lambda: relay.stderr.count("Traceback") >= len(ELSEWHERE))
    await broken.told.look_at(relay, "relay")
    relay.signal(signal.SIGTERM)
    assert await relay.exit() == 0
    broken.told.add("log", relay.stderr)
    Searcher(secrets).assert_clean(broken.told.texts)


async def test_a_feed_that_fails_ends_with_a_name_and_tells_no_secret(sabotaged, simulator, user):
    relay = await sabotaged()
    client = await SseClient.connect(relay.public_url, key=user.key)
    await client.opened()
    simulator.emit_event(user.id, "desktops", "t", {}, event="break")
    await client.ended()
    assert client.reason == "internal_error"
    await eventually(lambda: relay.said("feed.failed"))
    assert relay.said("feed.failed")[0]["error"] == "RuntimeError"
    relay.signal(signal.SIGTERM)
    assert await relay.exit() == 0
    told = [("log", relay.stderr.encode()), ("stream", bytes(client.raw))]
    Searcher({"key": user.key}).assert_clean(told)


@pytest.mark.parametrize(
    ("how", "flags", "said"),
    [
        ("abort", [], "Fatal Python error: Aborted"),
        ("end", [], "unexpected RuntimeError"),
        ("end", ["--debug"], "Traceback"),
    ],
)
async def test_the_last_words_of_a_process_hold_no_secret(
    sabotaged, broken, tmp_path, how, flags, said
):
    relay = await sabotaged(*flags)
    assert core_bytes(relay.process.pid) == "0"
    secrets = await broken(relay, how, expect=400)
    if how == "end":
        relay.signal(signal.SIGTERM)
    assert await relay.exit() in {1, -signal.SIGABRT}
    assert said in relay.stderr
    broken.told.add("log", relay.stderr)
    Searcher(secrets).assert_clean(broken.told.texts)
    assert list(tmp_path.iterdir()) == [], "no core file"


async def test_a_secret_that_was_planted_is_found(sabotaged):
    """The control: a log line with a canary in it, put there on purpose, in a running relay."""
    relay = await sabotaged()
    secret = canary()
    fields = [("X-Break", "log"), ("X-Plant", secret)]
    assert (await ask(relay.public_url, headers=fields)).code == "missing_credential"
    await eventually(lambda: relay.said("planted"))
    relay.signal(signal.SIGTERM)
    assert await relay.exit() == 0
    (finding,) = Searcher({"planted": secret}).found("log", relay.stderr.encode())
    assert (finding.place, finding.name, finding.form) == ("log", "planted", "plain")


async def test_a_core_file_is_not_left_where_others_would_leave_one(sabotaged):
    """All memory is in it, secrets too."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("nobody may leave core files here")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        relay = await sabotaged()
        assert core_bytes(relay.process.pid) == "0"
        assert core_bytes("self") != "0"
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
