"""What a client makes of the bytes it gets, strict where the contract (section 3) is.

It takes nothing from the relay's own encoders, so that a mistake there can't hide here.
"""

import json
import re
from dataclasses import dataclass, field

_CHUNK_HEAD = re.compile(rb"([1-9a-f][0-9a-f]*|0)\r\n")
_OPENING = re.compile(rb"retry: ([0-9]+)\n:\n")
_RETRY = re.compile(r"retry: ([0-9]+)")
_HEARTBEAT = b":\n"


@dataclass(frozen=True)
class Block:
    """One event as a client's library would hand it over."""

    id: str
    type: str
    data: str
    retry_ms: int | None = None

    @property
    def payload(self):
        """What the relay says in an event of its own."""
        document = json.loads(self.data)
        assert list(document) == ["type", "payload"]
        assert document["type"] == self.type
        return document["payload"]


@dataclass
class Reader:
    """The parser of one response body."""

    chunked: bool = True
    blocks: list[Block] = field(default_factory=list)
    heartbeats: int = 0
    opening_ms: int | None = None
    ended: bool = False  # the last chunk has come
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        assert not self.ended, f"bytes after the last chunk: {data!r}"
        self._rest += data
        if self.chunked:
            self._take_chunks()
        else:
            self._rest = self._take_bare(self._rest)

    @property
    def cut(self) -> bool:
        """Whether the bytes stop in the middle of something."""
        return bool(self._rest)

    @property
    def events(self) -> list[Block]:
        """What upstream said; the relay's own words left out."""
        return [block for block in self.blocks if not block.type.startswith("relay.")]

    @property
    def gaps(self) -> list[Block]:
        return [block for block in self.blocks if block.type == "relay.gap"]

    @property
    def closing(self) -> Block | None:
        found = [block for block in self.blocks if block.type == "relay.closing"]
        assert len(found) < 2, "an end is told once"
        return found[0] if found else None

    def _take_chunks(self) -> None:
        while self._rest:
            head = _CHUNK_HEAD.match(self._rest)
            if head is None:
                assert re.fullmatch(rb"[0-9a-f]{1,7}\r?", self._rest), self._rest[:40]
                return
            size = int(head[1], 16)
            end = head.end() + size
            if len(self._rest) < end + 2:
                return
            body, tail = self._rest[head.end() : end], self._rest[end : end + 2]
            assert tail == b"\r\n", f"a chunk ends with {tail!r}"
            self._rest = self._rest[end + 2 :]
            if size == 0:
                self.ended = True
                assert not self._rest, "bytes after the last chunk"
                return
            # A naive reader parses chunk by chunk: each holds whole things, and one event at most.
            before = len(self.blocks)
            assert self._take_bare(body) == b"", f"a chunk holds half of something: {body!r}"
            assert len(self.blocks) <= before + 1

    def _take_bare(self, body: bytes) -> bytes:
        """Parse what is whole; what is left."""
        if self.opening_ms is None:
            opening = _OPENING.match(body)
            if opening is None:
                assert len(body) < 24, f"a stream opens with {body[:40]!r}"
                return body
            self.opening_ms = int(opening[1])
            body = body[opening.end() :]
        while body:
            if body.startswith(_HEARTBEAT):
                self.heartbeats += 1
                body = body[len(_HEARTBEAT) :]
                continue
            block, blank, rest = body.partition(b"\n\n")
            if not blank:
                return body
            self._take_block(block.decode("utf-8", "strict"))
            body = rest
        return b""

    def _take_block(self, text: str) -> None:
        """The canonical form: [retry], id, [event], data lines; nothing else, nothing twice."""
        assert self.closing is None, f"something follows a goodbye: {text!r}"
        assert not set(text) & {"\r", "\0", "\ufeff"}, repr(text)
        lines = text.split("\n")
        retry = _RETRY.fullmatch(lines[0])
        if retry:
            lines.pop(0)
        event_id = _value("id", lines)
        assert event_id, f"an event without an id: {text!r}"
        event_type = _value("event", lines) if lines[0].startswith("event") else ""
        assert event_type != "message"
        assert lines, f"a block without data: {text!r}"
        data = "\n".join(_value("data", lines) for _ in range(len(lines)))
        assert not retry or event_type == "relay.closing"
        self.blocks.append(Block(event_id, event_type, data, int(retry[1]) if retry else None))


def _value(name: str, lines: list[str]) -> str:
    """The value of the next line, which must be this field."""
    assert lines, f"no {name} line"
    line = lines.pop(0)
    assert line.startswith(name + ": "), f"not a {name} line: {line!r}"
    return line[len(name) + 2 :]
