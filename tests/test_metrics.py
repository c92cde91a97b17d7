"""What a Prometheus reads, parsed by the library's own parsers."""

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from lebureau_relay.core.event import GapCause
from lebureau_relay.errors import CloseReason, RefusalCode, SourceProblem
from lebureau_relay.metrics import Metrics
from lebureau_relay.relay.observer import HubFacts

OPEN = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
TEXT = "text/plain"
# The contract, section 7: type and labels.
CONTRACT = {
    "subscribers": ("gauge", {"stream"}),
    "feeds": ("gauge", {"stream", "role"}),
    "upstream_connections": ("gauge", {"stream", "state"}),
    "upstream_events": ("counter", {"stream"}),
    "upstream_bytes": ("counter", {"stream"}),
    "upstream_reconnects": ("counter", {"stream", "reason"}),
    "catchups": ("counter", {"stream", "outcome"}),
    "deliveries": ("counter", {"stream"}),
    "delivered_bytes": ("counter", {"stream"}),
    "delivery_delay_seconds": ("histogram", {"stream"}),
    "connects": ("counter", {"stream", "outcome"}),
    "refusals": ("counter", {"code"}),
    "closes": ("counter", {"stream", "reason"}),
    "stream_age_seconds": ("histogram", {"stream"}),
    "replays": ("counter", {"stream", "outcome"}),
    "replayed_events": ("counter", {"stream"}),
    "gaps": ("counter", {"stream", "cause"}),
    "history_bytes": ("gauge", set()),
    "takeovers": ("counter", set()),
    "takeover_seconds": ("histogram", set()),
    "redis_up": ("gauge", set()),
    "replicas": ("gauge", set()),
    "redis_call_seconds": ("histogram", {"operation"}),
    "event_loop_lag_seconds": ("histogram", set()),
    "draining": ("gauge", set()),
    "build_info": ("gauge", {"version", "python"}),
}
REDIS = {"redis_up", "redis_call_seconds", "replicas"}


class Surroundings:
    """The hub's facts, the clock and the log of one Metrics."""

    def __init__(self):
        self.now = 5.0
        self.looks = 0
        self.lines = []
        self.facts = HubFacts(
            draining=True,
            streams={"desktops": 3},
            feeds={("desktops", "owner"): 2},
            upstream={("desktops", "open"): 1, ("activity", "waiting"): 4},
            history_bytes=77,
        )

    def look(self):
        self.looks += 1
        return self.facts

    def metrics(self, **options):
        return Metrics(
            ("desktops", "activity"),
            self.look,
            lambda *line: self.lines.append(line),
            "1.2.3",
            clock=lambda: self.now,
            **options,
        )


@pytest.fixture
def around():
    return Surroundings()


def read(metrics, accept=OPEN):
    """Families by name without prefix, and values by (sample, sorted label values)."""
    body, _ = metrics.render(accept)
    parse = parse_open if accept == OPEN else parse_text
    families = {
        family.name.removeprefix("lebureau_relay_"): family for family in parse(body.decode())
    }
    values = {
        (sample.name.removeprefix("lebureau_relay_"), *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    return families, values


@pytest.mark.parametrize("accept", [OPEN, TEXT])
def test_exactly_the_metrics_of_the_contract(around, accept):
    metrics = around.metrics(redis_operations=("append",))
    metrics.redis_up(True)
    metrics.replicas(3)
    families, _ = read(metrics, accept)
    own = {
        name: (family.type, set().union(*(s.labels.keys() - {"le"} for s in family.samples)))
        for name, family in families.items()
        if not name.startswith(("process_", "python_"))
    }
    assert own == CONTRACT
    assert not any(s.name.endswith("_created") for f in families.values() for s in f.samples)


def test_every_closed_set_stands_at_nought_from_the_start(around):
    _, values = read(around.metrics())
    for stream in ("desktops", "activity"):
        expected = [
            *(("upstream_reconnects_total", stream, reason) for reason in SourceProblem),
            *(
                ("catchups_total", stream, o)
                for o in ("filled", "seen", "ignored", "failed", "timeout")
            ),
            *(("connects_total", stream, o) for o in ("accepted", *RefusalCode)),
            *(("closes_total", stream, reason) for reason in CloseReason),
            *(("replays_total", stream, o) for o in ("fresh", "resumed", "caught_up", "gap")),
            *(("gaps_total", stream, cause) for cause in GapCause),
            ("upstream_events_total", stream),
            ("upstream_bytes_total", stream),
            ("deliveries_total", stream),
            ("delivered_bytes_total", stream),
            ("replayed_events_total", stream),
            ("delivery_delay_seconds_count", stream),
            ("stream_age_seconds_count", stream),
        ]
        for name, *labels in expected:
            assert values[name, *sorted(map(str, labels))] == 0
    assert {values["refusals_total", code.value] for code in RefusalCode} == {0}
    assert values["takeovers_total",] == values["takeover_seconds_count",] == 0


def test_gauges_are_read_from_the_hub_when_somebody_looks(around):
    metrics = around.metrics()
    assert around.looks == 0
    _, values = read(metrics)
    assert values["subscribers", "desktops"] == 3
    assert values["subscribers", "activity"] == 0
    assert values["feeds", "desktops", "owner"] == 2
    assert values["feeds", "activity", "solo"] == 0
    assert values["upstream_connections", "desktops", "open"] == 1
    assert values["upstream_connections", "activity", "waiting"] == 4
    assert values["history_bytes",] == 77
    assert values["draining",] == 1


def test_a_meter_counts_what_it_is_told(around):
    metrics = around.metrics()
    meter = metrics.stream("desktops")
    assert metrics.stream("desktops") is meter
    meter.received(3, 100)
    meter.delivered(30, 1000)
    meter.delay(0.002)
    meter.reconnect(SourceProblem.CUT)
    meter.catchup("filled")
    meter.replay("resumed", 12)
    meter.gap(GapCause.EVICTED)
    meter.connect("accepted")
    meter.connect(RefusalCode.FORBIDDEN)
    meter.closed(CloseReason.SLOW, 61)
    metrics.refused(RefusalCode.FORBIDDEN)
    metrics.observe_lag(0.004)
    _, values = read(metrics)
    for name, value in {
        ("upstream_events_total", "desktops"): 3,
        ("upstream_bytes_total", "desktops"): 100,
        ("deliveries_total", "desktops"): 30,
        ("delivered_bytes_total", "desktops"): 1000,
        ("delivery_delay_seconds_bucket", "0.001", "desktops"): 0,
        ("delivery_delay_seconds_bucket", "0.0025", "desktops"): 1,
        ("upstream_reconnects_total", "cut", "desktops"): 1,
        ("catchups_total", "desktops", "filled"): 1,
        ("replays_total", "desktops", "resumed"): 1,
        ("replayed_events_total", "desktops"): 12,
        ("gaps_total", "desktops", "evicted"): 1,
        ("connects_total", "accepted", "desktops"): 1,
        ("connects_total", "desktops", "forbidden"): 1,
        ("closes_total", "desktops", "slow"): 1,
        ("stream_age_seconds_bucket", "60.0", "desktops"): 0,
        ("stream_age_seconds_bucket", "120.0", "desktops"): 1,
        ("refusals_total", "forbidden"): 1,
        ("event_loop_lag_seconds_count",): 1,
        ("upstream_events_total", "activity"): 0,
    }.items():
        assert values[name] == value, name
    counts = metrics.counts()
    assert {name: sum(counts[name].values()) for name in ("upstream_events", "deliveries")} == {
        "upstream_events": 3,
        "deliveries": 30,
    }
    assert counts["delivered_bytes"]["desktops",] == 1000
    assert counts["gaps"]["desktops", "evicted"] == 1
    assert counts["refusals"]["forbidden",] == 1
    assert counts["closes"]["desktops", "slow"] == 1
    delays = counts["delivery_delay_seconds"]
    assert (delays["desktops", "0.001"], delays["desktops", "0.0025"]) == (0, 1)
    assert list(delays)[-1] == ("activity", "+Inf"), "bounds ascend, as they are told"
    assert sum(counts["event_loop_lag_seconds"].values()) >= 1


def test_redis_is_silent_until_there_is_one(around):
    metrics = around.metrics()
    families, values = read(metrics)
    assert families.keys() >= REDIS
    assert not any(name[0].startswith("redis") for name in values)


def test_redis_and_takeovers(around):
    metrics = around.metrics(redis_operations=("append", "renew"))
    metrics.redis_up(False)
    metrics.redis_call("append", 0.003)
    metrics.takeover(0.15)
    _, values = read(metrics)
    assert values["redis_up",] == 0
    assert values["redis_call_seconds_count", "append"] == 1
    assert values["redis_call_seconds_count", "renew"] == 0
    assert values["takeovers_total",] == 1
    assert values["takeover_seconds_bucket", "0.1"] == 0
    assert values["takeover_seconds_bucket", "0.2"] == 1


@pytest.mark.parametrize("name", ["../etc", "lb_k_canary"])
def test_no_label_outside_the_closed_sets(around, name):
    metrics = around.metrics(redis_operations=("append",))
    with pytest.raises(KeyError):
        metrics.stream(name)
    for tell in (metrics.stream("desktops").connect, metrics.stream("desktops").catchup):
        with pytest.raises(KeyError):
            tell(name)
    with pytest.raises(KeyError):
        metrics.redis_call(name, 1)
    around.facts.streams[name] = 1
    body, _ = metrics.render(OPEN)
    assert name not in body.decode()


def test_it_is_rendered_once_a_second_in_either_form(around):
    metrics = around.metrics()
    first = metrics.render(OPEN)
    metrics.refused(RefusalCode.FORBIDDEN)
    around.now += 0.9
    assert metrics.render(OPEN) == first
    assert around.looks == 1
    assert metrics.render(TEXT)[0] != first[0]
    around.now += 0.1
    assert metrics.render(OPEN) != first
    assert around.looks == 3


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/plain; version=abc; escaping=zzz", "text/plain"),
        (OPEN, "application/openmetrics-text"),
        (
            "application/openmetrics-text; version=abc; escaping=\x00",
            "application/openmetrics-text",
        ),
        ("application/openmetrics-text" * 1000, "application/openmetrics-text"),
    ],
)
def test_any_accept_header_gets_one_of_two_forms(around, accept, content_type):
    body, given = around.metrics().render(accept)
    assert given.split(";")[0] == content_type
    assert "charset=utf-8" in given
    assert body.endswith(b"# EOF\n") is (content_type != "text/plain")


def test_the_process_and_the_build_are_told(around):
    _, values = read(around.metrics())
    assert values["process_resident_memory_bytes",] > 0
    assert any(name[0] == "python_info" for name in values)
    assert any(name[0] == "python_gc_collections_total" for name in values)
    assert any(name[0] == "build_info" and "1.2.3" in name for name in values)


def test_two_instances_share_nothing(around):
    one, other = around.metrics(), around.metrics()
    one.refused(RefusalCode.FORBIDDEN)
    assert read(other)[1]["refusals_total", "forbidden"] == 0


def test_buckets_rise(around):
    families, _ = read(around.metrics(redis_operations=("append",)))
    for family in families.values():
        series = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                others = {k: v for k, v in sample.labels.items() if k != "le"}
                series.setdefault(tuple(others.items()), []).append(float(sample.labels["le"]))
        for bounds in series.values():
            assert bounds == sorted(bounds)
            assert bounds[-1] == math.inf


def test_a_note_goes_to_the_log(around):
    around.metrics().note("info", "stream.closed", reason="slow", age_s=1.5)
    assert around.lines == [("info", "stream.closed", {"reason": "slow", "age_s": 1.5})]
