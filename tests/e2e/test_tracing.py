"""Spans of what happens seldom; none per event, no secret in any, and nothing where it is off."""

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.e2e.clients import DESKTOPS, ask, eventually

from lebureau_relay import main, tracing
from lebureau_relay.config import Settings
from lebureau_relay.errors import StartError
from lebureau_relay.relay.ports import StreamSpec
from lebureau_relay.tracing import Tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"
SHARED = {"hash_secret": "any secret of some length will do here", "lease_ttl": 1}


class Spans:
    """The spans that have ended, oldest first."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def __call__(self, name: str = ""):
        return [one for one in self.exporter.get_finished_spans() if name in {"", one.name}]

    async def of(self, name: str, count: int = 1):
        await eventually(lambda: len(self(name)) >= count, said=f"{count} × {name}: {self()}")
        return self(name)


@pytest.fixture
def spans(monkeypatch) -> Spans:
    """What relays of this process tell, through the SDK itself."""
    spans = Spans()
    monkeypatch.setattr(main, "_tracing", lambda _settings: Tracing(spans.provider, "0"))
    return spans


async def test_a_request_its_question_upstream_and_its_verdict_are_one_trace(
    simulator, spans, relay, connect
):
    await connect(relay)
    (connected,) = await spans.of("connect")
    (asked,), (judged,) = spans("upstream.connect"), spans("replay")
    assert (connected.kind, asked.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert asked.parent == judged.parent == connected.context
    assert connected.parent is None
    assert connected.attributes == {
        "lebureau.stream": "desktops",
        "lebureau.outcome": "accepted",
        "http.request.method": "GET",
        "http.route": DESKTOPS,
        "http.response.status_code": 200,
    }
    assert asked.attributes["lebureau.outcome"] == "open"
    assert asked.attributes["lebureau.resumes"] is False
    (feed,) = relay.hub.feeds()
    assert asked.attributes["lebureau.identity"] == feed.key.identity
    assert judged.attributes["lebureau.outcome"] == "fresh"
    assert connected.start_time <= asked.start_time <= asked.end_time <= connected.end_time


async def test_who_joins_a_warm_feed_asks_nobody(simulator, user, spans, relay, connect):
    first = await connect(relay)
    simulator.emit(user.id, "desktops", 5)
    await first.has(5)
    second = await connect(relay, cursor=first.ids[1])
    await second.has(3)
    _, connected = await spans.of("connect", 2)
    assert len(spans("upstream.connect")) == 1
    _, judged = spans("replay")
    assert judged.parent == connected.context
    assert (judged.attributes["lebureau.outcome"], judged.attributes["lebureau.events"]) == (
        "resumed",
        3,
    )


async def test_no_event_makes_a_span(simulator, user, spans, relay, connect):
    tabs = [await connect(relay) for _ in range(3)]
    await spans.of("connect", 3)
    before = len(spans())
    simulator.emit(user.id, "desktops", 200)
    for tab in tabs:
        await tab.has(200)
    assert len(spans()) == before


async def test_what_counts_events_is_the_meters_own(spans, relay):
    """Nothing stands between the hot path and its counters."""
    told = Tracing(spans.provider, "0").observer(relay.metrics).stream("desktops")
    own = relay.metrics.stream("desktops")
    for name in ("received", "delivered", "delay", "gap"):
        assert getattr(told, name) == getattr(own, name)


async def test_a_verdict_that_was_waited_for_lasts_as_long(simulator, user, spans, serve, connect):
    """A relay that has forgotten asks upstream what an older cursor needs."""
    simulator.emit(user.id, "desktops", 10)
    ids = [record.id for record in simulator.log(user.id, "desktops")]
    relay = await serve(simulator.url)
    late = await connect(relay, cursor=ids[7])
    early = await connect(relay, cursor=ids[2])
    await late.has(2)
    await early.has(7)
    verdicts = {span.attributes["lebureau.outcome"]: span for span in await spans.of("replay", 2)}
    assert verdicts["caught_up"].end_time > verdicts["caught_up"].start_time
    assert len(spans("upstream.connect")) == 2
    assert all(span.attributes["lebureau.resumes"] for span in spans("upstream.connect"))


async def test_a_reconnect_is_a_trace_of_its_own_that_names_who_opened_the_feed(
    simulator, spans, relay, connect
):
    await connect(relay)
    (connected,) = await spans.of("connect")
    simulator.cut_all()
    _, again = await spans.of("upstream.connect", 2)
    assert again.parent is None
    assert again.context.trace_id != connected.context.trace_id
    assert [link.context.trace_id for link in again.links] == [connected.context.trace_id]


@pytest.mark.parametrize("fault", ["503", "404"])
async def test_upstreams_refusal_is_an_error_in_both(simulator, user, spans, relay, fault):
    simulator.fault(fault)
    reply = await ask(relay.public_url, key=user.key)
    (connected,) = await spans.of("connect")
    (asked,) = spans("upstream.connect")
    assert connected.attributes["lebureau.outcome"] == reply.code
    assert connected.attributes["http.response.status_code"] == reply.status
    assert connected.status.status_code is asked.status.status_code is StatusCode.ERROR
    assert not connected.events, "no exception's text"
    assert not asked.events
    assert connected.status.description is asked.status.description is None


async def test_a_clients_own_fault_is_no_error(spans, relay):
    reply = await ask(relay.public_url)
    (connected,) = await spans.of("connect")
    assert connected.attributes["lebureau.outcome"] == reply.code == "missing_credential"
    assert connected.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (ValueError("lb_k_secret"), "internal_error", StatusCode.ERROR),
        (asyncio.CancelledError(), "draining", StatusCode.UNSET),
    ],
)
async def test_what_fails_inside_is_told_without_its_text(spans, error, outcome, status):
    async def fail(_request, _stream):
        raise error

    traced = Tracing(spans.provider, "0").handler(fail)
    with pytest.raises(type(error)):
        await traced(make_mocked_request("GET", DESKTOPS), StreamSpec("desktops", DESKTOPS))
    (connected,) = spans("connect")
    assert connected.attributes["lebureau.outcome"] == outcome
    assert connected.status.status_code is status
    assert "lb_k_secret" not in connected.to_json()


async def test_a_clients_trace_is_taken_up_and_not_told_upstream(simulator, spans, relay, connect):
    await connect(relay, headers=[("traceparent", SAMPLED), ("baggage", "a=b")])
    (connected,) = await spans.of("connect")
    assert f"{connected.context.trace_id:032x}" == TRACE
    (asked,) = spans("upstream.connect")
    assert asked.context.trace_id == connected.context.trace_id
    for seen in simulator.requests:
        assert not {"traceparent", "tracestate", "baggage"} & {
            name.lower() for name in seen.headers
        }


@pytest.mark.parametrize(
    "said",
    [
        ["nonsense"],
        ["00-" + "0" * 32 + "-00f067aa0ba902b7-01"],
        [SAMPLED, SAMPLED.replace("4", "5")],
        [SAMPLED + "-" + "x" * 5000],
    ],
)
async def test_a_trace_that_is_none_is_not_taken_up(spans, relay, connect, said):
    await connect(relay, headers=[("traceparent", value) for value in said])
    (connected,) = await spans.of("connect")
    assert connected.parent is None
    assert f"{connected.context.trace_id:032x}" != TRACE


async def test_no_span_holds_a_secret(simulator, user, spans, relay, connect):
    simulator.emit(user.id, "desktops", 3)
    cursor = simulator.log(user.id, "desktops")[0].id
    await connect(relay, f"{DESKTOPS}?apiKey={user.key}&lastEventId={cursor}")
    await connect(relay, cookie=user.cookie)
    await ask(relay.public_url, f"{DESKTOPS}?apiKey=lb_k_wrong")
    simulator.cut_all()
    await spans.of("connect", 3)
    await spans.of("upstream.connect", 3)
    told = "".join(span.to_json() for span in spans())
    for secret in (user.key, user.cookie.partition("=")[2], "lb_k_", cursor, "127.0.0.1", "apiKey"):
        assert secret not in told


@pytest.mark.server
async def test_a_takeover_lasts_as_long_as_the_feed_had_no_owner(
    simulator, user, spans, serve, connect, valkey
):
    shared = {**SHARED, "url": valkey.url}
    first, second = [await serve(simulator.url, redis=shared) for _ in range(2)]
    _, stays = await connect(first), await connect(second)
    simulator.emit(user.id, "desktops", 1)
    await stays.has(1)
    (owner,) = [one for one in (first, second) if one.hub.feeds()[0].role == "owner"]
    await owner.drain()
    (taken,) = await spans.of("takeover")
    assert taken.end_time >= taken.start_time
    assert taken.parent is None


# -- the process, and a collector


@asynccontextmanager
async def collector():
    """Takes spans as collectors do; what came, request by request."""
    came: list[tuple[str, ExportTraceServiceRequest, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            raise AssertionError("nobody asked for it")
        came.append((request.path, ExportTraceServiceRequest.FromString(body), body))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", came
    finally:
        await runner.cleanup()


async def test_a_process_sends_its_spans_before_it_ends(simulator, user, program, connect):
    async with collector() as (endpoint, came):
        run = await program(simulator.url, settings={"TRACING__ENDPOINT": endpoint})
        await run.started()
        await connect(run.public_url)
        run.signal(signal.SIGTERM)
        assert await run.exit() == 0
    path, told, body = came[0]
    assert path == "/v1/traces"
    (resource,) = told.resource_spans
    said = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert said["service.name"] == "lebureau-relay"
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names >= {"connect", "upstream.connect", "replay"}
    assert user.key.encode() not in body


async def test_a_collector_that_is_away_costs_nobody_anything(
    simulator, program, connect, unused_tcp_port
):
    settings = {"TRACING__ENDPOINT": f"http://127.0.0.1:{unused_tcp_port}"}
    run = await (await program(simulator.url, settings=settings)).started()
    client = await connect(run.public_url)
    run.signal(signal.SIGTERM)
    assert await run.exit(10) == 0
    assert client.reason == "draining"
    assert "Traceback" not in run.stderr


async def test_of_a_share_of_none_nothing_is_kept_whatever_clients_say(simulator, program, connect):
    async with collector() as (endpoint, came):
        settings = {"TRACING__ENDPOINT": endpoint, "TRACING__SAMPLE_RATIO": 0}
        run = await (await program(simulator.url, settings=settings)).started()
        await connect(run.public_url, headers=[("traceparent", SAMPLED)])
        simulator.cut_all()
        run.signal(signal.SIGTERM)
        assert await run.exit() == 0
    assert came == []


def test_a_client_that_chooses_its_traces_id_does_not_choose_how_much_is_kept(monkeypatch):
    spans = Spans()
    monkeypatch.setattr(
        tracing, "BatchSpanProcessor", lambda _exporter: SimpleSpanProcessor(spans.exporter)
    )
    told = tracing.exporting("http://127.0.0.1:9", 0.5, "0")
    lowest = {"traceparent": f"00-{1:032x}-{1:016x}-01"}  # kept by any share, if the id decides

    async def many() -> None:
        handle = told.handler(answer)
        for _ in range(200):
            await handle(
                make_mocked_request("GET", DESKTOPS, lowest), StreamSpec("desktops", DESKTOPS)
            )

    async def answer(*_: object) -> None:
        pass

    asyncio.run(many())
    assert 50 < len(spans("connect")) < 150


def test_without_an_endpoint_the_module_is_not_even_loaded():
    code = (
        "import sys; from lebureau_relay import config, main; main.Relay(config.Settings()); "
        "sys.exit('lebureau_relay.tracing' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lebureau_relay.tracing", None)
    settings = Settings.model_validate({"tracing": {"endpoint": "http://localhost:4318"}})
    with pytest.raises(StartError, match=r"lebureau-relay\[tracing\]"):
        main.Relay(settings)
