"""What client libraries are known to make of the standard, through the relay; everything else they
read as it says. The document for users is made of this table.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.conformance.cases import ODD, STANDARD

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
# By reader, then by case: what it makes of it. A reader that gets well must be taken off.
DEVIATIONS: dict[str, dict[str, str]] = {
    "Chromium": {},
    "eventsource": {},
    "undici": {},
    "fetch-event-source": {
        "data without a colon is a line, an unfinished block is nothing": (
            "an empty first line of data is lost"
        ),
        "a BOM in data stays": "one at the beginning of a line of data is lost",
    },
    "httpx-sse": {},
    "sseclient-py": {},
    "requests": {},
    "aiohttp": {},
    "curl": {},
}
_HEAD = """\
# Conformance

How the HTML standard's event stream ([section
9.2](https://html.spec.whatwg.org/multipage/server-sent-events.html)) fares on its way from
upstream's bytes through the
relay to an application. **Generated** by `python -m tests.conformance` from the tables in
`tests/conformance`, which `make test` plays: upstream says each case one byte at a
time, its connection ends, and each library, in its own program and with its own connection, must
hear what the standard dispatches, with its type, data and last event id.

What libraries make of odd bytes when they read the API themselves differs. Through the relay they
all get one canonical form (LF, `field: value`, valid UTF-8, an id on
every event, no block without data), which is why this table is nearly empty. The
last three have no parser: a few lines of a script read `field: value` up to the blank line, which
is all that the form asks for.

| library | of {count} cases | but |
| --- | --- | --- |
"""
_MIDDLE = """
An `EventSource` through the relay, in a real Chromium (`tests/conformance/test_eventsource.py`,
`tests/e2e/test_browser.py`): comes back after every end, and
through redirects; names its last id, also one that it has only from the relay's goodbye; stops
for ever on 204, 401, 403 and on what is no event stream; is told 429 and
503 softly and comes back; reads UTF-8; is kept from pages of other origins unless they are
allowed, with and without credentials.

## The cases

| case | bytes |
| --- | --- |
"""


def document() -> str:
    """The text of docs/conformance.md."""
    cases = STANDARD + ODD
    rows = [*_libraries(len(cases))]
    listed = [f"| {name} | `{_shown(stream)}` |" for name, stream, *_ in cases]
    return (
        _HEAD.format(count=len(cases)) + "\n".join(rows) + "\n" + _MIDDLE + "\n".join(listed) + "\n"
    )


def _libraries(count: int) -> Iterator[str]:
    for reader, known in DEVIATIONS.items():
        but = "; ".join(f"{what} ({name})" for name, what in known.items())
        yield f"| {reader} | {count - len(known)} | {but} |"


def _shown(stream: bytes) -> str:
    """Bytes as a table can hold them."""
    return ascii(stream)[2:-1].replace("|", "\\|").replace("`", "'") or " "
