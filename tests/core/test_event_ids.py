"""The relay's own ids: what they are made of, and what of a cursor may go upstream."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lebureau_relay.core.event import (
    MAX_CURSOR_BYTES,
    MAX_ID_BYTES,
    Entry,
    Event,
    GapCause,
    Place,
    derived_id,
    parse_place,
    split_derived,
    trim,
    upstream_cursor,
)
from lebureau_relay.core.sse import Decoder

NUMBERS = st.integers(1, 10**17)


def ids(stream: bytes, cursor: bytes = b"") -> list[bytes]:
    return [event.id for event in Decoder(1_000_000, cursor).feed(stream)]


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=1), NUMBERS)
def test_a_derived_id_can_be_taken_apart(base, n):
    assert split_derived(derived_id(base, n)) == (base, n)


@settings(deadline=None, max_examples=100)
@given(st.text("09az", min_size=1, max_size=32), st.integers(0, 10**17))
def test_a_place_can_be_named_and_found(epoch, offset):
    place = Place(epoch, offset)
    assert parse_place(place.id) == place
    assert split_derived(place.id) == (place.id, 0)
    assert upstream_cursor(place.id) == b""


@pytest.mark.parametrize(
    "cursor",
    [
        b"", b"1", b"~lbr", b"~lbr1", b"a~lbr", b"a~lbr0", b"a~lbr01", b"a~lbr-1", b"a~lbr1x",
        b"a~lbr1\n", b"a~LBR1", b"a~lbr" + b"9" * 19, "a~lbr١".encode(),
        # places, and what looks like one
        b"~lbre-1", b"~lbrE-1", b"~lbr-1", b"~lbre-01", b"~lbre-1\n", b"~lbre-" + b"9" * 19,
        b"~lbr" + b"e" * 33 + b"-1", b"x~lbre-1",
    ],
)  # fmt: skip
def test_what_is_no_derived_id_stands_for_itself(cursor):
    assert split_derived(cursor) == (cursor, 0)
    place = parse_place(cursor)
    assert (place is None) == (cursor != b"~lbre-1")


def test_only_the_last_part_counts_where_upstream_is_a_relay_too():
    assert split_derived(b"a~lbr1~lbr2") == (b"a~lbr1", 2)
    assert upstream_cursor(b"a~lbr1~lbr2") == b"a~lbr1"
    assert ids(b"id: a~lbr1\ndata\n\ndata\n\n") == [b"a~lbr1", b"a~lbr1~lbr1"]


@pytest.mark.parametrize(
    ("cursor", "asked"),
    [
        (b"7", b"7"),
        (b" \t7 8\t ", b"7 8"),
        (b"7~lbr3", b"7"),
        ("é".encode(), "é".encode()),
        (b"a" * MAX_ID_BYTES, b"a" * MAX_ID_BYTES),
        (b"a" * MAX_ID_BYTES + b"~lbr1", b"a" * MAX_ID_BYTES),
        (b"a" * (MAX_ID_BYTES + 1), b""),
        (b"", b""),
        (b"   ", b""),
        (b"~lbre-1", b""),
        (b"~lbre-1~lbr2", b""),
        (b"\xff", b""),
        (b"\xed\xa0\x80", b""),
        (b"a\0b", b""),
        (b"a\rb", b""),
        (b"a\nHost: b", b""),
        (b"a\x1fb", b""),
        (b"a\x7fb", b""),
    ],
)
def test_only_what_a_header_can_carry_goes_upstream(cursor, asked):
    assert upstream_cursor(cursor) == asked


@settings(deadline=None, max_examples=150)
@given(
    st.binary() | st.lists(st.sampled_from([b"~lbr", b"1", b"e-1", b" ", b"\xff"])).map(b"".join)
)
def test_a_stranger_s_cursor_never_raises(cursor):
    asked = upstream_cursor(cursor)
    assert trim(asked) in trim(cursor)
    asked.decode()
    parse_place(cursor)


def test_events_without_an_id_count_from_the_last_one():
    stream = b"data\n\nid: a\ndata\n\ndata\n\ndata\n\nid: b\ndata\n\ndata\n\n"
    assert ids(stream) == [b"", b"a", b"a~lbr1", b"a~lbr2", b"b", b"b~lbr1"]
    assert ids(b"data\n\ndata\n\n", b"a") == [b"a~lbr1", b"a~lbr2"]


def test_a_block_of_an_id_alone_moves_the_count():
    assert ids(b"id: a\ndata\n\nid: b\n\ndata\n\nid: c\n\ndata\n\n") == [b"a", b"b~lbr1", b"c~lbr1"]


def test_an_id_that_is_said_again_does_not_count_anew():
    """Servers keep streams alive by saying `id` alone: no two events may get one name by it."""
    stream = b"id: a\ndata\n\ndata\n\nid: a\n\ndata\n\nid: a\n\nid: a\n\ndata\n\n"
    assert ids(stream) == [b"a", b"a~lbr1", b"a~lbr2", b"a~lbr3"]
    assert ids(b"data\n\nid: a\n\ndata\n\n", b"a") == [b"a~lbr1", b"a~lbr2"]


@pytest.mark.parametrize("reset", [b"id\n\n", b"id:\n\n", b"id: \n\n"])
def test_an_empty_id_leaves_nothing_to_count_from(reset):
    assert ids(b"id: a\ndata\n\n" + reset + b"data\n\ndata\n\n") == [b"a", b"", b""]
    assert ids(b"id: a\ndata\n\ndata\n" + reset + b"data\n\n") == [b"a", b"", b""]
    assert ids(reset + b"data\n\n", b"a") == [b""]


def test_an_id_over_6_kib_is_replaced_by_the_derived_form():
    long, longest = b"i" * (MAX_ID_BYTES + 1), b"i" * MAX_ID_BYTES
    assert ids(b"id: %b\ndata\n\n" % long) == [b""]
    assert ids(b"id: a\ndata\n\nid: %b\ndata\n\n" % long) == [b"a", b"a~lbr1"]
    assert ids(b"id: a\n\nid: %b\n\ndata\n\n" % long) == [b"a~lbr1"]
    assert ids(b"id: a\nid: %b\ndata\n\n" % long) == [b"a"]
    assert ids(b"id: %b\ndata\n\ndata\n\n" % longest) == [longest, longest + b"~lbr1"]
    assert len(derived_id(longest, 10**18 - 1)) <= MAX_CURSOR_BYTES
    # what is invalid grows to three bytes each
    assert ids(b"id: %b\ndata\n\n" % (b"\xff" * (MAX_ID_BYTES // 3 + 1))) == [b""]


def test_an_entry_s_key_is_its_id_as_a_cursor_names_it():
    assert Entry(1, b"\t a b ", b"", 0.0).key == b"a b"


def test_what_upstream_would_send_again():
    entries = {cause: Entry(1, b"a", b"", 0.0, cause) for cause in [None, *GapCause]}
    again = [cause for cause, entry in entries.items() if entry.from_upstream]
    assert again == [None, GapCause.OVERSIZE]


def test_an_event_too_big_still_has_its_name():
    [event] = Decoder(20).feed(b"id: a\ndata: " + b"x" * 20 + b"\n\n")
    assert event == Event(b"a", b"", None)
