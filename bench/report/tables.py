"""Tables and verdicts: a scenario's result as Markdown. No figure is typed by hand."""

from collections.abc import Iterator

from bench.kinds import Goal, Growth
from bench.results import Numbers, Result

# metric -> heading of its column, and how it is written
COLUMNS: dict[str, tuple[str, str]] = {
    "cpu_us_per_delivery": ("CPU per delivery, µs", ".2f"),
    "cpu_us_per_event": ("CPU per upstream event, µs", ".1f"),
    "deliveries_per_s": ("deliveries/s", ",.0f"),
    "cpu_share": ("cores used", ".2f"),
    "p50_ms": ("delay p50, ms", ".2f"),
    "p99_ms": ("p99, ms", ".2f"),
    "max_ms": ("worst, ms", ".1f"),
    "calm_p99_ms": ("p99 before, ms", ".2f"),
    "live_after_s": ("all live after, s", ".2f"),
    "returned": ("came back", ",.0f"),
    "bytes_each": ("resident bytes each", ",.0f"),
    "kernel_bytes_each": ("kernel bytes each, both ends", ",.0f"),
    "resident_mb": ("resident in all, MB", ".1f"),
    "resident_before_mb": ("resident before, MB", ".1f"),
    "resident_peak_mb": ("at the peak, MB", ".1f"),
    "minutes": ("minutes", ",.3g"),
    "connects": ("connects", ",.0f"),
    "deliveries": ("deliveries", ",.0f"),
    "slope_kb_per_min": ("slope, KB/min", ".1f"),
    "noise_kb_per_min": ("its noise, KB/min", ".1f"),
    "slope_over_noise": ("slope of resident memory over its noise", ".2f"),
    "left_over": ("left over", ".0f"),
    "lost": ("lost", ".0f"),
    "out_of_order": ("out of order", ".0f"),
    "others_share": ("others on the core", ".0%"),
}


def table(result: Result) -> Iterator[str]:
    """The rows, medians of their rounds; who has none says why."""
    columns = result.scenario.columns
    first = result.scenario.unit if isinstance(result.scenario, Growth) else ""
    yield f"| {first} | " + " | ".join(_heading(result, one) for one in columns) + " |"
    yield "| --- |" + " ---: |" * len(columns)
    for row in result.rounds:
        if result.rounds[row]:
            cells = [written(result.value(row, one), one) for one in columns]
        else:
            cells = [result.absent.get(row, "not run"), *[""] * (len(columns) - 1)]
        yield f"| {row} | " + " | ".join(cells) + " |"


def notes(result: Result) -> Iterator[str]:
    """What rows that were measured have to say besides."""
    for row, why in result.absent.items():
        if result.rounds.get(row):
            yield f"- {row}: a round {why}"


def verdicts(result: Result) -> Iterator[str]:
    """Whether each goal is reached."""
    for goal in result.scenario.goals:
        yield _verdict(result, goal)


def written(value: float | None, column: str) -> str:
    """A number as its column has it."""
    kind, _, name = column.rpartition(" ")
    if value is None:
        return "–"
    return f"{value:.2f}" if kind == "×" else f"{value:{COLUMNS[name][1]}}"


def reached(result: Result, goal: Goal) -> bool | None:
    """Whether a goal is; None where it was not measured."""
    value = _value(result, goal)
    if value is None:
        return None
    return (goal.most is None or value <= goal.most) and (goal.least is None or value >= goal.least)


def _heading(result: Result, column: str) -> str:
    kind, _, name = column.rpartition(" ")
    if kind == "×":
        return f"× {result.scenario.baseline}"
    heading = COLUMNS[name][0]
    return f"{heading}, more" if kind == "more" else heading


def _value(result: Result, goal: Goal) -> float | None:
    if goal.against:
        return result.against(goal.entry, goal.against, goal.metric, lambda one, other: one / other)
    return result.value(goal.entry, goal.metric)


def _verdict(result: Result, goal: Goal) -> str:
    kind, _, name = goal.metric.rpartition(" ")
    heading = COLUMNS[name][0] + (f" more than {result.scenario.baseline}" if kind else "")
    unit = f" × {goal.against}" if goal.against else ""
    bound = (
        f"at most {goal.most:,.10g}" if goal.most is not None else f"at least {goal.least:,.10g}"
    )
    outcome = {True: "reached", False: "missed", None: "not measured"}[reached(result, goal)]
    value = written(_value(result, goal), f"× {name}" if goal.against else goal.metric)
    return f"- **{outcome}** · {goal.entry}: {heading} {value}{unit}, goal {bound}{unit}"


_REAL_TIME = "instruments_in_real_time"  # older results don't say


def place(result: Result) -> str:
    """Where and when, small."""
    machine, versions = result.machine, result.machine["versions"]
    kind = "virtual machine" if machine["virtual"] else "machine"
    counts = {len(rounds) for rounds in result.rounds.values() if rounds}
    hurried = "; clients and upstream in real time" if machine.get(_REAL_TIME) else ""
    changed = ", with changes" if machine["uncommitted"] else ""
    return (
        f"{result.started}, commit {machine['commit'][:9]}{changed}; "
        f"{max(counts, default=0)} rounds{hurried}; "
        f"{kind}, {machine['cores']} × {machine['processor']}, {machine['memory_gb']} GB, "
        f"Linux {machine['kernel']} ({machine['congestion_control']}); {_versions(versions)}; "
        f"load average at the start {result.load_average:.1f}"
    )


def _versions(versions: Numbers) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
