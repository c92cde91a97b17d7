"""What became of every event: each client's diary held against what upstream has said.

Upstream numbers its events without holes and gives each number as an id, so a diary is a row of
numbers. Strict: an event that is missing counts as lost also where a gap was told, since this
upstream replays and so nothing ever need be lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(slots=True)
class Diary:
    """What one client has got, in order: numbers and when, over all its connections."""

    feed: int
    numbers: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    connections: int = 0
    refusals: list[int] = field(default_factory=list)  # statuses other than 200

    @property
    def longest_silence_s(self) -> float:
        pairs = zip(self.times_s, self.times_s[1:], strict=False)
        return max((later - sooner for sooner, later in pairs), default=0.0)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The sum over all clients."""

    clients: int
    deliveries: int
    connections: int
    lost: int
    repeated: int
    reordered: int
    gaps: int
    longest_silence_s: float
    median_silence_s: float  # of the clients' longest
    examples: tuple[str, ...]  # of what is wrong, for whoever has to find out why

    @property
    def clean(self) -> bool:
        return not (self.lost or self.repeated or self.reordered)


def judge(diaries: Sequence[Diary], tops: Sequence[int]) -> Judgement:
    """`tops` is the newest number of each feed; by now every client should have it."""
    lost = repeated = reordered = 0
    examples: list[str] = []
    for name, diary in enumerate(diaries):
        wrong = _wrong(diary.numbers, tops[diary.feed])
        lost += wrong.lost
        repeated += wrong.repeated
        reordered += wrong.reordered
        if wrong.first and len(examples) < 5:
            examples.append(f"client {name}, feed {diary.feed}: {wrong.first}; {diary.gaps}")
    silences = [diary.longest_silence_s for diary in diaries]
    return Judgement(
        clients=len(diaries),
        deliveries=sum(len(diary.numbers) for diary in diaries),
        connections=sum(diary.connections for diary in diaries),
        lost=lost,
        repeated=repeated,
        reordered=reordered,
        gaps=sum(len(diary.gaps) for diary in diaries),
        longest_silence_s=max(silences, default=0.0),
        median_silence_s=median(silences) if silences else 0.0,
        examples=tuple(examples),
    )


@dataclass(frozen=True, slots=True)
class _Wrong:
    lost: int
    repeated: int
    reordered: int
    first: str


def _wrong(numbers: Iterable[int], top: int) -> _Wrong:
    """A client begins wherever it came in; from there on it should have every number to `top`."""
    seen: set[int] = set()
    newest = repeated = reordered = 0
    first = ""
    for number in numbers:
        if number in seen:
            repeated += 1
            first = first or f"{number} again after {newest}"
        elif seen and number < newest:
            reordered += 1
            first = first or f"{number} after {newest}"
        elif seen and number > newest + 1:
            first = first or f"{number} after {newest}"
        seen.add(number)
        newest = max(newest, number)
    expected = range(min(seen), top + 1) if seen else range(top, top + 1)
    missing = [number for number in expected if number not in seen]
    if missing:
        first = first or f"{missing[0]} to {missing[-1]} missing, {len(missing)} in all"
    return _Wrong(len(missing), repeated, reordered, first)
