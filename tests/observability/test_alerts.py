"""Every alert on made series: it fires on bad ones, and keeps silent on the quiet side."""

from copy import deepcopy

import pytest
import yaml
from tests.observability.cases import CASES, START, Series
from tests.observability.rules import ALERTS, GROUPS, promtool, write_rules

AN_HOUR = {f"{minute}m": None for minute in range(61)}


def bare_groups() -> list[dict[str, object]]:
    """The rules without their sentences, which promtool would want repeated word for word; a real
    Prometheus fills them in test_prometheus.
    """
    groups = deepcopy(GROUPS)
    for group in groups:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    return groups


Expected = dict[str, dict[str, str] | None]


def check(alert: str, series: Series, expected: Expected) -> dict[str, object]:
    """One test as promtool reads it: at a time the alert is on, with labels, or off (None)."""
    times = [
        {
            "alertname": alert,
            "eval_time": at,
            "exp_alerts": [] if labels is None else [{"exp_labels": labels}],
        }
        for at, labels in expected.items()
    ]
    lines = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": lines, "alert_rule_test": times}


def complaints(folder, *checks: dict[str, object]) -> str:
    """What promtool has to say against them; empty if all is as expected."""
    write_rules(folder, bare_groups())
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": list(checks)}))
    told = promtool("test", "rules", path)
    return "" if told.returncode == 0 else told.stdout


def test_every_alert_is_tried():
    assert {f"LebureauRelay{name}" for name in CASES} == ALERTS.keys()


@pytest.mark.parametrize("name", CASES)
def test_it_fires_on_bad_series_in_its_time_and_never_on_the_quiet_side(tmp_path, name):
    case, alert = CASES[name], f"LebureauRelay{name}"
    labels = case.on | ALERTS[alert]["labels"]
    bad = check(alert, case.bad, {case.before: None, case.at: labels})
    quiet = [check(alert, series, AN_HOUR) for series in case.quiet]
    assert complaints(tmp_path, bad, *quiet) == ""


def test_a_start_alarms_nobody(tmp_path):
    expected = {f"{minute}m": None for minute in range(0, 61, 5)}
    assert complaints(tmp_path, *(check(alert, START, expected) for alert in ALERTS)) == ""
