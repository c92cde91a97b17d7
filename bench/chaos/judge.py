"""What became of every event: each client's diary held against what upstream has said.

Upstream numbers its events without holes and says the number in the data, so a diary is a row of
numbers, whatever ids a relay gives. What is missing is lost, unless the client was told of a gap
just there, or had itself come back without a cursor, with one of an event that it never handed out,
or not at all: what a library can't do is no relay's fault.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median

# Clients in browsers note whole milliseconds, rounded down.
_ROUNDING_S = 0.002
_EXAMPLES = 5
CROWD = "tab"  # the name of each of the kit's own clients
NameOf = Callable[[int, int], str]  # of a feed's number, for people


@dataclass(slots=True)
class Diary:
    """What one client has got, in order: numbers and when (seconds since the epoch), over all its
    connections; and which gaps it was told, each with how many numbers stood here before it.
    `gap_ids` are the ids where continuity ended by what they said, `sure` the numbers of these, -1
    where nobody knows.

    `since` is the number that it had before this diary began; -1: it begins wherever it came in.
    `claims` is when it came back and the number that its cursor names, 0 for no cursor; `gone`:
    it has given up, and nobody will see it again. `trail` is for whoever has to find out why: how
    many numbers stood here when it came back, to which port, with which cursor.
    """

    feed: int
    name: str = CROWD
    since: int = -1
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    times_s: "array[float]" = field(default_factory=lambda: array("d"))
    gaps: list[tuple[int, str]] = field(default_factory=list)
    gap_ids: list[str] = field(default_factory=list)
    sure: list[int] = field(default_factory=list)
    connections: int = 0
    claims: list[tuple[float, int]] = field(default_factory=list)
    trail: list[tuple[int, int, str]] = field(default_factory=list)
    gone: bool = False
    refusals: list[int] = field(default_factory=list)  # statuses other than 200

    def note(self, number: int, at_s: float) -> None:
        """It got an event."""
        self.numbers.append(number)
        self.times_s.append(at_s)

    def gap(self, cause: str, last_id: str = "") -> None:
        """It was told of one."""
        self.gaps.append((len(self.numbers), cause))
        self.gap_ids.append(last_id)

    @property
    def newest(self) -> int:
        """The highest number of late: a wrong order spans no fifty events."""
        return max(self.numbers[-50:], default=self.since)

    def turn_page(self) -> None:
        """Begin anew from here, so that a long run needs no more memory than a short one."""
        self.since = max(max(self.numbers, default=-1), self.since)
        self.numbers, self.times_s = array("q"), array("d", self.times_s[-1:])
        self.gaps, self.claims, self.refusals, self.trail = [], [], [], []
        self.gap_ids, self.sure = [], []
        self.connections = 0

    @property
    def longest_silence_s(self) -> float:
        """Between two events; `turn_page` keeps the last time, so none is forgotten."""
        return max((later - sooner for sooner, later in pairwise(self.times_s)), default=0.0)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The sum over all clients. `told` is missing with a word of it; `own` by the client's own
    doing. `again` came a second time after a gap that said so: from there on nothing is known of
    what came before.
    """

    clients: int
    deliveries: int
    connections: int
    lost: int
    told: int
    own: int
    again: int
    repeated: int
    reordered: int
    gaps: int
    causes: dict[str, int]  # of the gaps
    longest_silence_s: float
    median_silence_s: float  # of the clients' longest
    crowd_wait_s: float  # the longest of the kit's own clients, which come back at once
    delays_s: tuple[float, float, float]  # median, 99 of 100, the longest
    examples: tuple[str, ...]  # of what is wrong, for whoever has to find out why
    notes: tuple[str, ...]  # of what is missing and told

    @property
    def clean(self) -> bool:
        """Nothing was lost without a word, repeated or reordered."""
        return not (self.lost or self.repeated or self.reordered)


def _plain(_feed: int, number: int) -> str:
    return str(number)


@dataclass(slots=True)
class _Sum:
    name: Callable[[int], str] = str
    lost: int = 0
    told: int = 0
    own: int = 0
    again: int = 0
    repeated: int = 0
    reordered: int = 0
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, one: "_Sum") -> None:
        for what in ("lost", "told", "own", "again", "repeated", "reordered"):
            setattr(self, what, getattr(self, what) + getattr(one, what))
        self.examples += [f"{name}: {each}" for each in one.examples[:1]]
        self.notes += [f"{name}: {each}" for each in one.notes[:1]]


def judge(
    diaries: Sequence[Diary], said: Sequence[Sequence[float]], name_of: NameOf = _plain
) -> Judgement:
    """`said` is when each event of each feed was said: number 1 first. By now every client should
    have them all. What is wrong is told by the names of events.
    """
    total = _Sum()
    delays_s: list[float] = []
    for at, diary in enumerate(diaries):
        found = _judge_one(diary, len(said[diary.feed]), partial(name_of, diary.feed))
        total.add(f"{diary.name} {at}, feed {diary.feed}", found)
        delays_s += _delays_s(diary, said[diary.feed])
    delays_s.sort()
    silences_s = [diary.longest_silence_s for diary in diaries]
    waits_s = [_wait_s(one, said[one.feed]) for one in diaries if one.name == CROWD]
    return Judgement(
        clients=len(diaries),
        deliveries=sum(len(diary.numbers) for diary in diaries),
        connections=sum(diary.connections for diary in diaries),
        lost=total.lost,
        told=total.told,
        own=total.own,
        again=total.again,
        repeated=total.repeated,
        reordered=total.reordered,
        gaps=sum(len(diary.gaps) for diary in diaries),
        causes=dict(Counter(cause for diary in diaries for _, cause in diary.gaps)),
        longest_silence_s=max(silences_s, default=0.0),
        median_silence_s=median(silences_s) if silences_s else 0.0,
        crowd_wait_s=max(waits_s, default=0.0),
        delays_s=(share(delays_s, 0.5), share(delays_s, 0.99), share(delays_s, 1.0)),
        examples=tuple(total.examples[:_EXAMPLES]),
        notes=tuple(total.notes[:_EXAMPLES]),
    )


def judge_one(diary: Diary, top: int) -> dict[str, int]:
    """The same for one client alone, by what was wrong."""
    found = _judge_one(diary, top)
    wrong = {name: getattr(found, name) for name in ("lost", "own", "repeated", "reordered")}
    return wrong | {"deliveries": len(diary.numbers), "connections": diary.connections}


def share(ordered: Sequence[float], part: float) -> float:
    """The value that such a part of them doesn't exceed; 0 of none."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def _wait_s(diary: Diary, said: Sequence[float]) -> float:
    """The longest time for which something had been said and nothing came."""
    newest, heard_s, longest_s = diary.since, 0.0, 0.0
    times_s = diary.times_s[len(diary.times_s) - len(diary.numbers) :]
    for number, at_s in zip(diary.numbers, times_s, strict=True):
        if 0 <= newest < len(said):
            longest_s = max(longest_s, at_s - max(heard_s, said[newest]))
        newest, heard_s = max(newest, number), at_s
    return longest_s


def _delays_s(diary: Diary, said: Sequence[float]) -> list[float]:
    times_s = diary.times_s[len(diary.times_s) - len(diary.numbers) :]
    return [
        at_s - said[number - 1]
        for number, at_s in zip(diary.numbers, times_s, strict=True)
        if 0 < number <= len(said)
    ]


def _judge_one(diary: Diary, top: int, name: Callable[[int], str] = str) -> _Sum:
    """From where it came in, or from `since`, it should have every number to `top`."""
    found, seen, newest = _Sum(name), set[int](), diary.since
    holes: list[tuple[int, int, int]] = []  # first, last, place in the diary
    told = _told(diary)
    # After a gap what came before may come again, in order; this did last. Of what is known already
    # nothing is missed where an API that ignores cursors leaves some out of that.
    retold = 0
    for place, number in enumerate(diary.numbers):
        known = number in seen or number <= diary.since
        if 0 <= number <= newest and (place in told or 0 < retold < number):
            found.again += 1
            retold = number
        elif known:
            found.repeated += 1
            found.examples.append(f"{name(number)} again {_context(diary, place)}")
        elif newest > number >= 0:
            found.reordered += 1
            found.examples.append(f"{name(number)} {_context(diary, place)}")
        elif number > newest + 1 and newest >= 0:
            holes.append((newest + 1, number - 1, place))
        seen.add(number)
        retold = 0 if number > newest else retold
        newest = max(newest, number)
    if newest < top:
        holes.append((newest + 1 if newest >= 0 else top, top, len(diary.numbers)))
    for hole in holes:
        _judge_hole(diary, seen, hole, found)
    return found


def _told(diary: Diary) -> set[int]:
    """The places of which a gap says that something may be amiss: where it stands, and all since
    the event that it names.
    """
    told: set[int] = set()
    for at, (place, _) in enumerate(diary.gaps):
        first = place
        number = diary.sure[at] if at < len(diary.sure) else -1
        if number >= 0 and number in diary.numbers[:place]:
            first = place - diary.numbers[:place][::-1].index(number)
        elif number == diary.since >= 0:
            first = 0
        told.update(range(first, place + 1))
    return told


def _context(diary: Diary, place: int) -> str:
    """What a client had at a place of its diary, and how it had come there."""
    had = diary.numbers[max(0, place - 3) : place].tolist()
    gaps = [(diary.numbers[at - 1] if at else diary.since, why) for at, why in diary.gaps]
    came = [
        (diary.numbers[at - 1] if at else diary.since, port, cursor[-6:])
        for at, port, cursor in diary.trail
    ]
    return f"after {had}; gaps after {gaps}; came back after {came}"


def _judge_hole(diary: Diary, seen: set[int], hole: tuple[int, int, int], found: _Sum) -> None:
    """Whose doing it is that some numbers, which should stand at a place, are nowhere."""
    first, last, place = hole
    told = _told(diary)
    missing = [number for number in range(first, last + 1) if number not in seen]
    own = sum(number <= _excused(diary, place) for number in missing)
    if place in told:
        found.told += len(missing)
        found.notes.append(
            f"{found.name(first)} to {found.name(last)} missing and told, {_context(diary, place)}"
        )
        return
    found.own += own
    if len(missing) > own:
        found.lost += len(missing) - own
        found.examples.append(
            f"{found.name(first)} to {found.name(last)} missing, {len(missing)} in all, "
            f"{_context(diary, place)}"
        )


def _excused(diary: Diary, place: int) -> float:
    """Up to which number the client itself has passed over what is missing at this place."""
    if diary.gone and place == len(diary.numbers):
        return float("inf")
    if not place and diary.since < 0:
        return 0  # it had nothing yet that a cursor could name
    times_s = diary.times_s[len(diary.times_s) - len(diary.numbers) :]
    sooner_s = times_s[place - 1] if place else 0.0
    later_s = times_s[place] if place < len(times_s) else float("inf")
    between = [
        number or float("inf")
        for at_s, number in diary.claims
        if sooner_s - _ROUNDING_S <= at_s <= later_s + _ROUNDING_S
    ]
    return max(between, default=0)
