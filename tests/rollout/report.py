"""What a rollout at full size came to: bench/results/rollout.json, and from it alone the part of
docs/operations.md between two marks, and by `plot` a picture.
"""

import json
import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.rollout.play import Outcome

from bench import machine

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "bench" / "results" / "rollout.json"
DOCUMENT = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- rollout: begin -->", "<!-- rollout: end -->"


def facts(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data."""
    chronicle, judged = outcome.chronicle, outcome.judgement
    seconds = [int(at_s) for at_s in outcome.reconnects_s]
    away_s = chronicle.away_s
    return {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "size": asdict(outcome.size),
        "lost": judged.lost,
        "repeated": judged.repeated,
        "reordered": judged.reordered,
        "gaps": judged.gaps,
        "deliveries": judged.deliveries,
        "longest_silence_s": round(judged.longest_silence_s, 2),
        "median_silence_s": round(judged.median_silence_s, 2),
        "longest_away_s": round(max(away_s), 2),
        "median_away_s": round(statistics.median(away_s), 2),
        "goodbyes": dict(chronicle.goodbyes),
        "cuts": chronicle.cuts,
        "refusals": dict(chronicle.refusals),
        "reconnects": len(seconds),
        "busiest_second": outcome.busiest_second,
        "bound": round(outcome.bound),
        "reconnects_per_s": [seconds.count(second) for second in range(max(seconds) + 2)],
        "took_s": round(outcome.took_s, 1),
        "pods": [asdict(pod) for pod in outcome.pods],
    }


def write(found: dict[str, Any]) -> None:
    """The result, and the document's part of it. Raises ValueError where its marks are missing."""
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} has no place for the rollout: {BEGIN} … {END}")
    DOCUMENT.write_text(f"{before}{begin}\n{_part(found)}\n{end}{after}")


def _part(found: dict[str, Any]) -> str:
    size, pods = found["size"], found["pods"][: found["size"]["replicas"]]
    longest_s = max(pod["gone_s"] - pod["signalled_s"] for pod in pods)
    unready_s = max(pod["unready_s"] - pod["signalled_s"] for pod in pods)
    grace_s = size["delay_s"] + size["spread_s"] + 10
    rows = [
        ("lost, repeated, reordered", "{lost}, {repeated}, {reordered} of {deliveries} deliveries"),
        ("gaps, ends without a goodbye, refusals", f"{{gaps}}, {{cuts}}, {_sum(found)}"),
        (
            "longest silence of any client",
            "{longest_silence_s} s (median client {median_silence_s} s)",
        ),
        ("without a stream", "{longest_away_s} s at most, median {median_away_s} s"),
        ("reconnects in the busiest second", "{busiest_second} of {reconnects}; bound {bound}"),
        ("`readyz` failed after the signal", f"within {1000 * unready_s:.0f} ms"),
        ("the process was gone", f"{longest_s:.1f} s after its signal at most, of {grace_s:.0f} s"),
        ("all three replaced", "after {took_s} s"),
    ]
    table = "\n".join(f"| {what} | {text.format(**found)} |" for what, text in rows)
    day = found["ended"][:10]
    return (
        f"{size['clients']} clients of {size['feeds']} feeds, {size['rate']:g} events a second and"
        f" feed; `drain.delay` {size['delay_s']}, `drain.spread` {size['spread_s']}, `stream.retry`"
        f" {size['retry_s']}; nginx learns {size['lag_s']} s late. {day}, on"
        f" {found['machine']['cores']} shared cores, everything on them.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n"
        "![Reconnects a second, and the streams of each replica](images/rollout.svg)"
    )


def _sum(found: dict[str, Any]) -> int:
    return sum(found["refusals"].values())
