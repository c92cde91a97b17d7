"""Every scenario at full size, as a program: `python -m tests.replicas.chaos [NAME …]`.

200 feeds and 1000 clients over three replicas take minutes and both cores, so this is not part of
`make test`; the same scenarios run there at a tenth of the size.
"""

import sys

import uvloop
from tests.replicas.scenarios import CI, FULL, SCENARIOS, Outcome, play


def main(names: list[str]) -> int:
    """Exit code 0 if nothing was lost, repeated or reordered."""
    size = CI if "--small" in names else FULL
    names = [name for name in names if name != "--small"]
    outcomes: list[Outcome] = []
    for name in names or SCENARIOS:
        outcome = uvloop.run(play(SCENARIOS[name], size))
        print(outcome, flush=True)  # noqa: T201 - a program that is run by hand
        outcomes.append(outcome)
    print(table(outcomes))  # noqa: T201
    return 0 if all(one.judgement.clean and not one.violations for one in outcomes) else 1


def table(outcomes: list[Outcome]) -> str:
    """What it came to, for people."""
    heads = ("scenario", "lost", "repeated", "reordered", "gaps", "longest silence")
    heads += ("median client", "upstreams of a feed", "stale appends")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in outcomes:
        judged = one.judgement
        lines.append(
            f"| {one.name} | {judged.lost} | {judged.repeated} | {judged.reordered} "
            f"| {judged.gaps} | {judged.longest_silence_s:.2f} s | {judged.median_silence_s:.2f} s "
            f"| {one.most_upstreams} | {len(one.violations)} of {one.appends} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
