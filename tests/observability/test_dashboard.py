"""The dashboard: it asks only for what there is, in words that Prometheus understands, and is laid
out so that Grafana shows all of it. Grafana itself isn't here to be asked.
"""

import re
from itertools import pairwise

import yaml
from tests.observability.rules import (
    ALERTS,
    DASHBOARD,
    RECORDED,
    RULES,
    VARIABLES,
    filled,
    panels,
    promtool,
    queries,
    write_rules,
)
from tests.observability.told import LABELS, SAMPLES

_WIDTH = 24
# What the scrape adds to every series, and what the language itself has.
_SCRAPE_LABELS = {"namespace", "job", "pod", "instance"}
_SERIES = re.compile(r"\b((?:lebureau_relay|process|python)_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def expanded(expression: str) -> str:
    """What is recorded, in place of its name."""
    for name, recorded in RECORDED.items():
        expression = expression.replace(name, f"({recorded})")
    return expression


EXPRESSIONS = [
    *((f"panel {title}", query) for title, query in queries()),
    *((rule.get("alert") or rule["record"], expanded(rule["expr"])) for rule in RULES),
    *(
        (f"variable {one['name']}", filled(one["definition"]))
        for one in DASHBOARD["templating"]["list"]
        if one["type"] == "query"
    ),
]


def test_every_metric_label_and_value_that_is_asked_for_exists():
    for where, expression in EXPRESSIONS:
        named = _SERIES.findall(expression)
        assert named or "up{" in expression, f"{where} asks for nothing"
        assert ":lebureau_relay_" not in expression, f"{where} asks for what no rule records"
        for metric, matchers in named:
            assert metric in SAMPLES, f"{where} asks for {metric}"
            for label, operator, value in _MATCHER.findall(matchers):
                if label in _SCRAPE_LABELS or value == VARIABLES["$stream"]:
                    continue
                values = LABELS[metric].get(label, set())
                wanted = value.split("|") if "~" in operator else [value]
                assert set(wanted) <= values, f"{where}: no {metric} with {label} {value}"


def test_nothing_is_grouped_by_a_label_that_does_not_exist():
    for where, expression in EXPRESSIONS:
        labels = set().union(*(LABELS[name] for name, _ in _SERIES.findall(expression)))
        for grouping in re.findall(r"\b(?:by|on|ignoring|without) \(([^)]*)\)", expression):
            named = {label.strip() for label in grouping.split(",")}
            assert named <= labels | _SCRAPE_LABELS, where


def test_every_legend_names_a_label_that_its_query_keeps():
    for panel in panels():
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = _SCRAPE_LABELS if "by (" not in target["expr"] else set()
            kept |= {
                label.strip()
                for grouping in re.findall(r"by \(([^)]*)\)", target["expr"])
                for label in grouping.split(",")
            }
            assert shown <= kept, panel["title"]


def test_every_query_is_one(tmp_path):
    """As a recording rule, with the variables filled as Grafana does."""
    rules = [
        {"record": f"panel:{number}", "expr": query} for number, (_, query) in enumerate(queries())
    ]
    assert len(rules) > 40
    assert not [rule for rule in rules if "$" in rule["expr"]]
    told = promtool("check", "rules", write_rules(tmp_path, [{"name": "panels", "rules": rules}]))
    assert told.returncode == 0, told.stdout


def test_the_rules_are_clean(tmp_path):
    told = promtool("check", "rules", "--lint=all", "--lint-fatal", write_rules(tmp_path))
    assert told.returncode == 0, told.stdout
    assert yaml.safe_load(write_rules(tmp_path).read_text())["groups"]


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    for name, rule in ALERTS.items():
        assert rule["labels"].keys() == {"severity"}, name
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}, name


def test_panels_have_numbers_of_their_own():
    ids = [panel["id"] for panel in panels()]
    assert sorted(ids) == sorted(set(ids))
    titles = [panel["title"] for panel in panels()]
    assert sorted(titles) == sorted(set(titles))


def test_panels_lie_side_by_side_within_the_width():
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["w"] > 0
        assert place["h"] > 0
        assert 0 <= place["x"] <= _WIDTH - place["w"], panel["title"]
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not taken & cells, f"{panel['title']} lies on another panel"
        taken |= cells
    assert {x for x, _ in taken} == set(range(_WIDTH))
    lines = sorted({y for _, y in taken})
    assert all(below == above + 1 for above, below in pairwise(lines)), "an empty band"


def test_the_rows_are_there():
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == [
        "At a glance",
        *("Users", "Sharing", "Replicas", "Upstream", "Redis", "Process"),
    ]


def test_every_panel_says_what_to_make_of_it_in_a_unit_from_the_chosen_source():
    for panel in panels():
        if panel["type"] == "row":
            continue
        assert len(panel["description"]) > 40, panel["title"]
        options = panel.get("options", {})
        unit = panel["fieldConfig"]["defaults"].get("unit") or options["yAxis"]["unit"]
        assert unit, panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_every_variable_is_there_and_heeded():
    names = [one["name"] for one in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "job", "stream"]
    assert {f"${name}" for name in names[1:]} < VARIABLES.keys()
    for panel in panels():
        for target in panel.get("targets", ()):
            assert 'namespace=~"$namespace", job=~"$job"' in target["expr"], panel["title"]
            selectors = _SERIES.findall(target["expr"])
            assert all(
                "$stream" in matchers
                for metric, matchers in selectors
                if "stream" in LABELS[metric]
                and metric.removeprefix("lebureau_relay_") not in _WHOLE
            ), panel["title"]


# Shown for the whole replica, beside what it takes at most.
_WHOLE = {"subscribers"}
