"""The nouns: Event (as upstream said it), Entry (positioned and framed), and the relay's own ids.

An id that the relay makes is one of two forms, told apart from upstream's ids by `~lbr`:

    <upstream id>~lbr<n>        the n-th event without an id of its own since that id
    ~lbr<epoch>-<offset>        a place in one numbering of the relay's, where upstream gave no id
    at all

The first can be resumed by any relay that can ask upstream for what follows the id; the second only
by one that still holds that epoch. Ids and frames are bytes throughout: they come as bytes and
leave as bytes.
"""

import re
from enum import StrEnum
from typing import NamedTuple

# An id goes back to the relay and upstream in a request head, of which servers commonly allow 8 KiB
# in all.
MAX_ID_BYTES = 6 * 1024
# The longest form of a cursor that the relay itself can have given out: an id, "~lbr" and a number.
MAX_CURSOR_BYTES = MAX_ID_BYTES + 32

_DERIVED = re.compile(rb"(.+)~lbr([1-9][0-9]{0,17})\Z", re.DOTALL)
_PLACE = re.compile(rb"~lbr([0-9a-z]{1,32})-(0|[1-9][0-9]{0,17})\Z")
# What can't stand in a header line, so never in a cursor that goes upstream (RFC 9110, section
# 5.5).
_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class GapCause(StrEnum):
    """Why continuity can't be promised: the closed set of the contract, section 4."""

    EVICTED = "evicted"
    UNKNOWN_ID = "unknown_id"
    UPSTREAM = "upstream"
    OVERSIZE = "oversize"
    SLOW = "slow"
    DEGRADED = "degraded"


class Event(NamedTuple):
    """What upstream said in one block.

    `id` is upstream's own or the derived form, empty where there is nothing to derive from. `type`
    is empty for `message`. `data` holds its lines joined by LF; `None` says that the event was too
    big and was discarded.
    """

    id: bytes
    type: bytes
    data: bytes | None


class Entry(NamedTuple):
    """An event with its place in the feed and the bytes that go to clients.

    `frame` is one HTTP/1.1 chunk that holds one whole block. `id` is the id in that block. `at_s`
    is when its first byte was read here, on the loop's clock. `gap` is set where the entry is not
    upstream's but tells a gap.
    """

    offset: int
    id: bytes
    frame: bytes
    at_s: float
    gap: GapCause | None = None

    @property
    def from_upstream(self) -> bool:
        """Whether upstream would send this one again: an event, or one that was too big for us."""
        return self.gap is None or self.gap is GapCause.OVERSIZE

    @property
    def key(self) -> bytes:
        """The id as a cursor would name it."""
        return trim(self.id)


class Place(NamedTuple):
    """A position: a numbering's name, and an offset in it."""

    epoch: str
    offset: int

    @property
    def id(self) -> bytes:
        """The epoch form of the relay's ids."""
        return b"~lbr%b-%d" % (self.epoch.encode(), self.offset)


def trim(cursor: bytes) -> bytes:
    """A cursor as a header field carries it: without blanks at its ends (RFC 9110, section 5.5)."""
    return cursor.strip(b" \t")


def derived_id(base: bytes, n: int) -> bytes:
    """The id of the n-th event since `base` that came without one."""
    return b"%b~lbr%d" % (base, n)


def split_derived(cursor: bytes) -> tuple[bytes, int]:
    """What to ask upstream for, and how many events to pass over: (`cursor`, 0) if it is no derived
    id.
    """
    match = _DERIVED.match(cursor)
    return (match[1], int(match[2])) if match else (cursor, 0)


def parse_place(cursor: bytes) -> Place | None:
    """The position that an epoch-form id names, or None for every other id."""
    match = _PLACE.match(cursor)
    return Place(match[1].decode(), int(match[2])) if match else None


def upstream_cursor(cursor: bytes) -> bytes:
    """The part of a cursor that upstream understands; empty for one that must not go there.

    Never raises: cursors come from strangers.
    """
    base, _ = split_derived(trim(cursor))
    if len(base) > MAX_ID_BYTES or _UNSENDABLE.search(base) or parse_place(base):
        return b""
    try:
        base.decode()
    except UnicodeDecodeError:
        return b""
    return base
