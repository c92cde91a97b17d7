"""The decoder against the HTML standard: its examples as data, and a naive reading of its words.

`interpret` is written from sections 9.2.5 and 9.2.6 alone: whole input, line by line, text instead
of bytes, no limits. It shares nothing with the decoder, so that both can only agree by being right.
"""

import re
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lebureau_relay.core.event import Event
from lebureau_relay.core.sse import Decoder

PLENTY_BYTES = 1_000_000


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


def decode(stream: bytes, last_id: bytes = b"") -> tuple[list[Event], Decoder]:
    decoder = Decoder(PLENTY_BYTES, last_id)
    return decoder.feed(stream), decoder


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


@pytest.mark.parametrize(
    ("stream", "dispatched", "last_id"),
    [pytest.param(*row, id=name) for name, *row in STANDARD + ODD],
)
def test_examples_of_the_standard_and_odd_cases(stream, dispatched, last_id):
    events, decoder = decode(stream)
    assert [
        (e.data.decode(), e.type.decode() or "message", re.sub(r"~lbr\d+\Z", "", e.id.decode()))
        for e in events
    ] == dispatched
    assert events == named(interpret(stream))
    assert decoder.last_id.decode() == last_id


@pytest.mark.parametrize(
    ("stream", "retry_ms"),
    [
        (b"retry: 7000\n\n", 7000),
        (b"retry:7000\ndata: a\n\n", 7000),
        (b"retry: 0\n\n", 0),
        (b"retry: 007\n\n", 7),
        (b"retry: 1\nretry: 2\n\nretry: 3\n\n", 3),
        (b"retry: 1\n\nretry: -2\nretry: 3s\nretry: 4.0\nretry:  5\nretry\nretry:\n\n", 1),
        ("retry: ٣\nretry: ²\n\n".encode(), None),
        # a wait of centuries, and quadratic to convert
        (b"retry: 9999999999999\n\n", None),
        (b"retry: " + b"9" * 100_000 + b"\n\n", None),
        # it rules from the end of its line, whether or not its block ends
        (b"retry: 7000\n", 7000),
        (b"data: a\nretry: 7000\r", 7000),
        (b"retry: 7000", None),
    ],
)
def test_retry_is_ascii_digits_alone(stream, retry_ms):
    assert decode(stream)[1].retry_ms == retry_ms


TOKENS = [
    b"\n", b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\r", b"\r\n\r\n",
    b"data", b"data:", b"data: ", b"data: x\n\n", b"data:x\ndata\n", b"id", b"id:", b"id: ",
    b"id: 7\n\n", b"id: 7\ndata\n\n", b"event: ", b"event: e\n", b"retry: ", b"retry: 3\n",
    b":", b": ", b":c\n", b" ", b"a", b"1", b"\0", b"message", b"~lbr1", b"~lbr",
    b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xbf", b"\xff", b"\xe2\x82", b"\xac",
    b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xc3",
]  # fmt: skip
STREAMS = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=40).map(b"".join)
CURSORS = st.sampled_from([b"", b"7", b"c"])


@settings(deadline=None, max_examples=200)
@given(STREAMS, CURSORS)
@example(b"id: 7\n\ndata\n\nid: 7\n\ndata\n\n", b"")
@example(b"data\n\nid: 7\n\ndata\n\n", b"7")
def test_the_decoder_reads_what_the_standard_says(stream, cursor):
    events, decoder = decode(stream, cursor)
    reading = interpret(stream, cursor.decode())
    assert events == named(reading, cursor.decode())
    assert decoder.retry_ms == reading.reconnection_time
    assert decoder.last_id.decode() == reading.last_event_id
