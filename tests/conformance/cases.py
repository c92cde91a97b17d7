"""The HTML standard's event stream as a table: bytes in, what is dispatched, and the last event id.

`interpret` is written from sections 9.2.5 and 9.2.6 alone: whole input, line by line, text instead
of bytes, no limits. It shares nothing with the relay's decoder, so that both can only agree by
being right.
"""

import re
from typing import NamedTuple

from lebureau_relay.core.event import Event


class Message(NamedTuple):
    """A message event of the standard, and whether its block had a usable id field."""

    data: str
    type: str
    last_event_id: str
    has_id: bool


class Reading(NamedTuple):
    messages: list[Message]
    moves: list[tuple[int, str]]  # the last event id after so many messages, by blocks without data
    last_event_id: str
    reconnection_time: int | None


def interpret(stream: bytes, last_event_id: str = "") -> Reading:
    """Section 9.2.6, "Interpreting an event stream"."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\n|\r", text)
    messages, moves = [], []
    data = event_type = ""
    id_buffer, has_id, retry = last_event_id, False, None
    for line in lines:
        if line == "":
            last_event_id = id_buffer
            if data == "":
                moves.append((len(messages), last_event_id))
            else:
                message_type = event_type or "message"
                messages.append(Message(data[:-1], message_type, last_event_id, has_id))
            data = event_type = ""
            has_id = False
            continue
        if line.startswith(":"):
            continue
        field, colon, value = line.partition(":")
        value = value[1:] if colon and value.startswith(" ") else value
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                id_buffer, has_id = value, True
        elif field == "retry" and re.fullmatch("[0-9]{1,12}", value):
            retry = int(value)
    return Reading(messages, moves, last_event_id, retry)


def named(reading: Reading, first_id: str = "") -> list[Event]:
    """What the relay makes of a reading: every event has upstream's id, or counts on from it."""
    events, since, last = [], 0, first_id
    for place, message in enumerate(reading.messages):
        for at, moved_to in reading.moves:
            if at == place and moved_to != last:
                since, last = 0, moved_to
        since = 0 if message.has_id else since + 1
        last = message.last_event_id
        event_id = f"{last}~lbr{since}" if last and since else last
        event_type = "" if message.type == "message" else message.type
        events.append(Event(event_id.encode(), event_type.encode(), message.data.encode()))
    return events


def says(data, last_id="", event_type="message"):
    return (data, event_type, last_id)


# Name, bytes in, what is dispatched, and the last event id then.
STANDARD = [
    (
        "three messages, one of two lines",
        (
            b"data: This is the first message.\n\ndata: This is the second message, it\n"
            b"data: has two lines.\n\ndata: This is the third message.\n\n"
        ),
        [
            says("This is the first message."),
            says("This is the second message, it\nhas two lines."),
            says("This is the third message."),
        ],
        "",
    ),
    (
        "named events",
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        [says("73857293", "", "add"), says("2153", "", "remove"), says("113411", "", "add")],
        "",
    ),
    ("lines are joined", b"data: YHOO\ndata: +2\ndata: 10\n\n", [says("YHOO\n+2\n10")], ""),
    (
        "an id without a value resets, and a space more is data",
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
            b"data:  third event\n\n"
        ),
        [says("first event", "1"), says("second event"), says(" third event")],
        "",
    ),
    (
        "data without a colon is a line, an unfinished block is nothing",
        b"data\n\ndata\ndata\n\ndata:",
        [says(""), says("\n")],
        "",
    ),
    (
        "the space after the colon is optional",
        b"data:test\n\ndata: test\n\n",
        [says("test")] * 2,
        "",
    ),
]
ODD = [
    ("nothing", b"", [], ""),
    ("only blank lines", b"\n\r\n\r\r\n\n", [], ""),
    ("CR CR ends an event", b"data: a\r\r", [says("a")], ""),
    ("CRLF CRLF", b"data: a\r\ndata: b\r\n\r\n", [says("a\nb")], ""),
    ("LF CR are two line ends", b"data: a\n\rdata: b\n\r", [says("a"), says("b")], ""),
    ("a BOM", b"\xef\xbb\xbfdata: a\n\n", [says("a")], ""),
    ("a second BOM is part of a name", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], ""),
    ("a BOM later is part of a name", b"id: 1\n\n\xef\xbb\xbfdata: a\n\n", [], "1"),
    ("names have case", b"Data: a\nDATA: b\n\n", [], ""),
    ("names have no blanks", b" data: a\ndata : b\n\n", [], ""),
    ("unknown names", b"dat\xc3\xa9: a\ndatax: b\ndat\n\n", [], ""),
    ("a tab is not the space", b"data:\ta\n\n", [says("\ta")], ""),
    ("colons in data", b"data::a:b\n\n", [says(":a:b")], ""),
    ("blank data", b"data:  \n\n", [says(" ")], ""),
    ("NUL in data and type", b"event: a\0\ndata: \0\n\n", [says("\0", "", "a\0")], ""),
    ("NUL in an id: no id", b"id: 1\n\nid: 2\0\ndata: a\n\n", [says("a", "1")], "1"),
    ("NUL in a later id: the earlier", b"id: 1\nid: 2\0\ndata: a\n\n", [says("a", "1")], "1"),
    ("the last id of a block", b"id: 1\ndata: a\nid: 2\n\n", [says("a", "2")], "2"),
    ("a block of an id alone moves", b"id: 1\n\ndata: a\n\n", [says("a", "1")], "1"),
    ("an id of blanks", b"id:  \ndata: a\n\n", [says("a", " ")], " "),
    ("an unfinished block waits", b"id: 1\ndata: a\n\nid: 2\ndata: b\n", [says("a", "1")], "1"),
    ("a type without data lasts not", b"event: x\n\ndata: a\n\n", [says("a")], ""),
    ("the last type", b"event: x\nevent: y\ndata: a\n\n", [says("a", "", "y")], ""),
    ("an empty type is message", b"event: x\nevent\ndata: a\n\n", [says("a")], ""),
    ("the type message by name", b"event: message\ndata: a\n\n", [says("a")], ""),
    ("a type has its blanks", b"event:  x \ndata: a\n\n", [says("a", "", " x ")], ""),
    ("a type beyond ASCII", "event: é🖥\ndata: a\n\n".encode(), [says("a", "", "é🖥")], ""),
    ("an id beyond ASCII", "id: é🖥\ndata: a\n\n".encode(), [says("a", "é🖥")], "é🖥"),
    ("an id of nothing resets", b"id: 1\n\nid:\ndata: a\n\n", [says("a")], ""),
    ("data of nothing is an event", b"data:\n\n", [says("")], ""),
    ("blanks at the end of data stay", b"data: a \t\ndata: \n\n", [says("a \t\n")], ""),
    ("a BOM in data stays", b"data:\xef\xbb\xbfa\n\n", [says("\ufeffa")], ""),
    ("half a BOM is part of a name", b"\xef\xbbdata: a\n\ndata: b\n\n", [says("b")], ""),
    ("a time to come back is no event", b"retry: 10\n\ndata: a\nretry: 10\n\n", [says("a")], ""),
    (
        "what is no such time is nothing",
        b"retry: 9s\nretry\nretry: -1\ndata: a\n\n",
        [says("a")],
        "",
    ),
    ("comments anywhere", b":\n:a\ndata: a\n:b\n:\n\n:c\n\n", [says("a")], ""),
    ("a comment of a field", b":data: a\n\n", [], ""),
    ("a comment between data lines", b"data: a\n:\ndata: b\n\n", [says("a\nb")], ""),
    # the maximal subpart of what is cut becomes one U+FFFD (Encoding standard, UTF-8 decoder)
    ("invalid UTF-8", b"data: \xff\xe2\x82\xf0\x9f\x98\xed\xa0\x80\n\n", [says("\ufffd" * 6)], ""),
    ("a line end in a character", b"data: \xe2\x82\ndata: \xac\n\n", [says("\ufffd\n\ufffd")], ""),
    ("overlong forms", b"data: \xc0\x80\xe0\x80\x80\n\n", [says("\ufffd" * 5)], ""),
    ("invalid UTF-8 in an id", b"id: \xff\ndata: a\n\n", [says("a", "\ufffd")], "\ufffd"),
    (
        "VT, FF, NEL, LS and PS end no line",
        "data: \x0b\x0c\x85\u2028\u2029\n\n".encode(),
        [says("\x0b\x0c\x85\u2028\u2029")],
        "",
    ),
]
