"""What docs/operations.md says of Redis, for tests to hold the servers to: what an operator copies
from there is what is tried.
"""

import re
from pathlib import Path

_PAGE = Path(__file__).parents[2].joinpath("docs", "operations.md").read_text()


def _found(pattern: str) -> str:
    (found,) = re.findall(pattern, _PAGE, re.MULTILINE)
    return str(found)


# What the relay's user may do, and what more on a cluster.
RIGHTS = _found(r"^user relay on >password (~lbr.*)$")
RIGHTS_IN_CLUSTER = _found(r"^(\+ssubscribe .*)$")
# The last part of every name, but of those that a server is tried with.
KINDS = set(
    re.findall(
        r"^\| (?:feed|identity|address|`upstream-401s`|`replicas`) \| `(\w+)`", _PAGE, re.MULTILINE
    )
)
