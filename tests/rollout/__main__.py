"""The rollout at full size: `python -m tests.rollout [--small]`. Minutes and both cores, so it is
not part of `make test`. Writes bench/results/rollout.json and what is made of it.
"""

import subprocess
import sys

import uvloop
from bench.report import PYTHON
from tests.rollout import report
from tests.rollout.play import FULL, SMALL, play


def main(small: bool) -> int:  # noqa: FBT001 - the program's one option
    """Exit code 0 if nobody noticed."""
    outcome = uvloop.run(play(SMALL if small else FULL))
    found = report.facts(outcome)
    print({name: one for name, one in found.items() if not isinstance(one, list)})  # noqa: T201
    for example in outcome.judgement.examples:
        print(example)  # noqa: T201
    if not small:
        report.write(found)
        if PYTHON.exists():
            subprocess.run((PYTHON, "-m", "tests.rollout.plot"), cwd=report.ROOT, check=True)
    herd = outcome.busiest_second > outcome.bound
    bad = found["cuts"] or found["refusals"] or found["gaps"] or herd
    return 0 if outcome.judgement.clean and not bad else 1


if __name__ == "__main__":
    sys.exit(main("--small" in sys.argv))
