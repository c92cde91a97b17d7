"""The document: docs/performance.md, written from the results and from nothing else.

No figure in it is typed by hand; who doubts one finds the rounds in bench/results.
"""

from collections.abc import Iterator
from pathlib import Path

from bench.kinds import Goal
from bench.results import Numbers, Result, load_all

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"

# metric -> heading of its column, and how it is written
_COLUMNS: dict[str, tuple[str, str]] = {
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
    "resident_mb": ("resident in all, MB", ".1f"),
    "resident_before_mb": ("resident before, MB", ".1f"),
    "resident_peak_mb": ("at the peak, MB", ".1f"),
    "lost": ("lost", ".0f"),
    "out_of_order": ("out of order", ".0f"),
    "others_share": ("others on the core", ".0%"),
}
_OPENING = """# Performance

What the whole relay costs: a real upstream over HTTP, history, metrics and limits on, as one
process on one core; against peers on the same core in the same run. **Generated** by `make bench`
from `bench/results`; edit nothing here.

```
make bench                      # everything, some twenty minutes
make bench SCENARIO=spaced      # one scenario
.venv/bin/python -m bench --help
```

How it is measured: the server has a core to itself, as far as the machine lets it; the clients (one
C process on epoll) and upstream have the others. CPU is what the kernel charged to the server's
processes (utime + stime). Each event carries a number and a time stamp: the number must follow the
one before it on every single connection; the delay is from just before upstream's `send()` to just
after the client's `read()`. A finite number of events is sent, so what is missing was lost.
Contestants take turns within a round; figures are medians of the rounds, ratios are taken within a
round first. "Others on the core" is how much of the server's core was busy with something else:
where it is high, believe the ratios only, and the delays not at all. A round that others disturbed
is repeated (`--patience`), and the least disturbed try counts.

Contestants: `relay` is this project. `sendloop` is a plain C loop with one `send()` per event and
client, no history and no limits: the kernel's price. `nchan` is nginx with Debian's module, fed by
POST. `aiohttp-sse` is a relay as one writes it with that library, a queue per client. Their code
and configuration are in `bench/c` and `bench/peers`.
"""


def write_document() -> None:
    """Write the document anew."""
    DOCUMENT.write_text("\n".join([_OPENING, *(line for one in load_all() for line in _part(one))]))


def show(result: Result) -> None:
    """The table, for whoever watches."""
    for line in [*_table(result), *(_verdict(result, goal) for goal in result.scenario.goals)]:
        print(line)


def _part(result: Result) -> Iterator[str]:
    scenario = result.scenario
    yield f"## {scenario.title}\n"
    yield f"{scenario.about}\n"
    yield from _table(result)
    yield ""
    for goal in scenario.goals:
        yield _verdict(result, goal)
    yield f"\n<sub>{_place(result)}</sub>\n"


def _table(result: Result) -> Iterator[str]:
    columns = result.scenario.columns
    yield "| | " + " | ".join(_heading(result, one) for one in columns) + " |"
    yield "| --- |" + " ---: |" * len(columns)
    for row in result.rounds:
        if result.rounds[row]:
            cells = [_written(result.value(row, one), one) for one in columns]
        else:
            cells = [result.absent.get(row, "not run"), *[""] * (len(columns) - 1)]
        yield f"| {row} | " + " | ".join(cells) + " |"


def _heading(result: Result, column: str) -> str:
    kind, _, name = column.rpartition(" ")
    if kind == "×":
        return f"× {result.scenario.baseline}"
    if kind == "more":
        return f"more than {result.scenario.baseline}"
    return _COLUMNS[name][0]


def _written(value: float | None, column: str) -> str:
    kind, _, name = column.rpartition(" ")
    if value is None:
        return "–"
    return f"{value:.2f}" if kind == "×" else f"{value:{_COLUMNS[name][1]}}"


def _verdict(result: Result, goal: Goal) -> str:
    if goal.against:
        value = result.against(
            goal.entry, goal.against, goal.metric, lambda one, other: one / other
        )
        written, unit = _written(value, f"× {goal.metric}"), f" × {goal.against}"
    else:
        value = result.value(goal.entry, goal.metric)
        written, unit = _written(value, goal.metric), ""
    bound = f"at most {goal.most:,g}" if goal.most is not None else f"at least {goal.least:,g}"
    heading = _COLUMNS[goal.metric.rpartition(" ")[2]][0]
    if value is None:
        return f"- {heading}: {bound}{unit} – not measured"
    met = (goal.most is None or value <= goal.most) and (goal.least is None or value >= goal.least)
    return f"- {heading}: {bound}{unit} – **{'reached' if met else 'missed'}**, {written}"


def _place(result: Result) -> str:
    """Where and when, small."""
    place, versions = result.machine, result.machine["versions"]
    kind = "virtual machine" if place["virtual"] else "machine"
    counts = {len(rounds) for rounds in result.rounds.values() if rounds}
    changed = ", with changes" if place["uncommitted"] else ""
    return (
        f"{result.started}, commit {place['commit'][:9]}{changed}; "
        f"{max(counts, default=0)} rounds; "
        f"{kind}, {place['cores']} × {place['processor']}, {place['memory_gb']} GB, "
        f"Linux {place['kernel']} ({place['congestion_control']}); {_versions(versions)}; "
        f"load average at the start {result.load_average:.1f}"
    )


def _versions(versions: Numbers) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
