"""What goes to clients: one canonical form, which the decoder, like every library, reads back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lebureau_relay.core import sse
from lebureau_relay.core.event import MAX_ID_BYTES, Event
from lebureau_relay.core.sse import Decoder

# Whatever a decoder can have made: valid UTF-8 without CR; LF in data alone; no NUL in an id.
TEXT = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]))
LINES = TEXT.map(lambda text: text.replace("\n", "").encode())
EVENTS = st.builds(
    Event,
    id=LINES.map(lambda value: value.replace(b"\0", b"")),
    type=LINES.filter(lambda value: value != b"message"),
    data=TEXT.map(str.encode),
)


def decode(stream: bytes, cursor: bytes = b"") -> list[Event]:
    return Decoder(1_000_000, cursor).feed(stream)


@settings(deadline=None, max_examples=120)
@given(st.lists(EVENTS, max_size=5))
def test_a_block_is_read_as_what_it_was_made_of(events):
    stream = b"".join(sse.block(*event) for event in events)
    assert decode(stream) == events
    assert decode(stream, b"cursor") == events


@pytest.mark.parametrize(
    ("event", "block"),
    [
        (Event(b"1", b"", b"a"), b"id: 1\ndata: a\n\n"),
        (Event(b"1", b"e", b"a"), b"id: 1\nevent: e\ndata: a\n\n"),
        (Event(b"1", b"", b""), b"id: 1\ndata: \n\n"),
        (Event(b"1", b"", b"\n"), b"id: 1\ndata: \ndata: \n\n"),
        (Event(b"1", b"", b" a\nid: 2\n"), b"id: 1\ndata:  a\ndata: id: 2\ndata: \n\n"),
        (Event(b" 1", b" e", b"a"), b"id:  1\nevent:  e\ndata: a\n\n"),
    ],
)
def test_the_canonical_form_is_id_type_data_and_one_blank_line(event, block):
    assert sse.block(*event) == block


def test_an_id_of_full_length_survives():
    event = Event(b"i" * MAX_ID_BYTES, b"", b"a")
    assert decode(sse.block(*event)) == [event]


PAYLOADS = st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=3)


@settings(deadline=None, max_examples=80)
@given(
    PAYLOADS, LINES.map(lambda value: value.replace(b"\0", b"")), st.none() | st.integers(0, 9**9)
)
def test_a_relay_event_is_named_and_holds_type_and_payload(payload, last_id, retry_ms):
    decoder = Decoder(1_000_000)
    [event] = decoder.feed(sse.relay_event("relay.gap", payload, last_id, retry_ms))
    assert (event.id, event.type) == (last_id, b"relay.gap")
    assert json.loads(event.data) == {"type": "relay.gap", "payload": payload}
    assert decoder.retry_ms == retry_ms


def test_what_joins_the_first_block_is_no_block_of_its_own():
    """No block without data, ever: some client libraries would hand it to applications."""
    for said in (sse.opening(3000), sse.HEARTBEAT):
        assert b"\n\n" not in said
        assert said.endswith(b"\n")
    decoder = Decoder(1_000_000)
    said = sse.opening(3000) + sse.HEARTBEAT * 3 + sse.block(b"1", b"", b"a") + sse.HEARTBEAT
    assert decoder.feed(said) == [Event(b"1", b"", b"a")]
    assert decoder.retry_ms == 3000
    assert decoder.comments


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=1, max_size=300))
def test_a_chunk_says_its_length_and_can_be_undone(body):
    framed = sse.chunk(body)
    length, _, rest = framed.partition(b"\r\n")
    assert rest == body + b"\r\n"
    assert int(length, 16) == len(body)
    assert sse.unchunk(framed) == body
