"""The shipped rules and dashboard as Prometheus's own tool takes them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_MONITORING = ROOT / "k8s" / "components" / "monitoring"

RULE: dict[str, Any] = yaml.safe_load((_MONITORING / "prometheusrule.yaml").read_text())
GROUPS: list[dict[str, Any]] = RULE["spec"]["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
DASHBOARD: dict[str, Any] = json.loads((_MONITORING / "dashboard.json").read_text())

# What Grafana puts in place of its variables, as seen by a Prometheus that scrapes three replicas.
VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "5m",
    "$namespace": "prod",
    "$job": ".*lebureau-relay.*",
    "$stream": ".*",
}


def panels() -> Iterator[dict[str, Any]]:
    """Every panel, rows included."""
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title with each of its queries, variables filled."""
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], filled(target["expr"])


def filled(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def operands(alert: str) -> str:
    """An alert's expression without its thresholds: 0 or 1 for all that it looks at, and not only
    for what is bad. What must be absent is looked for.
    """
    expr = re.sub(r"^absent\((.*)\)$", r"\1", ALERTS[alert]["expr"])
    outside = re.split(r"(\{[^}]*\})", expr)  # selectors compare too
    outside[::2] = (re.sub(r"([<>]=?|[=!]=)", r"\1 bool", part) for part in outside[::2])
    # A floor under a denominator is no threshold.
    return "".join(outside).replace("> bool 0)", "> 0)")


def promtool(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run it; what it said is in `stdout`, complaints included."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is missing: tests/needs.sh installs it"
    return subprocess.run(
        [program, *map(str, arguments)],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )


def write_rules(folder: Path, groups: list[dict[str, Any]] = GROUPS) -> Path:
    """A rule file as Prometheus reads it: the `spec` of the resource."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    return path
