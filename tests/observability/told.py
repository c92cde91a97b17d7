"""What the relay tells: every name, label and value of its metrics page, from the code."""

from prometheus_client.parser import text_string_to_metric_families

from lebureau_relay.config import Settings
from lebureau_relay.metrics import Metrics
from lebureau_relay.relay.observer import HubFacts


def page() -> str:
    """A fresh replica's metrics, Redis included."""
    metrics = Metrics(
        [stream.name for stream in Settings().streams],
        lambda: HubFacts(False, {}, {}, {}, 0),
        lambda *_: None,
        "0",
        subscribers_limit=1,
        redis_operations=("pipeline",),
    )
    metrics.redis_up(True)
    metrics.replicas(1)
    return metrics.render("")[0].decode()


FAMILIES = {
    # the parser takes the suffix of counters away, which everybody else writes
    family.name + ("_total" if family.type == "counter" else ""): family
    for family in text_string_to_metric_families(page())
}
_ALL = [sample for family in FAMILIES.values() for sample in family.samples]
SAMPLES = {sample.name for sample in _ALL}
LABELS: dict[str, dict[str, set[str]]] = {name: {} for name in SAMPLES}
for _sample in _ALL:
    for _label, _value in _sample.labels.items():
        LABELS[_sample.name].setdefault(_label, set()).add(_value)
