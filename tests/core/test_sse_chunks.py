"""The decoder whatever the chunking, and up to its limits: cuts anywhere change nothing."""

from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lebureau_relay.core import sse
from lebureau_relay.core.event import Event
from lebureau_relay.core.sse import Decoder

LIMIT_BYTES = 24
# Small, so that short inputs pass it; production's is 6 KiB.
ID_LIMIT_BYTES = 8

TOKENS = [
    b"\n", b"\n", b"\n\n", b"\n\n", b"\r", b"\r\n", b"\r\r", b"\r\n\r\n",
    b"data", b"data:", b"data: ", b"data: x\n\n", b"id", b"id:", b"id: ", b"id: 7\n",
    b"id: 12345678\n", b"id: 123456789\n", b"id: 12345678", b"event: e\n", b"retry: 3\n",
    b"retry: 123456789012\n", b"retry: 1234567890123\n",
    b":", b": ", b":c\n", b"a", b"0123456789", b"0123456789abcdef01\n", b" ", b"\0",
    b": a comment longer than the limit\n", b": a comment longer than the limit",
    b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xbf", b"\xff", b"\xe2\x82", b"\xac",
    b"\xf0\x9f\x98\x80", b"\xc3",
]  # fmt: skip
STREAMS = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=40).map(b"".join)


@st.composite
def cut_streams(draw):
    """A stream, and where to cut it; cuts may fall together, which gives empty chunks."""
    stream = draw(STREAMS)
    cuts = st.integers(0, len(stream))
    return stream, sorted(draw(st.lists(cuts, max_size=12)))


def chunks(stream: bytes, cuts: list[int]) -> list[bytes]:
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def run(pieces, limit=1_000_000, cursor=b""):
    """All that can be seen of a decoder that is fed these: events, retry, and where ids stand."""
    decoder = Decoder(limit, cursor)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    retry_ms = decoder.retry_ms
    return events, retry_ms, decoder.feed(b"\n\ndata:\n\n"), decoder


def byte_by_byte(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


@settings(deadline=None, max_examples=100)
@given(cut_streams())
@example((b"\xef\xbb\xbfdata: a\r\n\r\ndata: b\r\r\n", [0, 1, 2, 2, 3, 11, 12, 13]))
@example((b"data: a\r\ndata: b\n\n", [8, 8]))
@example((b"data: a\n: b\n\n", [8, 9, 10, 11]))
@example((b":c\n:c\ndata: a\n\n", [1, 2, 3, 4]))
def test_any_chunking_gives_the_same(cut):
    stream, cuts = cut
    *whole, decoder = run([stream])
    for pieces in (chunks(stream, cuts), byte_by_byte(stream)):
        *seen, other = run(pieces)
        assert seen == whole
        assert other.comments == decoder.comments


STATES = [
    b"", b"\xef", b"\xef\xbb\xbf", b"\n", b"\r", b"data: a", b"data: a\n", b"data: a\n\n",
    b"data: a\r", b"id: 7\n", b"id: 7\n\n", b": c", b": c\n", b"event: e\n", b"retry: 3\n\n",
    b"data: 0123456789abcdef012345", b"data: 0123456789abcdef012345\n",
]  # fmt: skip
USUAL = [
    b"data: x\n\n", b"data:x\n\n", b"data:  x\n\n", b"data:\n\n", b"id: 5\ndata: x\n\n",
    b"id:5\nevent:e\ndata:x\n\n", b"event: message\ndata: x\n\n", b"event: \ndata: x\n\n",
    b"id:\ndata: x\n\n", b"id: a\0b\ndata: x\n\n", b"id: 123456789\ndata: x\n\n",
    b"id: \xff\ndata: \xc3\n\n", "data: é\n\n".encode(), b"data: x\r\n\n", b"id: 5\rdata: x\n\n",
    b"data: 0123456789abcdef01234567\n\n", b"event: e\nid: 5\ndata: x\n\n",
]  # fmt: skip


@pytest.mark.parametrize("limit", [LIMIT_BYTES, 1_000_000])
@pytest.mark.parametrize("state", STATES)
def test_a_chunk_that_is_one_event_means_the_same_in_every_state(state, limit):
    with patch.object(sse, "MAX_ID_BYTES", ID_LIMIT_BYTES):
        for chunk in USUAL:
            for after in (b"\xef\xbb\xbfdata: b\n\n", b"\ndata: b\n\n"):
                pieces = [state, chunk, after] if state else [chunk, after]
                for before in ([], [b"data: 0\n\n"]):
                    *seen, decoder = run([*before, *pieces], limit, b"1")
                    *whole, other = run(byte_by_byte(b"".join([*before, *pieces])), limit, b"1")
                    assert seen == whole, (state, chunk, after)
                    assert decoder.comments == other.comments


@settings(deadline=None, max_examples=200)
@given(cut_streams(), st.integers(0, LIMIT_BYTES + 8))
@example((b"id: 1\ndata: 0123456789abcdef012\nid: 2\n\ndata: b\n\n", [9, 36]), LIMIT_BYTES)
# a comment cut in two inside a block that is over the limit is no field
@example((b"data: 0123456789abcdef0\n:id: 9\ndata: b\n\n", [25]), LIMIT_BYTES)
# an id too long to keep, whose NUL comes after what is kept of it
@example((b"data: 0123456789abcdef012\nid: 1\nid: " + b"1" * 40 + b"\0\n\n", [60]), LIMIT_BYTES)
def test_any_chunking_gives_the_same_at_every_limit(cut, limit):
    stream, cuts = cut
    with (
        patch.object(sse, "MAX_ID_BYTES", ID_LIMIT_BYTES),
        patch.object(sse, "_MAX_KEPT_LINE_BYTES", ID_LIMIT_BYTES + 16),
    ):
        *whole, _ = run([stream], limit)
        for pieces in (chunks(stream, cuts), byte_by_byte(stream)):
            assert run(pieces, limit)[:3] == tuple(whole)


@settings(deadline=None, max_examples=80)
@given(STREAMS)
def test_the_limit_is_the_lines_of_a_block_but_for_comments(stream):
    """An event is discarded exactly if it is bigger; nothing else of the stream is touched."""
    stream = stream.replace(b"retry", b"event")  # of an oversize block only its id counts
    whole = run([stream + b"\n\n"])[0]
    limited = run([stream + b"\n\n"], LIMIT_BYTES)[0]
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    sizes = []
    block: list[bytes] = []
    for line in (text + b"\n\n").split(b"\n"):
        if line:
            block += [] if line.startswith(b":") else [line]
        elif block:
            if any(line == b"data" or line.startswith(b"data:") for line in block):
                sizes.append(len(b"\n".join(block)))
            block = []
    assert limited == [
        event if size <= LIMIT_BYTES else Event(event.id, b"", None)
        for event, size in zip(whole, sizes, strict=True)
    ]


BIG = b"data: " + b"x" * LIMIT_BYTES


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (BIG + b"\n\n", [(b"", None)]),
        (b"data: " + b"x" * (LIMIT_BYTES - 6) + b"\n\n", [(b"", b"x" * (LIMIT_BYTES - 6))]),
        (b"data: " + b"x" * (LIMIT_BYTES - 5) + b"\n\n", [(b"", None)]),
        (b":" + b"c" * 99 + b"\ndata: x\n:" + b"c" * 99 + b"\n\n", [(b"", b"x")]),
        (b"id: 1\n" + BIG + b"\n\ndata: a\n\n", [(b"1", None), (b"1~lbr1", b"a")]),
        (BIG + b"\nid: 1\n\ndata: a\n\n", [(b"1", None), (b"1~lbr1", b"a")]),
        (b"id: 1\n\n" + BIG + b"\n\n" + BIG + b"\n\n", [(b"1~lbr1", None), (b"1~lbr2", None)]),
        (b"id: 1\n" + BIG + b"\nid\n\n", [(b"", None)]),
        (b"id: 1\n" + BIG + b"\nid: 2\0\n\n", [(b"1", None)]),
        (b"id: \xff\n" + BIG + b"\n\n", [("�".encode(), None)]),
        # without data it is no event, but its id counts
        (b"id: 1\nbig: " + BIG + b"\n\ndata: a\n\n", [(b"1~lbr1", b"a")]),
        (b"id: 1\n\n" + BIG[5:] + b"\nid: 2\n\ndata: a\n\n", [(b"2~lbr1", b"a")]),
        # a comment is no data, wherever it is cut
        (BIG[5:] + b"\n:data: a\n\n", []),
    ],
)
@pytest.mark.parametrize("split", [lambda stream: [stream], byte_by_byte])
def test_an_oversize_event_is_told_as_its_id_alone(stream, events, split):
    assert run(split(stream), LIMIT_BYTES)[0] == [Event(name, b"", data) for name, data in events]


def test_of_an_unfinished_block_that_is_oversize_nothing_is_kept():
    decoder = Decoder(LIMIT_BYTES)
    decoder.feed(b"data: ")
    for _ in range(1000):
        decoder.feed(b"x" * 1000)
    assert sum(map(len, decoder._parts)) <= sse._MAX_KEPT_LINE_BYTES


@pytest.mark.parametrize("ping", [b":\n", b": ping\n\n", b": a ping\r\n", b"\n", b":" + b"c" * 50])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_comments_on_an_idle_stream_leave_nothing_behind(ping, size):
    decoder = Decoder(LIMIT_BYTES)
    stream = ping * 100
    for at in range(0, len(stream), size):
        assert decoder.feed(stream[at : at + size]) == []
        assert sum(map(len, decoder._parts)) <= size
    assert decoder.comments == (b":" in ping)
    assert decoder.feed(b"\ndata: a\n\n") == [Event(b"", b"", b"a")]


KIB, MIB = 1 << 10, 1 << 20
AT_LIMIT = b"data: " + b"x" * (64 * KIB - 6)


class Weighed(Decoder):
    """A decoder that counts the bytes it looks at again: those of blocks, whole or given up."""

    looked_at_bytes = 0

    def _block(self, block):
        self.looked_at_bytes += len(block)
        return super()._block(block)

    def _discard(self, chunk):
        self.looked_at_bytes += len(chunk)
        return super()._discard(chunk)


@pytest.mark.parametrize(
    ("whole", "in_bytes", "limit"),
    [
        (b"", b"data: " + b"x" * (64 * KIB) + b"\n\n", MIB),
        (b"", b"data:\n" * (10 * KIB) + b"\n", MIB),
        (b"", b"data:\r\n" * (10 * KIB) + b"\r\n", MIB),
        (AT_LIMIT, b"\n:" + b"c" * (64 * KIB) + b"\n\n", 64 * KIB),
        (AT_LIMIT, b"\n" + b":c\n" * (16 * KIB) + b"\n", 64 * KIB),
        (AT_LIMIT, b"x" * (16 * KIB) + b"\n\n", 64 * KIB),
        (AT_LIMIT, b"\ndata:" * (10 * KIB) + b"\n\n", 64 * KIB),
    ],
    ids=["line", "lines", "CRLF", "comment at limit", "comments at limit", "over", "lines over"],
)
def test_an_event_that_comes_byte_by_byte_costs_linear_work(whole, in_bytes, limit):
    decoder = Weighed(limit)
    squeeze = sse._without_comments

    def weighed(lines):
        decoder.looked_at_bytes += len(lines)
        return squeeze(lines)

    with patch.object(sse, "_without_comments", weighed):
        events = [
            event for piece in [whole, *byte_by_byte(in_bytes)] for event in decoder.feed(piece)
        ]
    assert len(events) == 1
    assert decoder.looked_at_bytes <= 4 * (len(whole) + len(in_bytes))


def test_an_event_of_a_mebibyte_may_come_in_crumbs():
    stream = b"data: " + b"0123456789" * (MIB // 10 - 1) + b"\n\n"
    [event] = run([stream[at : at + 11] for at in range(0, len(stream), 11)], MIB)[0]
    assert event.data == stream[6:-2]


# What isn't linear here takes minutes, so the time-out tells; it stands far from what linear takes.
@pytest.mark.timeout(30)
@pytest.mark.parametrize("line", [b":\n", b"\n", b":c\n\n", b"data: ", b"id: 1\n", b"data:\n"])
def test_a_chunk_of_many_small_lines_costs_linear_work(line):
    stream = line * (MIB // len(line))
    assert run([stream], MIB)[0] == []
