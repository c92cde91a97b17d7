"""What is made of the results: plots, docs/performance.md, tables of README and capacity guide."""

import subprocess
import sys
from pathlib import Path

from bench.report import tables
from bench.report.document import write_document
from bench.report.readme import write_capacity, write_readme
from bench.results import Result

_ROOT = Path(__file__).parents[2]
_PYTHON = Path(__file__).parents[1] / ".cache" / "venv" / "bin" / "python"


def show(result: Result) -> None:
    """The table, for whoever watches."""
    for line in (*tables.table(result), *tables.notes(result), *tables.verdicts(result)):
        print(line)


def write_report() -> None:
    """Everything anew from bench/results."""
    if _PYTHON.exists():
        subprocess.run((_PYTHON, "-m", "bench.report.plots"), cwd=_ROOT, check=True)
    else:
        print("bench: no new plots, matplotlib comes by bench/tools.sh", file=sys.stderr)
    write_document()
    write_readme()
    write_capacity()
