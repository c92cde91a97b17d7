"""What documents, manifests, alerts and dashboard name exists, and what exists is documented.

Names are found by their form, in code spans and blocks of the Markdown and in the whole of the
rest, and held against the code itself: the metrics' registry, the settings' types, the command
line, the Makefile.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.observability.rules import ALERTS, RECORDED, panels
from tests.observability.told import FAMILIES, LABELS, SAMPLES

from lebureau_relay.cli import app
from lebureau_relay.config import Settings

ROOT = Path(__file__).parents[1]
MARKDOWN = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("k8s/**/*.md")])
}
MACHINES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([
        *(p for suffix in ("yaml", "yml", "json") for p in ROOT.glob(f"k8s/**/*.{suffix}")),
        *ROOT.glob("config/*.yaml"),
        ROOT / "Dockerfile",
    ])
}  # fmt: skip
METRICS = MARKDOWN["docs/metrics.md"]
RUNBOOK = MARKDOWN["docs/operations.md"].partition("\n## Runbook\n")[2]
_FILES = {
    "conf",
    "css",
    "html",
    "js",
    "json",
    "lock",
    "lua",
    "md",
    "py",
    "sh",
    "toml",
    "yaml",
    "yml",
}


def code(text: str) -> list[str]:
    """The code of a Markdown page: each span, and each line of its blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", prose)
    return [*spans, *(line for block in blocks for line in block.splitlines())]


SPANS = [(page, span) for page, text in MARKDOWN.items() for span in code(text)]


def rows(page: str, *heads: str) -> Iterator[list[str]]:
    """The cells of every row of the tables with these first columns."""
    inside = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif tuple(cells[: len(heads)]) == heads:
            inside = True
        elif inside and not set(cells[0]) <= set("- "):
            yield cells


# -- metrics


def test_every_metric_that_is_named_exists():
    for page, text in (MARKDOWN | MACHINES).items():
        for recorded in RECORDED:
            text = text.replace(recorded, "")  # noqa: PLW2901 - what is left of it
        for name in re.findall(r"\b(?:lebureau_relay|process|python)_[a-z_]+\b", text):
            assert name in SAMPLES | FAMILIES.keys(), f"{page}: {name}"


def test_every_metric_with_labels_and_values_in_a_code_span_exists():
    """Also where the prefix is left out, as in tables of what to look at."""
    found = 0
    for page, span in SPANS:
        for name, matchers in re.findall(r"^(\w+)\{(\w+=\"[^}]*)\}$", span):
            metric = f"lebureau_relay_{name.removeprefix('lebureau_relay_')}"
            for label, value in re.findall(r'(\w+)="(\w+)"', matchers):
                found += 1
                assert value in LABELS.get(metric, {}).get(label, ()), f"{page}: {span}"
        if re.fullmatch(r"[a-z]\w+_(?:total|seconds)", span):
            metric = f"lebureau_relay_{span.removeprefix('lebureau_relay_')}"
            assert {metric, span} & (SAMPLES | FAMILIES.keys()), f"{page}: {span}"
    assert found > 5


def test_every_metric_is_documented_with_its_type_and_labels():
    documented = {
        name.strip("`"): (kind, {label.strip() for label in labels.split(",") if label})
        for name, kind, labels, question in rows(METRICS, "metric", "type", "labels")
        if question
    }
    told = {
        name: (family.type, set().union(*(s.labels.keys() for s in family.samples)) - {"le"})
        for name, family in FAMILIES.items()
        if name.startswith("lebureau_relay_")
    }
    assert documented == told
    others = {name for name in FAMILIES if not name.startswith("lebureau_relay_")}
    assert {span for span in code(METRICS) if re.match(r"(process|python)_", span)} == others


def test_every_value_of_a_label_is_documented():
    documented = {
        (label.strip("`"), f"lebureau_relay_{metric}"): set(re.findall(r"`(\w+)`", values))
        for label, metric, values in rows(METRICS, "label", "of", "values")
        if metric != "all that have it"
    }
    outcome = documented["outcome", "lebureau_relay_connects_total"]
    outcome |= documented["code", "lebureau_relay_refusals_total"]
    outcome.remove("code")
    closed = {
        (label, name): values
        for name, family in FAMILIES.items()
        if name.startswith("lebureau_relay_") and not name.endswith("build_info")
        for label, values in LABELS[family.samples[0].name].items()
        if label not in {"stream", "le"}
    }
    assert documented == closed


def test_every_recorded_series_is_documented():
    documented = [name.strip("`") for name, what in rows(METRICS, "series") if what]
    assert sorted(documented) == sorted(RECORDED)


# -- settings


def settings() -> set[str]:
    """Every setting's dotted name."""
    names = {"streams"}
    for section, content in Settings().model_dump().items():
        if isinstance(content, dict):
            names |= {f"{section}.{name}" for name in content}
    return names


SETTINGS = settings()
SECTIONS = {name.partition(".")[0] for name in SETTINGS} - {"streams"}
# Log events and the relay's own, as the code has them.
SAID = {
    name
    for path in (ROOT / "src").rglob("*.py")
    for name in re.findall(r'"([a-z_]+\.[a-z_]+)"', path.read_text())
}


def dotted(text: str) -> Iterator[str]:
    """Names of the form section.name that are no files."""
    for name in re.findall(r"(?<![\w./-])([a-z][a-z_]+\.[a-z_]+)(?![\w.(/-])", text):
        if name.rpartition(".")[2] not in _FILES:
            yield name


def test_every_dotted_name_in_a_code_span_is_a_setting_or_something_that_the_relay_says():
    found = set()
    for page, span in SPANS:
        design = page in {"docs/architecture.md", "CONTRIBUTING.md"} or "/decisions/" in page
        if re.fullmatch(r"[a-z_]+\.[a-z_]+(?:: \S+)?", span):
            for name in dotted(span.partition(":")[0]):
                if name in _CALLS or (design and name.partition(".")[0] not in SECTIONS):
                    continue
                found.add(name)
                assert name in SETTINGS | SAID, f"{page}: {name}"
    assert len(found & SETTINGS) > 20


# Walked through where the code is explained; and what the browser's module offers.
_CALLS = {
    "feed.accept",
    "feed.publish",
    "feed.attach",
    "stream.state",
    "stream.reason",
    "stream.mode",
}


def test_every_setting_that_rules_dashboard_and_manifests_name_exists():
    found = set()
    for page, text in MACHINES.items():
        for name in dotted(text):
            if name.partition(".")[0] in SECTIONS:
                found.add(name)
                assert name in SETTINGS | SAID, f"{page}: {name}"
    assert "limits.streams_total" in found


def test_every_setting_is_in_the_commented_file():
    shipped = yaml.safe_load(MACHINES["config/relay.yaml"])
    named = {f"{one}.{name}" for one in SECTIONS for name in shipped[one]} | {"streams"}
    assert named == SETTINGS


def test_every_variable_of_the_environment_is_a_settings():
    found = set()
    for page, text in (MARKDOWN | MACHINES).items():
        for name in re.findall(r"\bLEBUREAU_RELAY_(\w+)", text):
            found.add(name)
            assert name.lower().replace("__", ".") in SETTINGS, f"{page}: {name}"
    assert len(found) > 3


# -- commands


CLI: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = CLI.commands


def options(command: Any) -> set[str]:
    taken = {"--help"}
    for parameter in command.params:
        taken |= {*parameter.opts, *parameter.secondary_opts}
    return taken


def check_call(words: list[str], where: str) -> str:
    """Hold one call of the program against the command line; the command it names, if any."""
    known, command = options(CLI), ""
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{where}: {word}"
        elif not command and re.fullmatch(r"[a-z][a-z-]*", word):
            assert word in COMMANDS, f"{where}: {word}"
            command, known = word, options(COMMANDS[word])
    return command


def test_every_command_and_option_in_a_document_exists_and_every_command_is_documented():
    documented = set()
    for page, span in SPANS:
        called = re.findall(r"\blebureau-relay ([^|;&#]+)", span)
        if span.split()[0:1] and span.split()[0] in COMMANDS and " --" in span:
            called.append(span)
        for call in called:
            documented.add(check_call(call.replace("[", " ").replace("]", " ").split(), page))
    assert documented - {""} == COMMANDS.keys()


def test_every_command_in_the_image_and_the_manifests_exists():
    (command,) = re.findall(r"^CMD (\[.*\])$", MACHINES["Dockerfile"], re.MULTILINE)
    calls = [(json.loads(command), "Dockerfile")]
    for page, text in MACHINES.items():
        if page.startswith("k8s/") and page.endswith("yaml"):
            calls += [(args, page) for args in arguments(list(yaml.safe_load_all(text)))]
    assert all(check_call(list(map(str, words)), page) for words, page in calls)


def arguments(node: Any) -> Iterator[list[Any]]:
    """What containers of the relay's image are called with."""
    if isinstance(node, list):
        for one in node:
            yield from arguments(one)
    elif isinstance(node, dict):
        if "lebureau-relay" in str(node.get("image", "")) and "args" in node:
            yield node["args"]
        for one in node.values():
            yield from arguments(one)


MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))
FOR_PEOPLE = set(re.findall(r"^([a-z-]+):[^#\n]*##", MAKEFILE, re.MULTILINE))


def test_every_make_target_in_a_document_exists_and_every_one_for_people_is_documented():
    documented = set()
    for page, span in SPANS:
        for target in re.findall(r"(?:^|[\s$])make ([a-z][a-z-]*)", span):
            documented.add(target)
            assert target in TARGETS, f"{page}: make {target}"
    assert documented >= FOR_PEOPLE, f"in no document: {FOR_PEOPLE - documented}"


# -- runbook


def test_every_alert_has_an_entry_where_it_says_and_every_entry_is_an_alerts():
    entries = re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)
    assert entries == list(ALERTS), "in the order of the rules"
    for name, rule in ALERTS.items():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert anchor == name.lower(), "as pages of Markdown make anchors of headings"


def test_an_entry_begins_with_how_bad_it_is_and_says_what_to_do():
    entries = dict(re.findall(r"^### (\w+)\n(.*?)(?=\n### |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    for name, text in entries.items():
        severity = re.match(r"\w+", text).group().lower()
        assert severity == ALERTS[name]["labels"]["severity"], name
        assert len(text) > 100, name


def test_every_alert_that_is_named_exists():
    for page, text in (MARKDOWN | MACHINES).items():
        for name in re.findall(r"\bLebureauRelay[A-Z]\w*", text):
            assert name in ALERTS, f"{page}: {name}"


@pytest.mark.parametrize("quote", sorted(set(re.findall(r'"([A-Z][^"]*)"', RUNBOOK))))
def test_every_panel_that_the_runbook_names_is_on_the_dashboard(quote):
    assert quote in {panel["title"] for panel in panels()}


def test_every_panel_that_a_panel_names_is_on_the_dashboard():
    titles = {panel["title"] for panel in panels()}
    for panel in panels():
        for quote in re.findall("“([^”]*)”", panel.get("description", "")):
            assert quote in titles, panel["title"]


def test_every_link_to_a_heading_leads_to_one():
    for page, text in MARKDOWN.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            path = (ROOT / page).parent / target if target else ROOT / page
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = {
                re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings
            }
            assert anchor in anchors, f"{page}: {target}#{anchor}"
