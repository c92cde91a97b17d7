"""The ring: one feed's newest entries, bounded by count, bytes and age, with a look-up by id in
constant time.

It answers two questions: where does this cursor stand, and what must upstream be asked for so that
its answer proves that nothing was lost. Offsets rise by one for as long as the feed lives; an epoch
names one unbroken numbering of ids.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from math import inf
from typing import NamedTuple

from lebureau_relay.core.event import (
    Entry,
    GapCause,
    Place,
    parse_place,
    split_derived,
    trim,
    upstream_cursor,
)

# What an entry takes beside its frame: itself, its id, its place in the list and the index, and
# what the allocator rounds up. Measured, with ids of twenty bytes; a test holds it to what Python
# says.
ENTRY_BYTES = 350

# The list is cut when this many evicted slots stand at its head: often enough to be small, rarely
# enough to be free.
_SLACK = 64


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """Bounds of one feed's history; the newest entry is held whatever they say."""

    max_events: int = 1000
    max_bytes: int = 1_048_576
    max_age_s: float = 300.0


class Standing(StrEnum):
    """Where a cursor stands in the history."""

    HELD = "held"  # everything after it is here
    EVICTED = "evicted"  # it was here, and what follows it no longer is
    UNKNOWN = "unknown"  # never seen here: upstream may know it
    # nobody can say what follows it: ambiguous, of another epoch, or no cursor at all
    LOST = "lost"


class ResumePlan(NamedTuple):
    """What to ask upstream for, and what must come back first.

    Ask for what follows `cursor` (empty: nothing can be asked for). Then `skip` events without ids
    of their own were evicted here and are passed over, and `run` must come back as it stands: the
    proof. An empty run proves nothing.
    """

    cursor: bytes
    skip: int = 0
    run: tuple[Entry, ...] = ()


class History:
    """A bounded ring of entries.

    `floor_id` names the place just before the oldest entry: the cursor that the feed was opened
    with, then the id of the newest evicted entry; empty where nobody knows it.
    """

    __slots__ = (
        "_after_gap",
        "_entries",
        "_index",
        "_refused",
        "_retired",
        "_start",
        "_twice",
        "epoch",
        "floor_id",
        "limits",
        "name",
        "size_bytes",
        "top",
    )

    def __init__(self, limits: HistoryLimits, epoch: str, floor_id: bytes = b"") -> None:
        self.epoch = epoch
        # Who gives names to events without ids: the epoch, or the term of one owner among several.
        # Two that number on from one place, unseen by each other, must not name alike.
        self.name = epoch
        self.floor_id = floor_id
        self.top = 0  # offset of the newest entry
        self.size_bytes = 0  # of the frames held
        self.limits = limits
        self._entries: list[Entry] = []
        self._start = 0  # slots at the head of the list that are evicted
        self._after_gap = False  # the newest of them was a gap that upstream made
        self._index: dict[bytes, int] = {}  # key of an id -> offset of the newest entry with it
        # keys that an older place had too, held or evicted since
        self._twice = _NONE
        # keys of the epoch before: they may mean something else now
        self._retired = _NONE
        self._refused = b""  # the cursor that upstream refused last

    def __len__(self) -> int:
        return len(self._entries) - self._start

    @property
    def memory_bytes(self) -> int:
        """About what it takes of the process's memory: small events take more than their frames."""
        return self.size_bytes + ENTRY_BYTES * (len(self._entries) - self._start)

    def __contains__(self, event_id: bytes) -> bool:
        return trim(event_id) in self._index

    @property
    def first(self) -> int:
        """Offset of the oldest entry held; one past `top` where there is none."""
        return self.top + 1 - len(self)

    def entry(self, offset: int) -> Entry:
        """The entry at an offset from `first` to `top`."""
        return self._entries[offset - self.top - 1]

    def since(self, offset: int) -> list[Entry]:
        """The entries after `offset`, oldest first; of those that are held."""
        return self._entries[self._slot(offset + 1) :]

    def window(self, offset: int, upto: int, max_bytes: int) -> list[Entry]:
        """The entries after `offset` and up to `upto` that fit `max_bytes` together; at least one
        where there is one.
        """
        slot = self._slot(offset + 1)
        end = len(self._entries) - self.top + upto
        found: list[Entry] = []
        size_bytes = 0
        while slot < end:
            entry = self._entries[slot]
            size_bytes += len(entry.frame)
            if found and size_bytes > max_bytes:
                break
            found.append(entry)
            slot += 1
        return found

    def oldest_from_upstream(self) -> Entry | None:
        """The oldest entry that upstream would send again."""
        held = islice(self._entries, self._start, None)
        return next((entry for entry in held if entry.from_upstream), None)

    def named(self, event_id: bytes) -> Entry | None:
        """The newest entry with this id."""
        offset = self._index.get(trim(event_id))
        return None if offset is None else self.entry(offset)

    def place_id(self, offset: int) -> bytes:
        """The id of a place, as a subscriber that stands there would name it."""
        if self.first <= offset <= self.top:
            return self.entry(offset).id
        if offset == self.first - 1 and self.floor_id:
            return self.floor_id
        return Place(self.epoch, offset).id

    def append(self, entry: Entry) -> None:
        """Take the next entry: its offset is `top` + 1. Evicts what no longer fits."""
        self._entries.append(entry)
        self.top = entry.offset
        self.size_bytes += len(entry.frame)
        if entry.from_upstream:
            key = entry.key
            if key in self._index or key == trim(self.floor_id) or self._is_namesake(entry):
                self._twice |= {key}
            self._index[key] = entry.offset
        limits = self.limits
        while len(self) > 1 and (
            len(self) > limits.max_events or self.size_bytes > limits.max_bytes
        ):
            self._evict()

    def _is_namesake(self, entry: Entry) -> bool:
        """Whether a gap stands before an entry that names the same id as the last one before: a
        replica that knows both only by the log has never had the first.
        """
        if len(self) < 2 or (gap := self._entries[-2]).gap is not GapCause.UPSTREAM:
            return False
        return b'"lastEventId":%b}' % json.dumps(entry.id.decode()).encode() in gap.frame

    def expire(self, now_s: float) -> None:
        """Evict what has grown too old, but for the newest."""
        oldest_s = now_s - self.limits.max_age_s
        while len(self) > 1 and self._entries[self._start].at_s < oldest_s:
            self._evict()

    def expires_in_s(self, now_s: float) -> float:
        """How long until something grows too old; infinite where nothing can."""
        if len(self) <= 1:
            return inf
        return self._entries[self._start].at_s + self.limits.max_age_s - now_s

    def shrink(self) -> None:
        """Give up the older half: the process holds too much in all."""
        for _ in range(len(self) // 2):
            self._evict()

    def begin_epoch(self, epoch: str) -> None:
        """Start a new numbering: what is held can't be told apart from what comes, so it goes."""
        self._retired = frozenset((*self._index, trim(self.floor_id)))
        self.clear()
        self.epoch = self.name = epoch

    def succeed(self, old: "History") -> None:
        """Take the place of another history: an id that stood for something else there can't be
        told apart from its namesake here.
        """
        changed = (
            key
            for key, offset in self._index.items()
            if (was := old.named(key)) is not None and was.frame != self.entry(offset).frame
        )
        self._retired |= old._retired.union(changed)  # noqa: SLF001 - of the same class

    def retire(self, cursor: bytes) -> None:
        """Upstream has shown that it can't say what follows `cursor`, which was the floor."""
        # One is enough: whoever comes with an earlier one makes upstream refuse it once more.
        self._refused = trim(cursor)
        self.floor_id = b""

    def clear(self, top: int | None = None) -> None:
        """Forget every entry. `top` sets where the numbering goes on."""
        self._entries = []
        self._start = 0
        self._after_gap = False
        self._index = {}
        self._twice = _NONE
        self.size_bytes = 0
        self.floor_id = b""
        if top is not None:
            self.top = top

    def let_go(self) -> None:
        """Forget every entry for good; only where they ended is still known."""
        here = self.place_id(self.top)
        self.clear()
        self.floor_id = here

    def load(self, base: int, floor_id: bytes, top: int, entries: Sequence[Entry]) -> None:
        """Become the copy of a log: entries up to `top`, whose numbering began after `base` at
        `floor_id`.
        """
        first = entries[0].offset if entries else top + 1
        self.clear(first - 1)
        self.floor_id = floor_id if first == base + 1 else b""
        for entry in entries:
            self.append(entry)
        self.top = top

    def truncate(self, top: int) -> None:
        """Take back the entries after `top`: they were never shown to anybody."""
        if top < self.first - 1:
            self.floor_id = b""  # it names a place that is taken back too
        while self.top > top and len(self):
            self.size_bytes -= len(self._entries.pop().frame)
            self.top -= 1
        self.top = top
        # An older entry may have the id of one that is gone now: it is the newest again.
        self._index = {entry.key: entry.offset for entry in self.since(0) if entry.from_upstream}
        self._twice = self._twice.intersection(self._index)

    def find(self, cursor: bytes) -> tuple[Standing, int]:
        """Where a cursor stands; with `HELD`, the offset after which to go on."""
        key = trim(cursor)
        if key in self._retired or key in self._twice or key == self._refused:
            return Standing.LOST, 0
        offset = self._index.get(key)
        if offset is not None:
            return Standing.HELD, offset
        if key and key == trim(self.floor_id):
            return Standing.HELD, self.first - 1
        place = parse_place(key)
        if place is not None:
            return self._find_place(place)
        return (Standing.UNKNOWN if upstream_cursor(key) else Standing.LOST), 0

    def plan_resume(self) -> ResumePlan:
        """Ask for what follows the second-newest id, so that the newest must come back first
        (contract, section 3).

        An id that upstream can't be asked for is passed over. So is one that stands here twice, as
        long as all that would have to come back does too: such a run may match in another place.
        """
        run: list[Entry] = []
        newest: bytes | None = None
        base, n, pinned = b"", 0, False

        def proves(cursor: bytes) -> bool:
            known = cursor != newest and upstream_cursor(cursor)
            return bool(known) and (pinned or cursor not in self._twice)

        for entry in self._newest_since_gap():
            entry_base, entry_n = split_derived(entry.key)
            if entry_base != base and proves(base):
                break
            if entry_n == 0 and newest is not None and proves(entry_base):
                return ResumePlan(entry_base, 0, tuple(reversed(run)))
            if parse_place(entry.key):
                break
            newest = entry_base if newest is None else newest
            base, n = entry_base, entry_n
            run.append(entry)
            pinned = pinned or entry.key not in self._twice
        else:
            # The place before the oldest entry may name one more.
            floor_base, floor_n = split_derived(trim(self.floor_id))
            reached = not run or run[-1].offset == self.first
            if reached and base != floor_base and not proves(base) and proves(floor_base):
                base, n = floor_base, floor_n + 1
        if proves(base):
            return ResumePlan(base, n - 1, tuple(reversed(run)))
        return self._plan_one(newest or b"")

    @property
    def knows_one_since_gap(self) -> bool:
        """Whether the newest event of upstream is the only one since it was found to have lost its
        place. A follower's copy of a log that has let go of that gap doesn't know.
        """
        since_gap = self._newest_since_gap()
        newest = next(since_gap, None)
        if newest is None or next(since_gap, None) is not None:
            return False
        if newest.offset > self.first:
            return self.entry(newest.offset - 1).gap is GapCause.UPSTREAM
        return self._after_gap

    def _plan_one(self, base: bytes) -> ResumePlan:
        """Only one id is known: ask for what follows it. What came after it without an id still
        proves something.
        """
        run: list[Entry] = []
        n = 1
        for entry in self._newest_since_gap():
            entry_base, entry_n = split_derived(entry.key)
            if entry_base != base or entry_n == 0:
                break
            n = entry_n
            run.append(entry)
        ambiguous = base in self._twice and all(entry.key in self._twice for entry in run)
        if ambiguous or not upstream_cursor(base):
            return ResumePlan(b"")
        return ResumePlan(base, n - 1, tuple(reversed(run)))

    def _newest_since_gap(self) -> Iterator[Entry]:
        """What upstream would send again, back to a gap: what was lost there would come first."""
        begun = False
        for slot in range(len(self._entries) - 1, self._start - 1, -1):
            if self._entries[slot].from_upstream:
                begun = True
                yield self._entries[slot]
            elif begun:
                return

    def _find_place(self, place: Place) -> tuple[Standing, int]:
        if place.epoch not in (self.epoch, self.name) or place.offset > self.top:
            return Standing.LOST, 0
        if place.offset < self.first - 1:
            return Standing.EVICTED, 0
        return Standing.HELD, place.offset

    def _slot(self, offset: int) -> int:
        return max(len(self._entries) + offset - self.top - 1, self._start)

    def _evict(self) -> None:
        entry = self._entries[self._start]
        self._entries[self._start] = _NOTHING
        self._start += 1
        if self._start > _SLACK and self._start * 2 > len(self._entries):
            del self._entries[: self._start]
            self._start = 0
        self.size_bytes -= len(entry.frame)
        self._after_gap = entry.gap is GapCause.UPSTREAM
        if not entry.from_upstream:
            # Whoever stands before a gap must not step over it: this place has no name.
            self.floor_id = b""
            return
        key = entry.key
        # An id that two places have had names neither.
        self.floor_id = b"" if key in self._twice else entry.id
        if self._index[key] == entry.offset:
            del self._index[key]
            if key in self._twice:
                self._twice -= {key}


# Shared by all: of ten thousand idle feeds hardly one ever has such keys, and a set of its own is
# 216 bytes for each.
_NONE: frozenset[bytes] = frozenset()
_NOTHING = Entry(0, b"", b"", 0.0, GapCause.EVICTED)
