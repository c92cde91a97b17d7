"""What stands between two marks of a document that people write: the README's short table, and what
the capacity guide calculates with.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.report import capacity
from bench.report.tables import written
from bench.results import Result, load_all

README = Path(__file__).parents[2] / "README.md"
CAPACITY = Path(__file__).parents[2] / "docs" / "capacity.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def write_readme(path: Path = README) -> None:
    """Put the table of the results between the marks. Raises ValueError where they are missing."""
    _write(path, short_table({one.scenario.name: one for one in load_all()}))


def write_capacity(path: Path = CAPACITY) -> None:
    """Calculate the guide's tables anew. Raises ValueError where its marks are missing."""
    _write(path, capacity.tables({one.scenario.name: one for one in load_all()}))


def _write(path: Path, lines: Iterable[str]) -> None:
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no place for the table: {BEGIN} … {END}")
    body = "\n".join(lines)
    path.write_text(f"{before}{begin}\n{body}\n{end}{after}")


def short_table(results: Mapping[str, Result]) -> Iterator[str]:
    """One row for each idea that was measured."""
    rows = [
        f"| {what} | {_filled(results[name], figure)} | {_filled(results[name], beside)} |"
        for name, what, figure, beside in _ROWS
        if name in results and results[name].rounds.get("relay")
    ]
    if rows:
        yield "| on one core | relay | beside it |"
        yield "| --- | --- | --- |"
        yield from rows


# A part in [row: metric] is filled in; against another row it is [row / other: metric].
_ROWS = (
    (
        "spaced",
        "CPU per delivery, 1000 subscribers",
        "[relay: cpu_us_per_delivery] µs",
        (
            "[relay / sendloop: cpu_us_per_delivery] × the kernel's `send()`, "
            "[relay / nchan: cpu_us_per_delivery] × nchan"
        ),
    ),
    (
        "burst",
        "deliveries a second, in bursts",
        "[relay: deliveries_per_s]",
        "[relay / nchan: deliveries_per_s] × nchan",
    ),
    (
        "users",
        "1000 users × 5 tabs, 25 000 deliveries/s",
        "[relay: cpu_share] core; delay p50 [relay: p50_ms] ms, p99 [relay: p99_ms] ms",
        "",
    ),
    (
        "idle-streams",
        "resident bytes per idle stream",
        "[relay: bytes_each]",
        "nchan [nchan: bytes_each]",
    ),
    (
        "idle-feeds",
        "the same per idle feed, its upstream connection included",
        "[relay: bytes_each]",
        "with TLS [relay, TLS upstream: bytes_each]",
    ),
    (
        "storm",
        "10 000 reconnects at once, 100 events to replay each",
        "live after [relay: live_after_s] s",
        "at the peak [relay: resident_peak_mb] MB",
    ),
)


def _filled(result: Result, text: str) -> str:
    head, begin, rest = text.partition("[")
    if not begin:
        return text
    asked, _, tail = rest.partition("]")
    return head + _figure(result, asked) + _filled(result, tail)


def _figure(result: Result, asked: str) -> str:
    row, _, metric = asked.partition(": ")
    row, _, other = row.partition(" / ")
    if not other:
        return written(result.value(row, metric), metric)
    return written(result.against(row, other, metric, lambda one, base: one / base), f"× {metric}")
