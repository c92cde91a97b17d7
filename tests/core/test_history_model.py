"""The ring against a plain list: whatever happens to it, both say the same of every cursor."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lebureau_relay.core.event import Entry, GapCause, Place, parse_place, upstream_cursor
from lebureau_relay.core.history import History, HistoryLimits, Standing

LIMITS = HistoryLimits(max_events=5, max_bytes=60, max_age_s=10.0)
# Few, so that they come again; one can't be a cursor, two differ only by blanks.
IDS = st.sampled_from([b"a", b"b", b"b~lbr1", b"c ", b" c", b"d\x01", "é".encode()])
FRAMES = st.integers(1, 40).map(lambda size: b"f" * size)


def key_of(name: bytes) -> bytes:
    return name.strip(b" \t")


class Ring(RuleBasedStateMachine):
    """`held` is the ring as a list. A note is what a subscriber that stood somewhere would ask."""

    def __init__(self):
        super().__init__()
        self.history = History(LIMITS, "e0", b"")
        self.held: list[Entry] = []
        self.top = 0
        self.floor = b""
        self.epochs = ["e0"]
        self.again: set[bytes] = set()  # keys that came again while an entry with them was held
        self.retired: set[bytes] = set()
        self.refused = b""
        self.now_s = 0.0
        self.notes: list[tuple[int, bytes, str]] = []

    # -- the list

    def holders(self, key: bytes) -> list[Entry]:
        return [e for e in self.held if e.from_upstream and key_of(e.id) == key]

    @property
    def first(self) -> int:
        return self.top + 1 - len(self.held)

    def evict(self) -> None:
        entry = self.held.pop(0)
        key = key_of(entry.id)
        nameless = not entry.from_upstream or key in self.again
        self.floor = b"" if nameless else entry.id
        self.forget_again()

    def forget_again(self) -> None:
        self.again = {key for key in self.again if self.holders(key)}

    def take(self, entry: Entry) -> None:
        key = key_of(entry.id)
        if entry.from_upstream and (self.holders(key) or key == key_of(self.floor)):
            self.again.add(key)
        self.held.append(entry)
        self.top = entry.offset
        while len(self.held) > 1 and (
            len(self.held) > LIMITS.max_events
            or sum(len(e.frame) for e in self.held) > LIMITS.max_bytes
        ):
            self.evict()

    def standing(self, cursor: bytes) -> tuple[Standing, int]:
        key = key_of(cursor)
        if key in self.retired | self.again | {b"", self.refused}:
            return Standing.LOST, 0
        if self.holders(key):
            return Standing.HELD, self.holders(key)[-1].offset
        if key == key_of(self.floor):
            return Standing.HELD, self.first - 1
        place = parse_place(key)
        if place is None:
            return (Standing.UNKNOWN if upstream_cursor(key) else Standing.LOST), 0
        if place.epoch == self.epochs[-1] and place.offset <= self.top:
            held = place.offset >= self.first - 1
            return (Standing.HELD, place.offset) if held else (Standing.EVICTED, 0)
        return Standing.LOST, 0

    # -- what happens

    @rule(name=IDS | st.none(), frame=FRAMES, gap=st.sampled_from([None, None, GapCause.OVERSIZE]))
    def append(self, name, frame, gap):
        offset = self.top + 1
        name = Place(self.epochs[-1], offset).id if name is None else name
        entry = Entry(offset, name, frame, self.now_s, gap)
        self.history.append(entry)
        self.take(entry)

    @rule(frame=FRAMES)
    def append_gap(self, frame):
        here = self.history.place_id(self.top)
        entry = Entry(self.top + 1, here, frame, self.now_s, GapCause.UPSTREAM)
        self.history.append(entry)
        self.take(entry)

    @rule(after_s=st.integers(0, 8))
    def expire(self, after_s):
        self.now_s += after_s
        self.history.expire(self.now_s)
        while len(self.held) > 1 and self.held[0].at_s < self.now_s - LIMITS.max_age_s:
            self.evict()

    @rule()
    def shrink(self):
        self.history.shrink()
        for _ in range(len(self.held) // 2):
            self.evict()

    @rule()
    def begin_epoch(self):
        self.epochs.append(f"e{len(self.epochs)}")
        self.history.begin_epoch(self.epochs[-1])
        self.retired = {key_of(e.id) for e in self.held if e.from_upstream} | {key_of(self.floor)}
        self.held, self.floor, self.again = [], b"", set()

    @rule(ahead=st.none() | st.integers(0, 3))
    def clear(self, ahead):
        self.history.clear(None if ahead is None else self.top + ahead)
        self.top += ahead or 0
        self.held, self.floor, self.again = [], b"", set()
        self.notes = []

    @rule(back=st.integers(0, 8))
    def truncate(self, back):
        top = max(self.top - back, 0)
        self.history.truncate(top)
        if top < self.first - 1:
            self.floor = b""
        self.held = [e for e in self.held if e.offset <= top]
        self.top = top
        self.forget_again()
        self.notes = [note for note in self.notes if note[0] <= top]

    @precondition(lambda self: not self.held)
    @rule(cursor=IDS)
    def open_at(self, cursor):
        self.history.floor_id = self.floor = cursor

    @precondition(lambda self: not self.held)
    @rule()
    def retire(self):
        self.history.retire(self.floor)
        self.refused, self.floor = key_of(self.floor), b""

    @rule(names=st.lists(IDS, max_size=7), skipped=st.integers(0, 2), floor=IDS)
    def load(self, names, skipped, floor):
        base = self.top
        first = base + 1 + skipped
        entries = [Entry(first + n, name, b"f", self.now_s) for n, name in enumerate(names)]
        top = first + len(entries) - 1
        self.history.load(base, floor, top, entries)
        self.held, self.again, self.notes = [], set(), []
        self.floor = b"" if skipped else floor
        self.top = top
        for entry in entries:
            self.take(entry)

    # -- subscribers come and go

    @rule(back=st.integers(0, 6))
    def note(self, back):
        offset = self.top - back
        if offset >= self.first - 1:
            self.notes.append((offset, self.history.place_id(offset), self.epochs[-1]))

    @rule()
    def nobody_steps_over_an_entry(self):
        """Who asks for what follows a place goes on there, or is told; a gap may be told again."""
        for offset, name, epoch in self.notes:
            standing, found = self.history.find(name)
            if standing is not Standing.HELD or found == offset:
                continue
            between = [e for e in self.held if found < e.offset <= offset]
            again = all(e.gap is GapCause.UPSTREAM for e in between)
            # Only an id that came again once its first place was forgotten can deceive.
            reused = found > offset and self.first > offset + 1
            assert (again and found < offset) or reused or epoch != self.epochs[-1]

    # -- what both must say

    @invariant()
    def they_hold_the_same(self):
        history = self.history
        assert (len(history), history.first, history.top) == (len(self.held), self.first, self.top)
        assert history.size_bytes == sum(len(e.frame) for e in self.held)
        assert history.since(self.first - 1) == history.since(-5) == self.held
        assert [history.entry(e.offset) for e in self.held] == self.held
        assert history.floor_id == self.floor
        from_upstream = [e for e in self.held if e.from_upstream]
        assert history.oldest_from_upstream() == next(iter(from_upstream), None)
        for offset in range(self.first - 1, self.top + 1):
            expected = [e for e in self.held if e.offset > offset]
            assert history.since(offset) == expected
            assert history.window(offset, self.top, 10**6) == expected
            window = history.window(offset, self.top - 1, 30)
            assert window == [e for e in expected if e.offset < self.top][: len(window)]
            assert window or not [e for e in expected if e.offset < self.top]
            assert len(window) < 2 or sum(len(e.frame) for e in window) <= 30

    @invariant()
    def every_cursor_stands_where_the_list_says(self):
        names = {e.id for e in self.held} | {self.floor, b"a", b"\tb ", b"b~lbr1", b"c", b"zz", b""}
        names |= {Place(epoch, self.top - n).id for epoch in self.epochs[-2:] for n in range(-1, 7)
                  if self.top >= n}  # fmt: skip
        for name in names:
            assert self.history.find(name) == self.standing(name), name
            newest = self.holders(key_of(name))[-1:]
            assert [self.history.named(name)] == (newest or [None])
            assert (name in self.history) == bool(newest)

    @invariant()
    def what_it_remembers_is_bounded_by_what_it_holds(self):
        assert len(self.history._index) <= len(self.held)
        assert set(self.history._twice) <= set(self.history._index)
        assert len(self.history._entries) <= max(2 * len(self.held), 70)

    @invariant()
    def a_place_is_named_as_who_stands_there_would_ask_for_it(self):
        for entry in self.held:
            assert self.history.place_id(entry.offset) == entry.id
        below = Place(self.epochs[-1], self.first - 1).id
        assert self.history.place_id(self.first - 1) == (self.floor or below)


TestRing = Ring.TestCase
TestRing.settings = settings(deadline=None, max_examples=30, stateful_step_count=25)
