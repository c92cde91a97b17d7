"""Plots of the results, one idea each: `python -m bench.report.plots` with bench/.cache/venv.

The same results give the same bytes, so that a run changes only what it measured.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.kinds import Growth, Soak
from bench.report.document import IMAGES
from bench.report.tables import COLUMNS
from bench.results import Result, load_all

if TYPE_CHECKING:  # it is in an environment of its own
    from matplotlib.axes import Axes

_OURS, _OTHERS, _INK = "#0b7a75", "#b8c4cc", "#333333"
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": _OTHERS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
}


def draw_all(folder: Path, results: list[Result]) -> list[Path]:
    """A file for each result that has something to show."""
    import matplotlib as mpl  # noqa: PLC0415 - see above

    mpl.use("svg")
    with mpl.rc_context(STYLE):
        paths = [_draw(result, folder) for result in results]
    return [path for path in paths if path is not None]


def _draw(result: Result, folder: Path) -> Path | None:
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = [row for row, rounds in result.rounds.items() if rounds]
    figure: Any = Figure(figsize=(6.4, 2.6), layout="constrained")
    # Browsers have other fonts than the one that was measured with.
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.08)
    axes = figure.add_subplot()
    match result.scenario:
        case Growth() if len(rows) > 1:
            _growth(axes, result, rows)
        case Soak() if rows:
            _soak(axes, result, rows[0])
        case scenario if scenario.plot and len(rows) > 1:
            _bars(axes, result, rows, scenario.plot)
        case _:
            return None
    path = folder / f"performance-{result.scenario.name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    # Lines that end in spaces are the library's habit.
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))
    return path


def _bars(axes: "Axes", result: Result, rows: list[str], metric: str) -> None:
    """Contestants from best to worst; more of a rate is better, of everything else less."""
    heading, form = COLUMNS[metric]
    values = {row: result.value(row, metric) or 0.0 for row in rows}
    order = sorted(values, key=lambda row: values[row], reverse=not metric.endswith("_per_s"))
    bars = axes.barh(
        order,
        [values[row] for row in order],
        color=[_OURS if row == "relay" else _OTHERS for row in order],
        height=0.7,
    )
    axes.bar_label(bars, labels=[f"{values[row]:{form}}" for row in order], padding=3)
    lossy = [row for row in order if result.value(row, "lost")]
    axes.set_yticks(range(len(order)), [f"{row}*" if row in lossy else row for row in order])
    axes.margins(x=0.15)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(heading + (" (* lost events)" if lossy else ""))
    axes.tick_params(axis="y", length=0)


def _growth(axes: "Axes", result: Result, rows: list[str]) -> None:
    """One line, with the rounds it is the median of."""
    scenario = result.scenario
    assert isinstance(scenario, Growth)
    heading, _ = COLUMNS[scenario.metric]
    points = [(r["at"], r[scenario.metric]) for row in rows for r in result.rounds[row]]
    axes.scatter(*zip(*points, strict=True), color=_OTHERS, s=14, zorder=2)
    at = [result.rounds[row][0]["at"] for row in rows]
    axes.plot(at, [result.value(row, scenario.metric) or 0 for row in rows], "o-", color=_OURS)
    axes.set_xscale("log")
    axes.set_xticks(at, [f"{one:,}" for one in at])
    axes.minorticks_off()
    axes.set_ylim(0, 1.15 * max(value for _, value in points))
    axes.set_xlabel(scenario.unit)
    axes.set_ylabel(heading)


def _soak(axes: "Axes", result: Result, row: str) -> None:
    """Memory over time."""
    samples = result.rounds[row][0]["samples"]
    axes.plot([one["s"] / 60 for one in samples], [one["mb"] for one in samples], color=_OURS)
    axes.set_ylim(0, 1.15 * max(one["mb"] for one in samples))
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident, MB")


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES, load_all())
