"""The decoder against the HTML standard: its examples as data, and a naive reading of its words
(tests/conformance/cases.py).
"""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.conformance.cases import ODD, STANDARD, interpret, named

from lebureau_relay.core.event import Event
from lebureau_relay.core.sse import Decoder

PLENTY_BYTES = 1_000_000


def decode(stream: bytes, last_id: bytes = b"") -> tuple[list[Event], Decoder]:
    decoder = Decoder(PLENTY_BYTES, last_id)
    return decoder.feed(stream), decoder


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
