"""What `tail` shows: events on stdout, one line each, and words about the connection on stderr;
below them, where both are a terminal, the status line.

It stands apart from the client so that what comes from a stranger meets the terminal in one place,
where everything that could move its cursor is taken out.
"""

import asyncio
import json
import os
import re
import select
import shutil
import time
from fnmatch import fnmatchcase
from io import TextIOWrapper
from typing import Any, Final, NoReturn, TextIO

from lebureau_relay.core.event import Event
from lebureau_relay.tail.cells import cut, pad, width
from lebureau_relay.tail.status import TICK_S, Link, StatusLine

_TYPE_COLUMNS: Final = 18  # the longest type of the specification
# On a terminal narrower than this types don't stand in a column.
_NARROW: Final = 60

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
        is_able = out.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = is_able if colour is None else colour
        self._status: StatusLine | None = None
        if is_able and err.isatty():  # else what reads us writes there, too
            self._status = StatusLine(err, self._columns, colour=self._colour)
        self._pipe = select.poll()
        if not out.isatty() and hasattr(out, "buffer"):
            self._pipe.register(out, 0)  # errors alone, which need not be asked for
        if isinstance(out, TextIOWrapper):
            # JSON is UTF-8 (RFC 8259, section 8.1), whatever the terminal speaks.
            out.reconfigure(encoding="utf-8" if as_json else None, errors="replace")

    def tell(self, words: str) -> None:
        """Say something about the connection."""
        self._write(self._err, f"{_now()}  {printable(words)}")

    def stand(self, link: Link, words: str, for_s: float = 0.0) -> None:
        """The connection stands so now, for so long if that is known."""
        if self._status is not None:
            self._status.stand(link, printable(words), for_s)

    def close(self) -> None:
        """Leave the terminal as it was found; what is told afterwards is told without a status."""
        status, self._status = self._status, None
        if status is not None:
            self._err.write(status.wiped())
            self._err.flush()

    async def tick(self) -> NoReturn:
        """Keep the status line true. Raises BrokenPipeError when nobody reads the events any more,
        also where none come.
        """
        while True:
            await asyncio.sleep(TICK_S)
            if self._status is not None:
                self._status.draw()
            if self._pipe.poll(0):
                raise BrokenPipeError

    def _write(self, where: TextIO, line: str) -> None:
        """A line, above the status line."""
        status = self._status
        where.write(f"{status.wiped() if status else ''}{line}\n")
        where.flush()
        if status is not None:
            status.draw()

    def _columns(self) -> int:
        return shutil.get_terminal_size().columns

    def show(self, event: Event) -> None:
        """Print an event, if it is of a type that was asked for.

        The relay's own are for programs only: people are told of them in words.
        """
        if not event.type.startswith(RELAY):
            if self._status is not None:
                self._status.count()
        elif not self._as_json:
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
            data = json.dumps(text) if body is NO_JSON else _ESCAPED.sub(_escape, text)
            head = f'"id": {json.dumps(event.id.decode())}, "type": {json.dumps(kind)}'
            line = f'{{{head}, "data": {data}}}'
        else:
            line = self._line(kind, text if body is NO_JSON else self._summary(body))
        self._write(self._out, line)

    def _line(self, kind: str, summary: str) -> str:
        clock, kind, summary = _now(), printable(kind), printable(summary)
        sgr = next(sgr for pattern, sgr in _COLOURS if fnmatchcase(kind, pattern))
        if self._out.isatty():
            columns = self._columns()
            kind = cut(kind, columns - width(f"{clock}  "))
            kind = kind if columns < _NARROW else pad(kind, _TYPE_COLUMNS)
            summary = cut(summary, columns - width(f"{clock}  {kind}  "))
        else:  # a file may be as wide as it likes
            kind = pad(kind, _TYPE_COLUMNS)
        if self._colour:
            clock, kind = f"\x1b[2m{clock}\x1b[0m", f"\x1b[{sgr}m{kind}\x1b[0m"
        return f"{clock}  {kind}  {summary}" if summary else f"{clock}  {kind}"

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


# In JSON's text line feeds are blanks, and what a terminal could take for an order stands in
# strings, where it may as well be escaped (RFC 8259, section 7).
_ESCAPED: Final = re.compile(r"[^ -~]")


def _escape(found: re.Match[str]) -> str:
    each = found.group()
    if each in "\n\t":
        return " "
    return each if each.isprintable() else json.dumps(each)[1:-1]


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def printable(text: str) -> str:
    """Text that can't move the cursor, colour the screen or begin a line of its own."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def _now() -> str:
    return time.strftime("%H:%M:%S")
