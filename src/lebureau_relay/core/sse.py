"""Server-Sent Events as bytes: the Decoder for what upstream sends, and the encoders for what
clients get.

The decoder is the HTML standard's event stream interpretation (section 9.2.6), with limits, and
with one thing added: it names every event, by upstream's id or by the derived form. The encoders
write the one canonical form that every client library reads alike: LF only, `field: value` with the
space, `id`, `event`, `data`, one blank line, and never a block without data.
"""

import json
import re
from collections.abc import Mapping
from typing import Self

from lebureau_relay.core.event import MAX_ID_BYTES, Event, derived_id

_BOM = b"\xef\xbb\xbf"
_BLANK = b"\n\n"
# Lines of no consequence: within a block comments, between blocks blank ones too. Possessive, so
# that a chunk of nothing else costs no memory for ways back.
_COMMENTS = re.compile(rb"(?::[^\n]*+\n)*+")
_IDLE = re.compile(rb"(?:\n|:[^\n]*+\n)*+")
# What nearly every chunk of a live stream is: one whole event, its fields in the usual order.
_USUAL = re.compile(
    rb"(?:id: ?([^\r\n]*)\n)?(?:event: ?([^\r\n]*)\n)?data: ?([^\r\n]*)\n\n"
).fullmatch
_COMMENT_LINE = re.compile(rb"^:[^\n]*+\n?", re.MULTILINE)
# While an oversize block is passed over, only its id lines matter; a longer one couldn't be used as
# an id anyway.
_MAX_KEPT_LINE_BYTES = MAX_ID_BYTES + 16
# `retry:` is a wait that upstream chooses for us; more digits than this are centuries, and slow to
# convert.
_MAX_RETRY_DIGITS = 12

HEARTBEAT = b":\n"
LAST_CHUNK = b"0\r\n\r\n"


class Decoder:
    """Bytes in, events out, whatever the chunking.

    `last_id` is the cursor that was asked for: the standard's last event id at the start of the
    connection. A block bigger than `max_event_bytes` comes out as an event whose data is None, with
    its id. Never raises on any input.
    """

    __slots__ = (
        "_after_cr",
        "_discarding",
        "_head",
        "_in_comment",
        "_max_event_bytes",
        "_parts",
        "_retry_ms",
        "_since",
        "_size_bytes",
        "_started",
        "comments",
        "last_id",
    )

    def __init__(self, max_event_bytes: int, last_id: bytes = b"") -> None:
        self.comments = False  # whether a comment was seen: upstream keeps idle streams alive
        self._max_event_bytes = max_event_bytes
        self._retry_ms: int | None = None
        self.last_id = last_id  # of upstream's ids, the last that can be used as a cursor
        self._since = 0  # events without an id of their own since that one
        self._head = b""  # the first bytes, until it is known whether they are a BOM
        self._started = False
        # the last byte was a CR, taken as a line end at once; an LF now is its second half
        self._after_cr = False
        self._in_comment = False  # what comes up to the next line end is of no consequence
        self._parts: list[bytes] = []  # an unfinished block
        self._size_bytes = 0
        # set: the block is oversize, `_parts` is its unfinished line
        self._discarding: _Discarded | None = None

    @property
    def retry_ms(self) -> int | None:
        """The last `retry:` seen, in milliseconds. It counts from the end of its line: a connection
        that ends before its first event may have said no more.
        """
        unfinished = b"".join(self._parts).rpartition(b"\n")[0]
        waits = [_retry_ms(line) for line in unfinished.split(b"\n")]
        return next((wait for wait in reversed(waits) if wait is not None), self._retry_ms)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes; empty where it completes none."""
        if self._is_between_blocks() and (event := self._usual(chunk)):
            return [event]
        if not self._started:
            chunk = self._strip_bom(chunk)
        return self._take(self._normalise(chunk))

    def _is_between_blocks(self) -> bool:
        return self._started and not (self._parts or self._after_cr or self._in_comment)

    def _usual(self, chunk: bytes) -> Event | None:
        """The event that is the whole of a chunk, at a third of the price; None where it is not,
        or needs a closer look.
        """
        fields = _USUAL(chunk)
        if fields is None or len(chunk) > self._max_event_bytes or not chunk.isascii():
            return None
        own_id, event_type, data = fields.groups()
        if own_id is not None and not _is_usable(own_id):
            return None
        if event_type is None or event_type == b"message":
            event_type = b""
        return Event(self._name(own_id), event_type, data)

    def _take(self, chunk: bytes) -> list[Event]:
        """Decode what has only LF as line ends."""
        if self._in_comment:
            _, line_end, chunk = chunk.partition(b"\n")
            self._in_comment = not line_end
        if self._discarding is not None:
            return self._discard(chunk) if chunk else []
        parts = self._parts
        at_line_start = not parts or parts[-1].endswith(b"\n")
        if at_line_start and chunk.startswith((b":", b"\n")):
            chunk = self._skip_idle(chunk)
        if not chunk:
            return []
        # Joining only when a block may have ended keeps a block that comes byte by byte linear.
        if _BLANK not in chunk and not (parts and at_line_start and chunk.startswith(b"\n")):
            return self._keep(chunk)
        *blocks, rest = b"".join((*parts, chunk)).split(_BLANK)
        self._parts = []
        self._size_bytes = 0
        events = [event for block in blocks if (event := self._block(block.lstrip(b"\n")))]
        return events + self._take(rest) if rest else events

    def _keep(self, chunk: bytes) -> list[Event]:
        """Lay by a part of a block. One that has grown over the limit goes on as its id alone."""
        self._parts.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes - chunk.endswith(b"\n") <= self._max_event_bytes:
            return []
        lines = b"".join(self._parts)
        self._in_comment = lines.startswith(b":", lines.rfind(b"\n") + 1)
        kept = _without_comments(lines)
        self._parts, self._size_bytes = [kept] if kept else [], len(kept)
        if len(kept.removesuffix(b"\n")) <= self._max_event_bytes:
            return []
        self._parts, self._size_bytes = [], 0
        self._discarding = _Discarded()
        return self._discard(kept)

    def _skip_idle(self, chunk: bytes) -> bytes:
        """Drop comments, and blank lines that end no block: they must not pile up on an idle
        stream.
        """
        rest = (_COMMENTS if self._parts else _IDLE).sub(b"", chunk, count=1)
        self._in_comment = rest.startswith(b":")
        if self._in_comment or b":" in chunk[: len(chunk) - len(rest)]:
            self.comments = True
        return b"" if self._in_comment else rest

    def _strip_bom(self, chunk: bytes) -> bytes:
        """One leading BOM is no part of the stream (UTF-8 decode), even in pieces."""
        head = self._head + chunk
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._started = True
        self._head = b""
        return head.removeprefix(_BOM)

    def _normalise(self, chunk: bytes) -> bytes:
        """Line ends as LF. A CR ends its line at once; the LF of a CRLF that comes later is
        dropped.
        """
        if self._after_cr:
            if not chunk:
                return chunk
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _block(self, block: bytes) -> Event | None:  # noqa: C901, PLR0912 - one branch a field
        """Interpret one whole block; None where it dispatches nothing."""
        if len(block) > self._max_event_bytes:
            block = _without_comments(block + b"\n")[:-1]
        if len(block) > self._max_event_bytes:
            return self._oversize(_Discarded().scan(block))
        if not block.isascii():
            block = block.decode("utf-8", "replace").encode()
        own_id = None
        event_type = b""
        data: list[bytes] = []
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            if value[:1] == b" ":
                value = value[1:]
            if name == b"data":
                data.append(value)
            elif name == b"id":
                if _is_usable(value):
                    own_id = value
            elif name == b"event":
                event_type = value
            elif name == b"retry":
                wait_ms = _retry_ms(line)
                self._retry_ms = self._retry_ms if wait_ms is None else wait_ms
            elif line and not name:
                self.comments = True
        if not data:
            self._move(own_id)
            return None
        if event_type == b"message":
            event_type = b""
        return Event(self._name(own_id), event_type, b"\n".join(data))

    def _move(self, own_id: bytes | None) -> None:
        """Take the id of a block without data as the last event id, as the standard does."""
        # Saying the same id again moves nothing: to count anew would name two events alike.
        if own_id is not None and own_id != self.last_id:
            self.last_id = own_id
            self._since = 0

    def _name(self, own_id: bytes | None) -> bytes:
        """The id of an event: upstream's own, or derived; empty where there is nothing to derive
        from.
        """
        if own_id is None:
            self._since += 1
        else:
            self.last_id = own_id
            self._since = 0
        if not self.last_id:
            return b""
        return derived_id(self.last_id, self._since) if self._since else self.last_id

    def _oversize(self, block: "_Discarded") -> Event | None:
        if block.has_data:
            return Event(self._name(block.id), b"", None)
        self._move(block.id)
        return None

    def _discard(self, chunk: bytes) -> list[Event]:
        """Pass over an oversize block; at its blank line it comes out as its id, and decoding goes
        on.
        """
        skipped = self._discarding or _Discarded()
        # What is kept is one unfinished line and the LF before it, so a blank line at the border is
        # seen as two LF.
        body, blank, rest = b"".join((*self._parts, chunk)).partition(_BLANK)
        if not blank:
            lines, line_end, tail = body.rpartition(b"\n")
            self._discarding = skipped.scan(lines)
            self._parts = [line_end + tail[:_MAX_KEPT_LINE_BYTES]]
            return []
        self._discarding = None
        self._parts = []
        event = self._oversize(skipped.scan(body))
        return [*([event] if event else []), *self._take(rest)]


class _Discarded:
    """What is still of interest in a block that is too big: its id, and whether it would have been
    an event.
    """

    def __init__(self) -> None:
        self.id: bytes | None = None
        self.has_data = False

    def scan(self, lines: bytes) -> Self:
        for line in lines.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                self.has_data = True
            elif name == b"id":
                value = value.removeprefix(b" ").decode("utf-8", "replace").encode()
                self.id = value if _is_usable(value) else self.id
        return self


def _without_comments(lines: bytes) -> bytes:
    """The lines that count towards an event's size."""
    return _COMMENT_LINE.sub(b"", lines)


def _is_usable(event_id: bytes) -> bool:
    """Whether an id counts: the standard ignores one with NUL; one that fits no request head can't
    be a cursor, so it is passed over as if it were not there.
    """
    return b"\0" not in event_id and len(event_id) <= MAX_ID_BYTES


def _retry_ms(line: bytes) -> int | None:
    """What a `retry:` line says; None for one that says nothing usable, and for any other line."""
    name, _, value = line.partition(b":")
    value = value.removeprefix(b" ")
    if name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
        return int(value)
    return None


def block(event_id: bytes, event_type: bytes, data: bytes) -> bytes:
    """One event as the canonical block. The arguments hold no CR; `data` may hold LF, the others
    not.
    """
    head = b"id: %b\nevent: %b\n" % (event_id, event_type) if event_type else b"id: %b\n" % event_id
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"%bdata: %b\n\n" % (head, data)


def relay_event(
    name: str, payload: Mapping[str, object], last_id: bytes, retry_ms: int | None = None
) -> bytes:
    """A word of the relay's own, as one block: a named event, so that `onmessage` never sees it.

    Its data has the shape of every other event's, `{"type", "payload"}`. `last_id` is where the
    subscriber stands.
    """
    data = json.dumps({"type": name, "payload": payload}, separators=(",", ":")).encode()
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    return retry + block(last_id, name.encode(), data)


def opening(retry_ms: int) -> bytes:
    """What a stream begins with: the reconnect hint and a comment, without a blank line.

    A block without data would be handed to applications as a phantom event by fetch-event-source
    and httpx-sse.
    """
    return b"retry: %d\n:\n" % retry_ms


def chunk(body: bytes) -> bytes:
    """Bytes as one chunk of HTTP/1.1's chunked coding (RFC 9112, 7.1). `body` isn't empty."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def unchunk(framed: bytes) -> bytes:
    """The bytes in one chunk made by `chunk`, for clients of HTTP/1.0."""
    return framed[framed.index(b"\r\n") + 2 : -2]
