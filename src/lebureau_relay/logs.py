"""Structured logs that never wait and never tell a secret.

One line per fact, JSON for machines or coloured text for people, from structlog and from the
standard `logging` of libraries alike. It stands apart because both promises are kept in one place:

* A pipe that nobody reads stops whoever writes to it. So lines go through a bounded queue to a
  thread; what doesn't fit is counted and told later. The event loop never touches stderr.
* Credentials are kept out of log calls where they are made. Here is the second line of defence:
  everything is searched for what looks like one, whatever its spelling, before it is rendered.
"""

import logging
import os
import queue
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import structlog

MASK: Final = "***"

_QUEUE_LINES: Final = 4096  # a drain logs a line per stream; at 250 bytes each this is a megabyte
_CLOSE_S: Final = 1.0  # long enough for a slow disk, short enough not to delay an exit
_HEAD: Final = frozenset({"timestamp", "level", "logger"})  # written here, not by callers
_MAX_DEPTH: Final = 4  # facts are flat; deeper nesting is shown as text, and searched as such

# Names, or parts of names, whose value is a secret; in lower case and without separators.
_SECRET_NAMES: Final = (
    *("apikey", "authorization", "cookie", "credential"),
    *("password", "passwd", "secret", "token"),
)


def _spelled(word: str) -> str:
    """A pattern for `word` with any character percent-encoded, once or again (%5F, %255F)."""
    return "".join(
        f"(?:{re.escape(char)}|%(?:25)*(?:{ord(char.lower()):02x}|{ord(char.upper()):02x}))"
        for char in word
    )


_SEPARATOR: Final = rf"(?:[-_]|{_spelled('-')}|{_spelled('_')})?"
_NAMES: Final = "|".join(
    [rf"{_spelled('api')}{_SEPARATOR}{_spelled('key')}", *map(_spelled, _SECRET_NAMES[1:])]
)
_ASSIGN: Final = rf"(?:{_spelled('=')})"
_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # A header in text, in a dict's repr or in a pair of bytes, to the end of its value:
        # `Cookie: a=b; c=d`, (b'Cookie', b'a=b; c=d').
        r"((?:authorization|cookie|x-api-key)(?:['\"]?\s*:|['\"],)\s*(?:b?['\"])?)[^'\"\r\n]+",
        # apiKey=…, access_token=…, and their percent-encoded spellings.
        rf"((?:{_NAMES})[\w.~-]*{_ASSIGN})[^\s&;,'\"<>)\]}}]+",
        # Session cookies by the prefixes that browsers reserve (RFC 6265bis, section 4.1.3).
        r"(__(?:host|secure)-[^=\s;]{1,256}=)[^\s;,'\"]+",
        r"(\bbearer\s+)[^\s,'\"]+",
        # User and password of an address: redis://user:password@host.
        r"(\b[a-z][a-z0-9+.-]{0,32}://)[^\s/'\"]+(?=@)",
        # The API's keys, wherever they stand.
        rf"(){_spelled('lb')}{_spelled('_')}{_spelled('k')}{_spelled('_')}[\w%.~+/=-]+",
    )
)


# What all of the patterns need somewhere. A drain logs thousands of lines on the loop's time, and
# nearly every fact passes here in a microsecond.
_SUSPECT: Final = re.compile(r"[=%:]|_k_|bearer|['\"],", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with everything that looks like a credential replaced by `***`."""
    if not _SUSPECT.search(text):
        return text
    for pattern in _PATTERNS:
        text = pattern.sub(_masked, text)
    return text


def _masked(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}"


class Redaction:
    """The processor that keeps secrets out of a line. `names` adds to those that carry secrets."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        secret = filter(None, map(_folded, (*_SECRET_NAMES, *names)))
        self._names_secret = re.compile("|".join(map(re.escape, secret))).search

    def __call__(
        self, _logger: object, _method: str, facts: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """The facts of one line, cleaned."""
        return {
            name: value if name in _HEAD else self._clean(name, value)
            for name, value in facts.items()
        }

    def _clean(self, name: str, value: object, depth: int = 0) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if self._names_secret(_folded(name)):
            return MASK
        if depth < _MAX_DEPTH and isinstance(value, Mapping):
            return {redact(str(k)): self._clean(str(k), v, depth + 1) for k, v in value.items()}
        if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
            return [self._clean("", item, depth + 1) for item in value]
        return redact(str(value))


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def configure(
    level: str,
    fmt: Literal["auto", "console", "json"],
    stream: TextIO | None = None,
    secret_names: Iterable[str] = (),
) -> "QueuedHandler":
    """Send all logs of this process to `stream` (None: stderr); a second call replaces the first.

    `level` is a name of the standard library in any case; libraries are heard from `warning` on.
    `secret_names` are settings such as the key's header and query parameter. The handler returned
    knows how many lines were dropped; its `close` writes what waits.
    """
    stream = stream or sys.stderr
    console = fmt == "console" or (fmt == "auto" and stream.isatty())
    handler = QueuedHandler(stream)
    handler.setFormatter(_formatter(secret_names, colours=stream.isatty() if console else None))
    root = logging.getLogger()
    for former in [h for h in root.handlers if isinstance(h, QueuedHandler)]:
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    ours = logging.getLogger(__package__)
    ours.setLevel(level.upper())
    root.setLevel(max(ours.level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    return handler


def take_last_words() -> None:
    """Let the log tell, redacted, what Python itself would print to stderr: failures of threads,
    and those that nobody can catch. For a process that is a relay's alone.
    """

    def tell(event: str, error: BaseException | None) -> None:
        structlog.get_logger(__name__).error(event, exc_info=error)

    sys.unraisablehook = lambda facts: tell("failure.unraisable", facts.exc_value)
    threading.excepthook = lambda facts: tell("failure.thread", facts.exc_value)


def _formatter(
    secret_names: Iterable[str], *, colours: bool | None
) -> structlog.stdlib.ProcessorFormatter:
    """What makes a line of a record; `colours` None: JSON."""
    tail: list[structlog.typing.Processor] = [structlog.processors.JSONRenderer()]
    if colours is not None:
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)
        tail = [_printable, renderer]
    return structlog.stdlib.ProcessorFormatter(
        processors=[_headed, structlog.processors.format_exc_info, Redaction(secret_names), *tail]
    )


def _headed(
    _logger: object, _method: str, facts: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The facts behind the four that every line has, whichever library spoke."""
    record: logging.LogRecord = facts.pop("_record")
    facts.pop("_from_structlog")
    return {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": facts.pop("event"),
        **facts,
    }


def _printable(
    _logger: object, _method: str, facts: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Control characters escaped: a client's header must not forge lines or steer a terminal."""
    return {
        name: value
        if name == "exception" or not isinstance(value, str) or value.isprintable()
        else value.encode("unicode_escape").decode("ascii")
        for name, value in facts.items()
    }


class QueuedHandler(logging.Handler):
    """A log handler that renders at once and writes later, from a thread of its own.

    Not the standard QueueHandler and QueueListener: they can neither be stopped while the stream is
    stuck nor count what they lose.
    """

    def __init__(self, stream: TextIO, capacity: int = _QUEUE_LINES) -> None:
        super().__init__()
        self._write = _writer_to(stream)
        self._lines: queue.Queue[str | None] = queue.Queue(capacity)
        self._untold = 0
        self.dropped = 0
        # A daemon: a reader that has gone for good must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or count it as dropped. Never waits, never raises."""
        try:
            if self._untold:
                self._lines.put_nowait(self.format(self._confession()))
                self._untold = 0
            self._lines.put_nowait(self.format(record))
        except Exception:  # noqa: BLE001 - a full queue or an odd fact is no trouble of the caller
            self.dropped += 1
            self._untold += 1

    def close(self) -> None:
        """Write what waits, for a second at most."""
        deadline = time.monotonic() + _CLOSE_S
        with suppress(queue.Full):
            if self._untold:
                self._lines.put(self.format(self._confession()), timeout=_CLOSE_S)
            self._lines.put(None, timeout=max(0.0, deadline - time.monotonic()))
            self._thread.join(max(0.0, deadline - time.monotonic()))
        super().close()

    def _confession(self) -> logging.LogRecord:
        (facts,), rest = structlog.stdlib.ProcessorFormatter.wrap_for_formatter(
            logging.getLogger(__name__), "warning", {"event": "log.dropped", "lines": self._untold}
        )
        origin = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
        return logging.makeLogRecord({**origin, "msg": facts, **rest["extra"]})

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(f"{line}\n")
            except (OSError, ValueError):  # the pipe or file has gone, or was closed
                self.dropped += 1


def _writer_to(stream: TextIO) -> Callable[[str], None]:
    """A function that writes text to the stream, through its descriptor where it has one.

    Python's own stderr takes a lock for each write; a thread that is stuck in it when the
    interpreter ends makes it abort. Writing to the descriptor takes none.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):

        def to_object(text: str) -> None:
            stream.write(text)
            stream.flush()

        return to_object

    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)

    def to_descriptor(text: str) -> None:
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        while rest:
            ready.poll()  # a terminal or pipe may have been made non-blocking by who shares it
            with suppress(BlockingIOError):
                rest = rest[os.write(descriptor, rest) :]

    return to_descriptor
