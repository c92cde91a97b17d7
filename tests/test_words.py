"""Causes, reasons and refusals are called the same wherever people read of them.

Whose words they are differs (this page, you, the client), what happened does not: each place must
say the part that stands here, whatever it says around it.
"""

import re
from pathlib import Path

import pytest

from lebureau_relay.core.event import GapCause
from lebureau_relay.errors import CloseReason, RefusalCode
from lebureau_relay.tail import client as tail

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lebureau_relay"

GAPS = {
    "evicted": "away for longer than the relay remembers",
    "unknown_id": "nobody knows the id",
    "upstream": "could not continue where it had stopped",
    "oversize": "an event was too big to be passed on",
    "slow": "read too slowly",
    "degraded": "were cut off from each other",
}
REASONS = {
    "slow": "read too slowly",
    "credential_revoked": "was revoked",
    "max_age": "reached its greatest age",
    "retired": "a newer stream",
    "rebalanced": "the relay spreads its load anew",
    "operator": "an operator ended it",
    "draining": "is being stopped or replaced",
    "upstream_ended": "ended this stream",
    "internal_error": "something failed in the relay",
}
# Those that a browser waits out; of the others a page learns the status alone.
REFUSALS = {
    "rate_limited": "too many connects within a minute",
    "too_many_failures": "too many bad keys came from",
    "too_many_streams": "too many open streams of",
    "upstream_unavailable": "can't be reached, or fails",
    "identity_unavailable": "nobody can say whose",
    "at_capacity": "is full",
    "draining": "is being stopped or replaced",
}


def table(path: str, name: str) -> dict[str, str]:
    """An exported object of texts, as it stands in a module of JavaScript."""
    text = (SOURCE / path).read_text(encoding="utf-8")
    body = re.search(rf"^export const {name} = {{\n(.*?)^}};", text, re.MULTILINE | re.DOTALL)
    assert body is not None
    pairs = re.findall(r"""^  (\w+): (["'])(.*)\2,$""", body[1], re.MULTILINE)
    return {key: words.replace("’", "'") for key, _, words in pairs}


def guide(head: str) -> dict[str, str]:
    """A table of the client guide: what each code in its first column is said to mean."""
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    rows = text.partition(head)[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", rows, re.MULTILINE))


def test_the_sets_are_those_of_the_relay() -> None:
    assert GAPS.keys() == {str(cause) for cause in GapCause}
    # Nobody is there to be told that he has left.
    assert REASONS.keys() == {str(reason) for reason in CloseReason} - {"client_gone"}
    assert REFUSALS.keys() <= {str(code) for code in RefusalCode}


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        pytest.param(GAPS, table("demo/assets/words.js", "GAPS"), id="gaps-demo"),
        pytest.param(GAPS, table("edge/console/words.js", "GAPS"), id="gaps-console"),
        pytest.param(GAPS, tail._GAPS, id="gaps-tail"),
        pytest.param(GAPS, guide("| cause | what happened |"), id="gaps-guide"),
        pytest.param(REASONS, table("demo/assets/words.js", "CLOSINGS"), id="reasons-demo"),
        pytest.param(REASONS, table("edge/console/words.js", "REASONS"), id="reasons-console"),
        pytest.param(REASONS, tail._CLOSINGS, id="reasons-tail"),
        pytest.param(REFUSALS, table("demo/assets/words.js", "REFUSALS"), id="refusals-demo"),
        pytest.param(REFUSALS, table("edge/console/words.js", "CODES"), id="refusals-console"),
    ],
)
def test_everybody_says_the_same(expected: dict[str, str], told: dict[str, str]) -> None:
    missing = {
        key: told.get(key) for key, core in expected.items() if core not in told.get(key, "")
    }
    assert missing == {}


def test_the_guide_explains_refusals_in_the_same_words() -> None:
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d{3} \| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    told = dict(rows)
    assert told.keys() | {"upstream_ended"} == {str(code) for code in RefusalCode}
    missing = {key: told[key] for key, core in REFUSALS.items() if core not in told[key]}
    assert missing == {}


def test_the_console_knows_every_refusal() -> None:
    assert table("edge/console/words.js", "CODES").keys() == {str(code) for code in RefusalCode}
