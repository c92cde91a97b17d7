"""The document: docs/performance.md, written from the results and from nothing else.

Who doubts a figure in it finds the rounds in bench/results.
"""

from collections.abc import Iterator
from pathlib import Path

from bench.report import tables
from bench.results import Result, load_all

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = DOCS / "performance.md"
IMAGES = DOCS / "images"

_OPENING = """# Performance

What the whole relay costs: a real upstream over HTTP, history, metrics and limits on, as one
process on one core; against peers on the same core in the same run. **Generated** by `make bench`
from `bench/results`; edit nothing here.

```console
$ make bench                      # everything but the soak, about an hour
$ make bench SCENARIO=spaced      # one scenario, or several: SCENARIO='spaced burst'
$ make soak MINUTES=30            # clients that come and go for so long
$ .venv/bin/python -m bench --help
```

It installs what it needs: Debian's packages as root, the Go programs and a Python environment into
`bench/.cache`. What can't be had is a sentence in the table.

How it is measured: the server has a core to itself, as far as the machine lets it; the clients (one
C process on epoll) and upstream have the others, in real time (SCHED_RR) where that is allowed: with
two cores they share one, and a delay should be the server's, not of waiting for that core. The server
never is, nor is what it needs besides. The line under each table says so where it was so. CPU is what the kernel charged to all processes of
the server (utime + stime). Each event carries a number and a time stamp: the number must follow the
one before it on every single connection; the delay is from just before upstream's `send()` to just
after the client's `read()`. A finite number of events is sent, so what is missing was lost.
Contestants take turns within a round; figures are medians of the rounds, ratios are taken within a
round first. "Others on the core" is how much of the server's core was busy with something else:
where it is high, believe the ratios only, and the delays not at all. A round that others disturbed
is repeated (`--patience`), and the least disturbed try counts.

| contestant | what it is here |
| --- | --- |
| relay | this project |
| sendloop | a plain C loop with one `send()` per event and client, no history and no limits: the kernel's price |
| nchan | nginx with Debian's module, one channel, published to by POST |
| pushpin | Debian's, published to by its ZeroMQ socket; all four processes |
| nginx-proxy | Debian's nginx as a plain proxy: one upstream stream per client, no sharing, no replay |
| mercure | the hub without its Caddy and without a history on disk, published to by POST |
| centrifugo | unidirectional SSE, history in memory, published to by its HTTP API |
| aiohttp-sse | a relay as one writes it with that library, a queue per client |
| sse-starlette | the same on uvicorn with uvloop and httptools |

Their code and configuration are in `bench/c` and `bench/peers`.
"""  # noqa: E501 - the rows of a table


def write_document() -> None:
    """Write the document anew."""
    parts = (line for one in load_all() for line in _part(one))
    DOCUMENT.write_text("\n".join([_OPENING, *parts]))


def _part(result: Result) -> Iterator[str]:
    scenario = result.scenario
    yield f"## {scenario.title}\n"
    yield f"{scenario.about}\n"
    yield from tables.table(result)
    yield ""
    image = IMAGES / f"performance-{scenario.name}.svg"
    if image.exists():
        yield f"![{scenario.title}](images/{image.name})\n"
    yield from tables.notes(result)
    yield from tables.verdicts(result)
    yield f"\n<sub>{tables.place(result)}</sub>\n"
