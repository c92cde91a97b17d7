"""The admin listener on a real socket, asked by what may stand on the other side of it."""

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files

import aiohttp
import pytest
from aiohttp import web

from lebureau_relay.edge import admin, pulse
from lebureau_relay.edge.admin import (
    ASSETS,
    AdminRules,
    AdminSources,
    build_admin,
    c_extensions,
)
from lebureau_relay.edge.app import Guard
from lebureau_relay.edge.credentials import CredentialRules
from lebureau_relay.edge.listener import listen as bound
from lebureau_relay.edge.picture import Picture, PictureSources
from lebureau_relay.edge.server import build_runner, serve_on
from lebureau_relay.errors import RefusalCode
from lebureau_relay.relay.observer import (
    Counted,
    FeedFacts,
    FeedInDetail,
    Found,
    HubFacts,
    IdentityFacts,
    ReplicaFacts,
    TabFacts,
)

TOKEN = "operators-canary"
HASH = "0123456789abcdef" * 2
GUARDED = [*ASSETS, "/status", "/events"]
OPEN = ["/healthz", "/readyz", "/metrics"]


def hub(*, draining=False, **facts):
    counts = {
        "streams": {"desktops": 6, "activity": 3},
        "feeds": {("desktops", "solo"): 2, ("activity", "solo"): 1},
        "upstream": {("desktops", "open"): 2, ("activity", "waiting"): 1},
    }
    return HubFacts(draining, **{**counts, **facts}, history_bytes=1234)


def counts():
    """As `Metrics.counts` tells them."""
    bounds = {("0.001",): 1.0, ("0.01",): 9.0, ("+Inf",): 10.0}
    return {
        "upstream_events": {("desktops",): 10.0, ("activity",): 0.0},
        "deliveries": {("desktops",): 90.0, ("activity",): 0.0},
        "delivered_bytes": {("desktops",): 9000.0, ("activity",): 0.0},
        "gaps": {
            ("desktops", "slow"): 2.0,
            ("activity", "slow"): 0.0,
            ("desktops", "evicted"): 0.0,
        },
        "refusals": {("rate_limited",): 5.0, ("forbidden",): 0.0},
        "closes": {("desktops", "slow"): 1.0, ("activity", "slow"): 3.0},
        "delivery_delay_seconds": {
            (name, *bound): count if name == "desktops" else 0.0
            for name in ("desktops", "activity")
            for bound, count in bounds.items()
        },
        "event_loop_lag_seconds": bounds,
    }


@dataclass
class Relay:
    """What the listener reads from, as plain data."""

    ready: tuple[bool, str] = (True, "ready")
    hub: HubFacts = field(default_factory=hub)
    feeds: list[FeedFacts] = field(default_factory=list)
    replicas: list[ReplicaFacts] = field(default_factory=list)
    counts: dict = field(default_factory=counts)
    found: Found = field(default_factory=lambda: Found("hash", 0, {}))
    sought: list[str] = field(default_factory=list)
    ended: list[str | None] = field(default_factory=list)
    notes: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    refusals: list[RefusalCode] = field(default_factory=list)
    looked: int = 0
    marked: int = 0
    wrong: Exception | None = None

    def refused(self, code):
        self.refusals.append(code)

    async def count(self, most_feeds, most_identities):
        self.looked += 1
        if self.wrong:
            raise self.wrong
        busiest = sorted(self.feeds, key=lambda one: -one.subscribers)[:most_feeds]
        return Counted(self.hub, busiest, [IdentityFacts(HASH, 9, 3)][:most_identities], 1)

    def streams(self):
        self.marked += 1
        return 9

    async def find(self, text):
        self.sought.append(text)
        return self.found

    def render(self, accept):
        return f"# {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"

    def end(self, identity):
        self.ended.append(identity)
        return 7

    def note(self, level, event, **facts):
        self.notes.append((level, event, facts))

    def sources(self):
        picture = PictureSources(
            ready=lambda: self.ready,
            count=self.count,
            find=self.find,
            counts=lambda: self.counts,
            streams=self.streams,
            replica="here/1",
            replicas=lambda: self.replicas,
        )
        return AdminSources(picture=picture, render=self.render, end=self.end, observer=self)


def feed(subscribers=1, last_id="evt_1"):
    return FeedFacts(HASH, "desktops", "solo", "", "open", subscribers, 10, 100, last_id, 3.0)


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


@pytest.mark.parametrize("path", [*OPEN, *ASSETS, "/status"])
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
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["Server"] == "lebureau-relay"
                assert response.headers.getall("Content-Type")
                response.close()


# -- status


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
    assert status["replica"] == "here/1"
    assert status["replicas"] == [{"name": "here/1", "streams": 9, "owned": 3, "state": "ready"}], (
        "alone, it is the one that is seen"
    )
    assert status["totals"]["gaps"] == 2
    assert (status["gaps"], status["refusals"]) == ({"slow": 2}, {"rate_limited": 5})
    assert status["closes"] == {"slow": 4}
    assert status["traffic"]["desktops"]["deliveries"] == 90
    assert status["traffic"]["activity"]["closes"] == 3
    assert status["feed_count"] == 3
    assert [each["subscribers"] for each in status["feed_list"]] == [5, 1]
    assert status["feed_list"][0]["identity"] == HASH
    assert status["identities"] == [{"identity": HASH, "streams": 9, "feeds": 3}]


async def test_replicas_as_they_are_seen(listen):
    async with listen() as listener:
        listener.relay.replicas = [ReplicaFacts(f"pod-{n}/1", n, n, "ready") for n in (1, 2)]
        async with listener.ask("/status") as response:
            status = await response.json()
    assert [(one["name"], one["streams"]) for one in status["replicas"]] == [
        ("pod-1/1", 1),
        ("pod-2/1", 2),
    ]


async def test_status_is_bounded(listen):
    async with listen() as listener:
        listener.relay.feeds = [feed(n) for n in range(3000)]
        async with listener.ask("/status") as response:
            status = await response.json()
    assert len(status["feed_list"]) == 1000
    assert status["feed_list"][0]["subscribers"] == 2999


async def test_nothing_is_shared_while_nothing_is_open(listen):
    async with listen() as listener:
        listener.relay.hub = hub(draining=True, streams={}, feeds={}, upstream={})
        async with listener.ask("/status") as response:
            status = await response.json()
    assert status["sharing"] is None
    assert status["draining"] is True


async def test_the_c_extensions_are_in_use():
    assert all(c_extensions().values())


# -- the console


async def test_the_console_needs_nothing_from_elsewhere(listen):
    async with listen() as listener:
        async with listener.ask("/") as response:
            page = await response.text()
            assert response.content_type == "text/html"
        named = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
        assert named == {"data:,", "console.css", "console.js"}
        assert "<style" not in page
        assert not re.search(r"\son\w+=|\sstyle=|<script(?! src)", page)  # the policy forbids them
        scripts = {"/console.js"}
        for path in ["/console.css", *sorted(set(ASSETS) - {"/", "/console.css"})]:
            async with listener.ask(path) as response:
                kind = "text/css" if path.endswith(".css") else "text/javascript"
                assert response.content_type == kind
                text = await response.text()
            assert not re.search(r"https?:|innerHTML|outerHTML|insertAdjacent|eval\(", text)
            scripts |= {f"/{name}" for name in re.findall(r"from '\./([\w.]+)'", text)}
        assert scripts == set(ASSETS) - {"/", "/console.css"}, "what is imported is served"


def test_the_page_has_every_place_that_its_script_fills():
    folder = files("lebureau_relay.edge") / "console"
    page, script = (folder / "index.html").read_text(), (folder / "console.js").read_text()
    wanted = set(re.findall(r"(?:\$|show)\('([\w-]+)'", script))
    assert len(wanted) > 20
    assert wanted | {"gaps-total", "refusals-total", "closes-total"} <= set(
        re.findall(r'id="([\w-]+)"', page)
    )


async def read_event(response):
    """The next event: its name and its data."""
    async with asyncio.timeout(5):
        name = ""
        while True:
            line = (await response.content.readline()).decode().rstrip("\r\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))


async def read_screen(response):
    while (event := await read_event(response))[0] != "message":
        pass
    return event[1]


async def test_the_console_hears_every_second(listen, monkeypatch):
    monkeypatch.setattr(pulse, "PERIOD_S", 0.01)
    async with listen() as listener:
        listener.relay.feeds = [feed(n, "a\r\n\r\ndata: {}") for n in range(30)]
        async with listener.ask("/events") as response:
            assert response.content_type == "text/event-stream"
            name, past = await read_event(response)
            assert name == "past"
            assert past["most"] == 300
            first = await read_screen(response)
            assert first["sharing"] == 3
            assert first["feed_count"] == 3
            assert len(first["feed_list"]) == 20
            assert first["feed_list"][0]["last_id"] == "a\r\n\r\ndata: {}"
            assert first["point"][1] == 9
            listener.relay.hub = hub(streams={"desktops": 1})
            async with asyncio.timeout(5):
                while (await read_screen(response))["subscribers"] != {"desktops": 1}:
                    pass
            response.close()


async def test_consoles_share_what_they_show(listen, monkeypatch):
    """It costs a look at every feed, on the loop that serves the streams."""
    monkeypatch.setattr(pulse, "PERIOD_S", 60)
    async with listen() as listener:
        for _ in range(10):
            async with listener.ask("/events") as response:
                await read_screen(response)
                response.close()
        assert listener.relay.looked == 1


async def test_who_comes_later_sees_what_was_before_and_nobody_looked(listen, monkeypatch):
    monkeypatch.setattr(pulse, "PERIOD_S", 0.01)
    async with listen() as listener:
        async with asyncio.timeout(5):
            while listener.relay.marked < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert listener.relay.looked == 0
        async with listener.ask("/events") as response:
            _, past = await read_event(response)
            response.close()
    assert len(past["points"]) > 2
    assert past["points"][0][0] < past["points"][-1][0]


async def test_a_look_that_fails_is_told_seldom_and_tried_again(listen, monkeypatch):
    monkeypatch.setattr(pulse, "PERIOD_S", 0.01)
    async with listen() as listener:
        listener.relay.wrong = KeyError("canary")
        async with listener.ask("/events") as response:
            async with asyncio.timeout(5):
                while listener.relay.looked < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            listener.relay.wrong = None
            await read_screen(response)
            response.close()
        assert listener.relay.notes == [("error", "console.failed", {"error": "KeyError"})]


async def test_a_pulse_that_is_woken_in_the_moment_in_which_it_is_to_end_ends():
    class Still:
        past = ()

        def mark(self) -> None:
            """Nobody looks."""

    beating = pulse.Pulse(Still(), None, lambda: 0.0)
    beating._shown_s = -60.0  # what was shown is old: who comes wakes it
    running = asyncio.ensure_future(beating.run())
    await asyncio.sleep(0.01)
    watching = beating.watch()
    await anext(watching)
    coming = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=0.3)
    for task in (running, coming):
        task.cancel()
    await asyncio.gather(running, coming, return_exceptions=True)
    assert done


async def test_consoles_are_bounded_and_one_that_leaves_makes_room(listen, monkeypatch):
    monkeypatch.setattr(pulse, "MAX_CONSOLES", 1)
    monkeypatch.setattr(pulse, "PERIOD_S", 0.01)
    async with listen() as listener:
        async with listener.ask("/events") as response:
            await read_event(response)
            async with listener.ask("/events") as second:
                document = await problem(second, 503, "at_capacity")
                assert document["detail"] == "1 consoles are open already."
            response.close()
        async with asyncio.timeout(5):
            while True:
                async with listener.ask("/events") as third:
                    if third.status == 200:
                        await read_event(third)
                        third.close()
                        break
                await asyncio.sleep(0.01)
        assert set(listener.relay.refusals) == {RefusalCode.AT_CAPACITY}


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


async def test_a_status_of_many_feeds_costs_no_more_to_gather_than_to_write():
    relay = Relay(feeds=[feed(n) for n in range(1000)])
    picture = Picture("1.2.3", relay.sources().picture, time.monotonic)
    gathered_s, written_s = [], []
    for _ in range(9):
        began_s = time.thread_time()
        status = await picture.status()
        gathered_s.append(time.thread_time() - began_s)
        began_s = time.thread_time()
        json.dumps(status)
        written_s.append(time.thread_time() - began_s)
    assert len(status["feed_list"]) == 1000
    assert min(gathered_s) < 2 * min(written_s)


# -- explain an identity


async def test_an_identity_is_explained(listen):
    tab = TabFacts("paused", 3.0, 70_000, 12, "evt_<b>")
    async with listen() as listener:
        listener.relay.found = Found("hash", 1, {HASH: [FeedInDetail(feed(1), 70_000, 1, [tab])]})
        async with listener.ask("/explain", "POST", json={"find": " 0123 "}) as response:
            answer = await response.json()
        assert listener.relay.sought == ["0123"]
    assert (answer["by"], answer["count"]) == ("hash", 1)
    (told,) = answer["identities"][HASH]
    assert told["facts"]["last_id"] == "evt_1"
    assert told["pending_bytes"] == 70_000
    assert told["tabs"][0]["last_id"] == "evt_<b>"


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "0123",
        {"find": ""},
        {"find": " "},
        {"find": None},
        {"find": ["a"]},
        {"find": "x" * 301},
        {"find": "a", "more": 1},
    ],
)
async def test_what_is_no_question_finds_nobody(listen, body):
    async with listen() as listener:
        async with listener.ask("/explain", "POST", json=body) as response:
            await problem(response, 400, "bad_request")
        assert listener.relay.sought == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
async def test_other_sites_pages_ask_for_nobody(listen, headers):
    async with listen() as listener:
        options = {"json": {"find": "0"}, "headers": headers}
        async with listener.ask("/explain", "POST", **options) as response:
            await problem(response, 403, "forbidden")
        assert listener.relay.sought == []


async def test_what_is_looked_for_is_in_no_address_and_no_log(listen):
    """People paste keys."""
    async with listen() as listener:
        async with listener.ask("/explain?find=canary") as response:
            await problem(response, 405, "method_not_allowed")
        options = {"json": {"find": "canary"}}
        async with listener.ask("/explain", "POST", **options) as response:
            assert "canary" not in await response.text()
        assert "canary" not in repr(listener.relay.notes)


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
