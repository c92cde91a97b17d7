"""What `tail` shows: events on stdout, one line each, and words about the connection on stderr.

It stands apart from the client so that what comes from a stranger meets the terminal in one place,
where everything that could move its cursor is taken out.
"""

import json
import shutil
import time
from fnmatch import fnmatchcase
from io import TextIOWrapper
from typing import Any, Final, NoReturn, TextIO

from lebureau_relay.core.event import Event

_TYPE_COLUMNS: Final = 18  # the longest type of the specification
_FEWEST_COLUMNS: Final = 40

# The first pattern that matches gives the colour (SGR parameters of ECMA-48).
_COLOURS: Final = (
    ("*.failed", 31),
    ("*.error", 31),
    ("*.completed", 32),
    ("*.agentReady", 32),
    ("task.review", 33),
    ("approval.*", 33),
    ("*.cancelled", 90),
    ("*.stopped", 90),
    ("task.*", 36),
    ("desktop.*", 34),
    ("*", 35),
)
# In a summary these say by their value alone what they are.
_BARE: Final = ("taskId", "approvalId", "status")
_IDS: Final = ("id", "desktopId")  # a desktop's, on the one stream and on the other
# Names of desktops, which most events leave out. An account has ten at most; this is for strangers.
_MAX_NAMES: Final = 1000

RELAY: Final = b"relay."  # what the types of the relay's own events begin with
NO_JSON: Final = object()


class Screen:
    """The two outputs: events, one line each, and words about the connection.

    `show` raises BrokenPipeError when nobody reads the events any more.
    """

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        *,
        as_json: bool = False,
        types: tuple[str, ...] = (),
        colour: bool | None = None,
    ) -> None:
        self._out = out
        self._err = err
        self._as_json = as_json
        self._types = types
        self._names: dict[str, str] = {}
        # https://no-color.org: as COLUMNS it belongs to the terminal, so it is read where that is.
        self._colour = out.isatty() if colour is None else colour
        self._columns = 0  # a file may be as wide as it likes
        if out.isatty():
            self._columns = max(shutil.get_terminal_size().columns, _FEWEST_COLUMNS)
        if isinstance(out, TextIOWrapper):
            # JSON is UTF-8 (RFC 8259, section 8.1), whatever the terminal speaks.
            out.reconfigure(encoding="utf-8" if as_json else None, errors="replace")

    def tell(self, words: str) -> None:
        """Say something about the connection."""
        self._err.write(f"{_now()}  {printable(words)}\n")
        self._err.flush()

    def show(self, event: Event) -> None:
        """Print an event, if it is of a type that was asked for.

        The relay's own are for programs only: people are told of them in words.
        """
        if event.type.startswith(RELAY) and not self._as_json:
            return
        text = (event.data or b"").decode()
        body = parse(text)
        kind = body.get("type") if isinstance(body, dict) else None
        if not isinstance(kind, str):
            kind = event.type.decode() or "message"
        if self._types and not any(fnmatchcase(kind, pattern) for pattern in self._types):
            return
        if self._as_json:
            # The text itself: Python would round big numbers and drop names that stand twice.
            data = json.dumps(text) if body is NO_JSON else text.replace("\n", " ")
            head = f'"id": {json.dumps(event.id.decode())}, "type": {json.dumps(kind)}'
            line = f'{{{head}, "data": {data}}}'
        else:
            line = self._line(kind, text if body is NO_JSON else self._summary(body))
        self._out.write(f"{line}\n")
        self._out.flush()

    def _line(self, kind: str, summary: str) -> str:
        clock, kind = _now(), printable(kind).ljust(_TYPE_COLUMNS)
        summary = printable(summary)
        left = self._columns - len(f"{clock}  {kind}  ")
        if self._columns and len(summary) > left:
            summary = summary[: max(left - 1, 0)] + "…"
        if self._colour:
            sgr = next(sgr for pattern, sgr in _COLOURS if fnmatchcase(kind.rstrip(), pattern))
            clock, kind = f"\x1b[2m{clock}\x1b[0m", f"\x1b[{sgr}m{kind}\x1b[0m"
        return f"{clock}  {kind}  {summary}"

    def _summary(self, body: Any) -> str:
        """A payload on one line: whose, what, and the rest but its times, as the line has one."""
        payload = body.get("payload") if isinstance(body, dict) else body
        if not isinstance(payload, dict):
            return _brief(payload)
        desktop = next((str(payload[name]) for name in _IDS if name in payload), "")
        if desktop and "name" in payload and len(self._names) < _MAX_NAMES:
            self._names[desktop] = str(payload["name"])
        rest = [
            f"{name}={_brief(value)}"
            for name, value in payload.items()
            if name not in (*_BARE, *_IDS, "name", "at") and not name.endswith("At")
        ]
        bare = [str(payload[name]) for name in _BARE if name in payload]
        who = str(payload.get("name", self._names.get(desktop, desktop)))
        return "  ".join(filter(None, [who, *bare, *rest]))


def parse(text: str) -> Any:
    """JSON as Python, `NO_JSON` for what is none, which Python's NaN and Infinity aren't."""

    def refuse(_constant: str) -> NoReturn:
        raise ValueError

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return NO_JSON


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def printable(text: str) -> str:
    """Text that can't move the cursor, colour the screen or begin a line of its own."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def _now() -> str:
    return time.strftime("%H:%M:%S")
