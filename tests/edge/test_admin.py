"""The admin listener on a real socket, asked by what may stand on the other side of it."""

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files

import aiohttp
import pytest
from aiohttp import web

from lebureau_relay.edge import admin
from lebureau_relay.edge.admin import AdminRules, AdminSources, build_admin, c_extensions
from lebureau_relay.edge.app import Guard
from lebureau_relay.edge.credentials import CredentialRules
from lebureau_relay.edge.listener import listen as bound
from lebureau_relay.edge.server import build_runner, serve_on
from lebureau_relay.errors import RefusalCode
from lebureau_relay.relay.observer import FeedFacts, HubFacts, ReplicaFacts

TOKEN = "operators-canary"
HASH = "0123456789abcdef" * 2
GUARDED = ["/", "/console.js", "/console.css", "/status", "/events"]
OPEN = ["/healthz", "/readyz", "/metrics"]


@dataclass
class Relay:
    """What the listener reads from, as plain data."""

    ready: tuple[bool, str] = (True, "ready")
    hub: HubFacts = field(
        default_factory=lambda: HubFacts(
            draining=False,
            streams={"desktops": 6, "activity": 3},
            feeds={("desktops", "solo"): 2, ("activity", "solo"): 1},
            upstream={("desktops", "open"): 2, ("activity", "waiting"): 1},
            history_bytes=1234,
        )
    )
    feeds: list[FeedFacts] = field(default_factory=list)
    ended: list[str | None] = field(default_factory=list)
    notes: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    refusals: list[RefusalCode] = field(default_factory=list)
    replicas: list[ReplicaFacts] = field(
        default_factory=lambda: [ReplicaFacts("pod-a/1f2e3d", 9, 3, "ready")]
    )
    looked: int = 0

    def refused(self, code):
        self.refusals.append(code)

    def look(self):
        self.looked += 1
        return self.hub

    def render(self, accept):
        return f"# {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"

    def end(self, identity):
        self.ended.append(identity)
        return 7

    def note(self, level, event, **facts):
        self.notes.append((level, event, facts))

    def sources(self):
        return AdminSources(
            ready=lambda: self.ready,
            render=self.render,
            hub=self.look,
            feeds=lambda most: sorted(self.feeds, key=lambda one: -one.subscribers)[:most],
            replicas=lambda: self.replicas,
            totals=lambda: {"gaps": 2, "refusals": 5, "deliveries": 90, "upstream_events": 10},
            end=self.end,
            observer=self,
        )


def feed(subscribers=1, last_id="evt_1"):
    return FeedFacts(HASH, "desktops", "solo", "open", subscribers, 10, 100, last_id, 3.0)


@dataclass
class Listener:
    session: aiohttp.ClientSession
    port: int
    relay: Relay

    def ask(self, path, method="GET", **options):
        return self.session.request(method, f"http://127.0.0.1:{self.port}{path}", **options)


@pytest.fixture
async def listen():
    """Start a listener: `async with listen(token=…) as admin`."""

    @asynccontextmanager
    async def start(**rules):
        relay = Relay()
        app = build_admin(AdminRules("1.2.3", **rules), relay.sources())
        guard = Guard((), CredentialRules(), relay, soft=False, listener="admin")
        runner = build_runner(app, guard)
        sockets = bound("127.0.0.1", 0, user_timeout_ms=30_000)
        try:
            await serve_on(runner, sockets)
            async with aiohttp.ClientSession() as session:
                yield Listener(session, sockets[0].getsockname()[1], relay)
        finally:
            await runner.cleanup()

    return start


async def problem(response, status, code):
    assert response.status == status
    assert response.content_type == "application/problem+json"
    document = await response.json(content_type=None)
    assert document["code"] == code
    return document


# -- probes and metrics


async def test_healthz_lives_whatever_else_does_not(listen):
    async with listen() as listener:
        listener.relay.ready = (False, "starting")
        async with listener.ask("/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")


@pytest.mark.parametrize(("ready", "status"), [((True, "ready"), 200), ((False, "draining"), 503)])
async def test_readyz_says_why(listen, ready, status):
    async with listen() as listener:
        listener.relay.ready = ready
        async with listener.ask("/readyz") as response:
            assert (response.status, await response.text()) == (status, f"{ready[1]}\n")


async def test_metrics_pass_the_accept_header_and_the_type_through(listen):
    async with listen() as listener:
        headers = [("Accept", "application/openmetrics-text"), ("Accept", "text/plain")]
        async with listener.ask("/metrics", headers=headers) as response:
            assert await response.text() == "# application/openmetrics-text,text/plain\n"
            kind = response.headers["Content-Type"]
    assert kind == "text/plain; version=0.0.4; charset=utf-8"


# -- who is answered


@pytest.mark.parametrize("path", OPEN)
async def test_probes_and_metrics_answer_any_host(listen, path):
    headers = {"Host": "10.1.2.3:9090"}
    async with listen() as listener, listener.ask(path, headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::2]", "localhost:80:80"]
)
async def test_names_that_were_not_allowed_get_nothing(listen, path, host):
    async with listen() as listener, listener.ask(path, headers={"Host": host}) as response:
        await problem(response, 403, "forbidden")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9090", "127.0.0.1:1", "[::1]", "[::1]:99"]
)
async def test_loopback_is_allowed_on_any_port(listen, host):
    headers = {"Host": host}
    async with listen() as listener, listener.ask("/status", headers=headers) as response:
        assert response.status == 200


async def test_the_operator_chooses_the_names(listen):
    async with listen(allowed_hosts=("Ops.example.com",)) as listener:
        async with listener.ask("/status", headers={"Host": "ops.example.com"}) as response:
            assert response.status == 200
        async with listener.ask("/status") as response:
            await problem(response, 403, "forbidden")


async def test_a_request_without_a_host_is_not_given_one(listen):
    async with listen(allowed_hosts=("localhost",)) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET /status HTTP/1.0\r\n\r\n")
        assert b" 403 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


REFUSED = {
    "another name": ("GET", "/status", {"Host": "evil.example"}, "forbidden"),
    "another site": ("GET", "/", {"Sec-Fetch-Site": "cross-site"}, "forbidden"),
    "no such path": ("GET", "/.env?apiKey=canary", {}, "not_found"),
    "no such verb": ("DELETE", "/status", {}, "method_not_allowed"),
    "no token": ("POST", "/operator/end", {"Authorization": "Bearer guess"}, "invalid_credential"),
    "no order": ("POST", "/operator/end", {"Authorization": f"Bearer {TOKEN}"}, "bad_request"),
    "no such expectation": ("GET", "/healthz", {"Expect": "canary"}, "bad_request"),
}


@pytest.mark.parametrize(("method", "path", "headers", "code"), REFUSED.values(), ids=REFUSED)
async def test_every_refusal_has_its_name_in_log_and_metrics(listen, method, path, headers, code):
    async with listen(token=TOKEN) as listener:
        for _ in range(2):
            async with listener.ask(path, method, headers=headers) as response:
                await problem(response, RefusalCode(code).status, code)
        assert listener.relay.refusals == [RefusalCode(code)] * 2
        lines = [note for note in listener.relay.notes if note[0] == "info"]
        facts = {"code": code, "listener": "admin", "stream": None}
        assert lines == [("info", "request.refused", facts)] * 2
        assert "canary" not in repr(listener.relay.notes)


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_sites_pages_get_nothing(listen, path, site):
    async with listen() as listener:
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        async with listener.ask(path, headers=headers) as response:
            await problem(response, 403, "forbidden")


async def test_a_link_may_lead_to_the_console(listen):
    async with listen() as listener:
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        async with listener.ask("/", headers=headers) as response:
            assert response.status == 200


@pytest.mark.parametrize("path", [*OPEN, "/", "/console.js", "/console.css", "/status"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_changes_state(listen, path, method):
    async with listen() as listener, listener.ask(path, method) as response:
        await problem(response, 405, "method_not_allowed")
        assert response.headers["Allow"] == "GET, HEAD"
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_every_answer_is_dressed(listen):
    async with listen(token=TOKEN) as listener:
        for path in [*OPEN, *GUARDED, "/nowhere", "/operator/end"]:
            async with listener.ask(path) as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'self'" in policy
                assert "frame-ancestors 'none'" in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["Server"] == "lebureau-relay"
                assert response.headers.getall("Content-Type")
                response.close()


# -- status and console


async def test_status(listen):
    async with listen() as listener:
        listener.relay.feeds = [feed(1), feed(5)]
        async with listener.ask("/status") as response:
            status = await response.json()
    assert status["version"] == "1.2.3"
    assert status["uptime_s"] >= 0
    assert status["loop"] == "uvloop"
    assert status["c_extensions"] == c_extensions()
    assert status["ready"] is True
    assert status["draining"] is False
    assert status["subscribers"] == {"desktops": 6, "activity": 3}
    assert status["feeds"] == {"desktops": {"solo": 2}, "activity": {"solo": 1}}
    assert status["upstream"] == {"desktops": {"open": 2}, "activity": {"waiting": 1}}
    assert status["sharing"] == 3
    assert status["history_bytes"] == 1234
    assert status["totals"]["gaps"] == 2
    assert status["feed_count"] == 3
    (replica,) = status["replicas"]
    assert replica == {"name": "pod-a/1f2e3d", "streams": 9, "owned": 3, "state": "ready"}
    assert [each["subscribers"] for each in status["feed_list"]] == [5, 1]
    assert status["feed_list"][0]["identity"] == HASH


async def test_status_is_bounded(listen):
    async with listen() as listener:
        listener.relay.feeds = [feed(n) for n in range(3000)]
        async with listener.ask("/status") as response:
            status = await response.json()
    assert len(status["feed_list"]) == 1000
    assert status["feed_list"][0]["subscribers"] == 2999


async def test_nothing_is_shared_while_nothing_is_open(listen):
    async with listen() as listener:
        listener.relay.hub = HubFacts(True, {}, {}, {}, 0)
        async with listener.ask("/status") as response:
            status = await response.json()
    assert status["sharing"] is None
    assert status["draining"] is True


async def test_the_c_extensions_are_in_use():
    assert all(c_extensions().values())


async def test_the_console_needs_nothing_from_elsewhere(listen):
    async with listen() as listener:
        async with listener.ask("/") as response:
            page = await response.text()
            assert response.content_type == "text/html"
        named = set(re.findall(r'(?:src|href)="([^"]+)"', page))
        assert named == {"data:,", "console.css", "console.js"}
        assert "<style" not in page
        assert not re.search(r"\son\w+=|\sstyle=|<script(?! src)", page)  # the policy forbids them
        for path, kind in [("/console.css", "text/css"), ("/console.js", "text/javascript")]:
            async with listener.ask(path) as response:
                assert response.content_type == kind
                text = await response.text()
                assert "http:" not in text
                assert "https:" not in text
                assert "innerHTML" not in text


def test_the_page_has_every_place_that_its_script_fills():
    folder = files("lebureau_relay.edge") / "console"
    page, script = (folder / "index.html").read_text(), (folder / "console.js").read_text()
    wanted = set(re.findall(r"(?:\$|show)\('([\w-]+)'", script)) | {"events", "deliveries"}
    assert wanted <= set(re.findall(r'id="([\w-]+)"', page))


async def read_event(response):
    async with asyncio.timeout(5):
        while True:
            line = (await response.content.readline()).decode()
            if line.startswith("data: "):
                return json.loads(line.removeprefix("data: "))


async def test_the_console_hears_every_second(listen, monkeypatch):
    monkeypatch.setattr(admin, "_CONSOLE_PERIOD_S", 0.01)
    async with listen() as listener:
        listener.relay.feeds = [feed(n, "a\r\n\r\ndata: {}") for n in range(30)]
        async with listener.ask("/events") as response:
            assert response.content_type == "text/event-stream"
            first = await read_event(response)
            assert first["sharing"] == 3
            assert first["feed_count"] == 3
            assert len(first["feed_list"]) == 20
            assert first["feed_list"][0]["last_id"] == "a\r\n\r\ndata: {}"
            listener.relay.hub = HubFacts(False, {"desktops": 1}, {}, {}, 0)
            async with asyncio.timeout(5):
                while (await read_event(response))["subscribers"] != {"desktops": 1}:
                    pass
            response.close()


async def test_consoles_share_what_they_show(listen, monkeypatch):
    """It costs a look at every feed, on the loop that serves the streams."""
    monkeypatch.setattr(admin, "_CONSOLE_PERIOD_S", 60)
    async with listen() as listener:
        for _ in range(10):
            async with listener.ask("/events") as response:
                await read_event(response)
                response.close()
        assert listener.relay.looked == 1


async def test_consoles_are_bounded_and_one_that_leaves_makes_room(listen, monkeypatch):
    monkeypatch.setattr(admin, "_MAX_CONSOLES", 1)
    monkeypatch.setattr(admin, "_CONSOLE_PERIOD_S", 0.01)
    async with listen() as listener:
        async with listener.ask("/events") as response:
            await read_event(response)
            async with listener.ask("/events") as second:
                await problem(second, 503, "at_capacity")
            response.close()
        async with asyncio.timeout(5):
            while True:
                async with listener.ask("/events") as third:
                    if third.status == 200:
                        await read_event(third)
                        third.close()
                        break
                await asyncio.sleep(0.01)


async def test_an_open_console_does_not_hold_up_the_end():
    runner = web.AppRunner(build_admin(AdminRules("1"), Relay().sources()), shutdown_timeout=30)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/events"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        await read_event(response)
        async with asyncio.timeout(5):
            await runner.cleanup()
        await response.content.read()  # a proper end


# -- operators


def order(**fields):
    return {"json": fields, "headers": {"Authorization": f"Bearer {TOKEN}"}}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_token_there_are_no_operator_verbs(listen, method):
    headers = {"Authorization": "Bearer "}
    async with listen() as listener, listener.ask("/operator/end", method, headers=headers) as r:
        await problem(r, 404, "not_found")


@pytest.mark.parametrize(
    ("body", "identity"),
    [({"identity": HASH}, HASH), ({"all": True}, None)],
)
async def test_operators_end_streams_with_a_reason(listen, body, identity):
    async with listen(token=TOKEN) as listener:
        async with listener.ask("/operator/end", "POST", **order(**body, reason="abuse")) as r:
            assert r.status == 200
            assert await r.json() == {"ended": 7}
        facts = {"identity": identity or "all", "reason": "abuse", "ended": 7}
        assert listener.relay.ended == [identity]
        assert listener.relay.refusals == []
        assert listener.relay.notes == [("warning", "operator.end", facts)]


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \xff",
    ],
)
async def test_the_token_is_needed(listen, authorization):
    async with listen(token=TOKEN) as listener:
        options = order(all=True, reason="x")
        options["headers"] = {} if authorization is None else {"Authorization": authorization}
        async with listener.ask("/operator/end", "POST", **options) as response:
            await problem(response, 401, "invalid_credential")
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert TOKEN not in await response.text()
        assert listener.relay.ended == []
        assert listener.relay.refusals == [RefusalCode.INVALID_CREDENTIAL]


async def test_of_guesses_there_is_a_warning_a_minute(listen):
    async with listen(token=TOKEN) as listener:
        options = order(all=True, reason="x") | {"headers": {"Authorization": "Bearer guess"}}
        for _ in range(5):
            async with listener.ask("/operator/end", "POST", **options) as response:
                await problem(response, 401, "invalid_credential")
        assert len(listener.relay.refusals) == 5
        facts = {"why": "the token is wrong"}
        warnings = [note for note in listener.relay.notes if note[0] == "warning"]
        assert warnings == [("warning", "operator.refused", facts)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"all": True},
        {"all": False, "reason": "x"},
        {"all": 1, "reason": "x"},
        {"identity": HASH},
        {"identity": HASH[:-1], "reason": "x"},
        {"identity": HASH.upper(), "reason": "x"},
        {"identity": None, "reason": "x"},
        {"identity": HASH, "all": True, "reason": "x"},
        {"all": True, "reason": ""},
        {"all": True, "reason": "x" * 201},
        {"all": True, "reason": "line\nbreak"},
        {"all": True, "reason": "x", "more": 1},
    ],
)
async def test_what_is_no_order_ends_nothing(listen, body):
    async with listen(token=TOKEN) as listener:
        async with listener.ask("/operator/end", "POST", **order(**body)) as response:
            await problem(response, 400, "bad_request")
        assert listener.relay.ended == []


@pytest.mark.parametrize("data", [b"", b"}{", b"[1]", b'"x"', b"[" * 4000, b"\xff", b"x" * 100_000])
async def test_a_body_that_can_not_be_read_ends_nothing(listen, data):
    async with listen(token=TOKEN) as listener:
        headers = {
            "Authorization": f"Bearer {TOKEN}",
            "Content-Type": "application/json; charset=no-such",
        }
        async with listener.ask("/operator/end", "POST", data=data, headers=headers) as response:
            await problem(response, 400, "bad_request")
        assert listener.relay.ended == []


async def test_a_body_that_never_comes_is_not_waited_for(listen, monkeypatch):
    monkeypatch.setattr(admin, "_ORDER_TIMEOUT_S", 0.05)
    async with listen(token=TOKEN) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        head = f"POST /operator/end HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}"
        writer.write(f"{head}\r\nContent-Length: 10\r\n\r\n".encode())
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}],
)
async def test_the_token_does_not_open_the_door_to_other_sites(listen, headers):
    async with listen(token=TOKEN) as listener:
        options = order(all=True, reason="x")
        options["headers"] |= headers
        async with listener.ask("/operator/end", "POST", **options) as response:
            await problem(response, 403, "forbidden")
        assert listener.relay.ended == []


def test_rules_do_not_print_the_token():
    assert TOKEN not in repr(AdminRules("1", token=TOKEN))
