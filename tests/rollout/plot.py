"""The picture of a rollout, from its result: `python -m tests.rollout.plot` with bench/.cache/venv.

The same result gives the same bytes.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report.plots import STYLE

if TYPE_CHECKING:  # it is in an environment of its own
    from matplotlib.axes import Axes

_ROOT = Path(__file__).parents[2]
_OLD, _NEW, _BOUND = ("#b8c4cc", "#8fa3ad", "#6c828d"), ("#0b7a75", "#3a9a94", "#74bcb7"), "#b3541e"


def draw(found: dict[str, Any], path: Path) -> None:
    """Above: who came back when. Below: where the streams were."""
    import matplotlib as mpl  # noqa: PLC0415 - see above
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.use("svg")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _reconnects(above, found)
        _streams(below, found)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    # Lines that end in spaces are the library's habit.
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))


def _reconnects(axes: "Axes", found: dict[str, Any]) -> None:
    counts = found["reconnects_per_s"]
    axes.bar(range(len(counts)), counts, width=1.0, align="edge", color=_NEW[0])
    axes.axhline(found["bound"], color=_BOUND, linewidth=0.8)
    axes.text(0, found["bound"], "bound", color=_BOUND, va="bottom", fontsize=8)
    for pod in found["pods"]:
        if pod["signalled_s"] is not None:
            axes.axvline(pod["signalled_s"], color=_OLD[2], linewidth=0.8, linestyle=":")
            axes.text(
                pod["signalled_s"], found["bound"] * 1.16, f"SIGTERM {pod['name']}", fontsize=7
            )
    axes.set_ylim(0, found["bound"] * 1.25)
    axes.set_ylabel("reconnects a second")


def _streams(axes: "Axes", found: dict[str, Any]) -> None:
    replicas = found["size"]["replicas"]
    for number, pod in enumerate(found["pods"]):
        color = (_OLD if number < replicas else _NEW)[number % replicas]
        times, counts = zip(*pod["streams"], strict=True)
        axes.plot(times, counts, color=color, label=pod["name"])
    axes.legend(frameon=False, ncols=2 * replicas, fontsize=8, loc="upper center")
    axes.set_ylim(0, 1.3 * max(count for pod in found["pods"] for _, count in pod["streams"]))
    axes.set_ylabel("streams")
    axes.set_xlabel("seconds")


if __name__ == "__main__":
    result = _ROOT / "bench" / "results" / "rollout.json"
    target = sys.argv[1] if len(sys.argv) > 1 else _ROOT / "docs" / "images" / "rollout.svg"
    draw(json.loads(result.read_text()), Path(target))
