"""The admin listener as an operator and Prometheus meet it, against the contract's table."""

import asyncio
import json

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from tests.e2e.clients import ask, eventually

# Contract, section 7: metric -> type, labels.
TABLE = {
    "subscribers": ("gauge", {"stream"}),
    "feeds": ("gauge", {"stream", "role"}),
    "upstream_connections": ("gauge", {"stream", "state"}),
    "upstream_events_total": ("counter", {"stream"}),
    "upstream_bytes_total": ("counter", {"stream"}),
    "upstream_reconnects_total": ("counter", {"stream", "reason"}),
    "catchups_total": ("counter", {"stream", "outcome"}),
    "deliveries_total": ("counter", {"stream"}),
    "delivered_bytes_total": ("counter", {"stream"}),
    "delivery_delay_seconds": ("histogram", {"stream"}),
    "connects_total": ("counter", {"stream", "outcome"}),
    "refusals_total": ("counter", {"code"}),
    "closes_total": ("counter", {"stream", "reason"}),
    "stream_age_seconds": ("histogram", {"stream"}),
    "replays_total": ("counter", {"stream", "outcome"}),
    "replayed_events_total": ("counter", {"stream"}),
    "gaps_total": ("counter", {"stream", "cause"}),
    "history_bytes": ("gauge", set()),
    "takeovers_total": ("counter", set()),
    "takeover_seconds": ("histogram", set()),
    "redis_up": ("gauge", set()),
    "redis_call_seconds": ("histogram", {"operation"}),
    "event_loop_lag_seconds": ("histogram", set()),
    "draining": ("gauge", set()),
    "build_info": ("gauge", {"version", "python"}),
}
REASONS = {
    *("client_gone", "slow", "credential_revoked", "max_age", "retired", "rebalanced"),
    *("operator", "draining", "upstream_ended", "internal_error"),
}
CAUSES = {"evicted", "unknown_id", "upstream", "oversize", "slow", "degraded"}


@pytest.fixture
async def busy(simulator, user, relay, connect):
    """A relay with something to tell: two tabs, events, a gap, a refusal, an end."""
    first, second = await connect(relay), await connect(relay)
    simulator.emit(user.id, "desktops", 10)
    await first.has(10)
    await second.has(10)
    await connect(relay, cursor=first.ids[3])
    gone = await connect(relay, cursor="~lbrnobody-7")
    await eventually(lambda: gone.told)
    gone.close()
    await gone.ended()
    await ask(relay.public_url, key="lb_k_wrong")
    return relay


@pytest.mark.parametrize("name", TABLE)
async def test_every_metric_of_the_contract_is_there_with_its_labels(busy, scrape, name):
    metrics = await scrape(busy)
    kind, labels = TABLE[name]
    family = metrics.families[f"lebureau_relay_{name.removesuffix('_total')}"]
    assert family.type == kind
    assert family.documentation
    for sample in family.samples:
        assert sample.labels.keys() - {"le"} == labels


async def test_metrics_say_what_happened(busy, counts, scrape):
    await counts(busy, 1, "closes_total", stream="desktops", reason="client_gone")
    metrics = await scrape(busy)
    expected = {
        ("subscribers", "desktops"): 3,
        ("subscribers", "activity"): 0,
        ("upstream_events_total", "desktops"): 10,
        ("deliveries_total", "desktops"): 20 + 6,
        ("replayed_events_total", "desktops"): 6,
        ("delivery_delay_seconds_count", "activity"): 0,
    }
    for (name, stream), value in expected.items():
        assert metrics(name, stream=stream) == value, name
    assert metrics("delivery_delay_seconds_count", stream="desktops") >= 1
    assert metrics("upstream_connections", stream="desktops", state="open") == 1
    assert metrics("feeds", stream="desktops", role="solo") == 1
    assert metrics("replays_total", stream="desktops", outcome="fresh") == 2
    assert metrics("replays_total", stream="desktops", outcome="resumed") == 1
    assert metrics("replays_total", stream="desktops", outcome="gap") == 1
    assert metrics("gaps_total", stream="desktops", cause="unknown_id") == 1
    assert metrics("connects_total", stream="desktops", outcome="accepted") == 4
    assert metrics("refusals_total", code="invalid_credential") == 1
    assert metrics("history_bytes") > 1000
    assert metrics("draining") == 0
    assert metrics("build_info") == 1


async def test_upstreams_bytes_are_counted_as_they_came(serve, raw_upstream, connect, counts):
    opening, rest = b": comment\n\nretry: 5\nid: 1\n", b"data:a\n\n" + b": silence\n" * 7
    raw_upstream.answers = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + opening]
    relay = await serve(raw_upstream.url)
    client = await connect(relay)
    await counts(relay, len(opening), "upstream_bytes_total", stream="desktops")
    await counts(relay, 0, "upstream_events_total", stream="desktops")
    raw_upstream.writers[0].write(rest)
    await client.has(1)
    await counts(relay, len(opening + rest), "upstream_bytes_total", stream="desktops")
    await counts(relay, 1, "upstream_events_total", stream="desktops")


async def test_closed_sets_are_whole_from_the_start_and_nothing_else_is_in_them(relay, scrape):
    metrics = await scrape(relay)
    for name, label, values in (("closes", "reason", REASONS), ("gaps", "cause", CAUSES)):
        samples = metrics.families[f"lebureau_relay_{name}"].samples
        assert {sample.labels[label] for sample in samples} == values
        assert {sample.labels["stream"] for sample in samples} == {"desktops", "activity"}


async def test_openmetrics_is_spoken_to_who_asks(busy):
    accept = [("Accept", "application/openmetrics-text; version=1.0.0,text/plain;q=0.5")]
    reply = await ask(busy.admin_url, "/metrics", headers=accept)
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in open_families(reply.body.decode())}
    assert {f"lebureau_relay_{name.removesuffix('_total')}" for name in TABLE} <= names


async def test_no_page_of_the_admin_listener_names_a_key_an_address_or_a_user(busy, user):
    for path in ("/metrics", "/status", "/", "/readyz", "/healthz"):
        reply = await ask(busy.admin_url, path)
        assert reply.status == 200
        for secret in (user.key, "lb_k_", user.id, user.email):
            assert secret.encode() not in reply.raw, path
        assert b"127.0.0.1" not in reply.body


async def test_status_tells_the_story_in_numbers(busy):
    status = json.loads((await ask(busy.admin_url, "/status")).body)
    assert status["subscribers"]["desktops"] == 3
    assert status["sharing"] == 3
    assert status["ready"] is True
    (feed,) = status["feed_list"]
    assert (feed["stream"], feed["subscribers"], feed["events"]) == ("desktops", 3, 10)


async def test_probes_tell_life_from_readiness(simulator, serve, connect):
    relay = await serve(simulator.url, drain={"delay": 1.5})
    assert (await ask(relay.admin_url, "/readyz")).status == 200
    await simulator.stop()
    for path in ("/readyz", "/healthz"):
        assert (await ask(relay.admin_url, path)).status == 200, "upstream is no part of it"
    await simulator.restart()
    draining = asyncio.ensure_future(relay.drain())
    await eventually(lambda: not relay.ready)
    assert (await ask(relay.admin_url, "/readyz")).status == 503
    assert (await ask(relay.admin_url, "/healthz")).status == 200
    client = await connect(relay)
    assert client.status == 200, "during the delay new streams are still served"
    await draining
    await client.ended()
    assert client.reason == "draining"
    reply = await ask(relay.public_url, key=simulator.user(1).key)
    assert (reply.status, reply.code) == (503, "draining")


@pytest.mark.parametrize("path", ["/status", "/"])
async def test_what_tells_more_answers_to_its_own_names_only(relay, path):
    raw = b"GET %b HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n" % path.encode()
    reply = await ask(relay.admin_url, raw=raw)
    assert (reply.status, reply.code) == (403, "forbidden")


async def test_operator_verbs_are_off_without_a_token(relay):
    reply = await ask(relay.admin_url, "/operator/end", method="POST")
    assert reply.status in {404, 405}


async def test_an_operator_with_the_token_ends_streams(
    simulator, user, serve, connect, tmp_path, counts
):
    token = tmp_path / "token"
    token.write_text("s3cret-that-is-long-enough\n")
    relay = await serve(simulator.url, admin={"token_file": str(token)})
    client = await connect(relay)
    order = b'{"all": true, "reason": "maintenance"}'
    request = (
        b"POST /operator/end HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
    )
    wrong = await ask(relay.admin_url, raw=request % (b"guess", len(order), order))
    assert wrong.status == 401
    assert not client.closed
    reply = await ask(
        relay.admin_url, raw=request % (b"s3cret-that-is-long-enough", len(order), order)
    )
    assert json.loads(reply.body) == {"ended": 1}
    await client.ended()
    assert client.reason == "operator"
    await counts(relay, 1, "closes_total", reason="operator")
