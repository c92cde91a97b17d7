"""The threat model names the test of each promise; this holds that there is one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`(tests/[^`]*)`", (ROOT / "SECURITY.md").read_text())))


def test_every_test_that_the_threat_model_names_exists():
    assert len(NAMED) > 10
    assert [path for path in NAMED if not (ROOT / path).is_file()] == []


def test_every_test_of_hardening_is_named():
    """A promise that has a test and isn't written down is broken by the next who doesn't know."""
    files = (ROOT / "tests/hardening").glob("test_*.py")
    assert {f"tests/hardening/{one.name}" for one in files} <= set(NAMED)


def test_every_promise_has_a_test():
    rows = re.findall(r"(?m)^\| (\d+) \|.*\|(.*)\|$", (ROOT / "SECURITY.md").read_text())
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert all("`tests/" in held_by for _, held_by in rows)
