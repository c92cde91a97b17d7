"""What was said, where only those who heard it can tell: by clients that nobody disturbs.

An event is known by its id and a hash of its data; by its data alone where the relay or nobody gave
it an id. What the first witness and any other client got was said, in the witness's order; what two
others got between two events that stand side by side there was said just there. So the diaries
become rows of numbers, and `judge` reads them as it does where upstream's own word is known.

What one client alone got is nobody's loss: some servers greet each connection. Of what has no id
and comes twice to one client, nobody can tell whether it was said twice or sent twice: it counts
for nothing.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from itertools import pairwise

from bench.chaos.judge import Diary

# Feeds, for the judge: of who hears everything, and of who hears only types that it was told.
ALL, BY_NAME = 0, 1
_SHOWN = 40  # characters of an id


class Sightings:
    """Every event that any client got, as a small number: the same number, the same event. It grows
    with what is said, and lasts for one run.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, bytes]] = []  # id and content
        self.kinds: list[str] = []
        self.named: dict[str, int] = {}  # by id, as cursors name them
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._first: dict[str, bytes] = {}

    def number(self, event_id: str, kind: str, text: str) -> int:
        """Raises ValueError for what the relay says for itself."""
        if kind.startswith("relay."):
            raise ValueError(kind)
        content = blake2b(text.encode(errors="replace"), digest_size=16).digest()
        # Libraries go on to report the last id with events that have none.
        if self._first.setdefault(event_id, content) != content:
            event_id = ""
        number = self._numbers.setdefault((event_id, content), len(self.events))
        if number == len(self.events):
            self.events.append((event_id, content))
            self.kinds.append(kind)
        if event_id:
            self.named.setdefault(event_id, number)
        return number

    def loose(self, number: int) -> bool:
        """Whether its id is nobody's or a relay's own, which another replica calls otherwise."""
        event_id = self.events[number][0]
        return not event_id or event_id.startswith("~lbr")

    def share(self, some: Sequence[int], others: Sequence[int]) -> bool:
        """Whether any event of the one is one of the other's, by whatever id."""
        same = {*others, *(self.events[one][1] for one in others if self.loose(one))}
        alike = {self.events[one][1] for one in others}
        return any(
            one in same
            or self.events[one][1] in same
            or (self.loose(one) and self.events[one][1] in alike)
            for one in some
        )


class Chronicle:
    """The story so far, page by page. `said` is as `judge` wants it."""

    def __init__(self, sightings: Sightings) -> None:
        self.said: list[list[float]] = [[], []]
        self.nameless = 0  # of `said[ALL]`: those without any id
        self.doubtful: set[bytes] = set()
        self._sightings = sightings
        self._numbers: list[dict[int, int]] = [{}, {}]
        self._ids: list[list[str]] = [[], []]  # of `said`
        self._by_content: dict[bytes, int | None] = {}
        self._last = -1

    def number(self, feed: int, cursor: str) -> int:
        """Which event a cursor names; 0 for none, -1 if nobody knows."""
        named = self._sightings.named.get(cursor, -1)
        return self._numbers[feed].get(named, -1) if cursor else 0

    def name_of(self, feed: int, number: int) -> str:
        """An event's number and its id, for people."""
        event_id = self._ids[feed][number - 1] if self._ids[feed] else ""
        return f"{number} (id {event_id[:_SHOWN]})" if event_id else str(number)

    def write(self, diaries: Sequence[Diary], mark: int, told: AbstractSet[str]) -> int:
        """The next page: what the first of them, the witness, got before that place of its diary.
        `told` are the types that BY_NAME hears. Returns how many events it has.
        """
        witness = diaries[0]
        self._align(diaries)
        self._doubt(diaries)
        holders = Counter(seen for diary in diaries for seen in set(diary.numbers))
        fit = {seen for seen, held in holders.items() if held > 1 and self._is_new(seen)}
        order = [seen for seen in dict.fromkeys(witness.numbers[:mark]) if seen in fit]
        following = dict(pairwise([self._last, *order]))
        missed = fit - set(witness.numbers)
        for diary in diaries[1:]:
            self._fill_in(following, diary, missed)
        self._number(following, _times(diaries), told)
        return len(following)

    def page(self, diary: Diary) -> Diary:
        """What of a diary the story can judge by now, in its numbers; the rest stays in it."""
        known = [
            (at, number)
            for at, seen in enumerate(diary.numbers)
            if (number := self._numbers[diary.feed].get(seen)) and not self._is_doubtful(seen)
        ]
        offset = len(diary.times_s) - len(diary.numbers)
        page = Diary(diary.feed, diary.name, diary.since, gone=diary.gone)
        page.times_s.extend(diary.times_s[:offset])
        for at, number in known:
            page.note(number, diary.times_s[offset + at])
        top, places = len(self.said[diary.feed]), [at for at, _ in known]
        cut = places[-1] + 1 if places else 0
        # A gap at the very end is about what is missing there, or about what comes next.
        edge = cut + (page.newest < top)
        page.gaps = [(bisect_left(places, at), why) for at, why in diary.gaps if at < edge]
        page.trail = [(bisect_left(places, at), *how) for at, *how in diary.trail if at < edge]
        page.claims, page.connections = list(diary.claims), diary.connections
        page.refusals = list(diary.refusals)
        _go_on(diary, page, cut, edge)
        diary.since = max(page.newest, top) if page.newest >= 0 else -1
        return page

    def _is_doubtful(self, seen: int) -> bool:
        return self._sightings.events[seen][1] in self.doubtful

    def _is_new(self, seen: int) -> bool:
        return seen not in self._numbers[ALL] and not self._is_doubtful(seen)

    def _align(self, diaries: Sequence[Diary]) -> None:
        """Events that have another id, or none, in another diary get the witness's number."""
        events, loose = self._sightings.events, self._sightings.loose
        known = set(diaries[0].numbers)
        for seen in known:
            content = events[seen][1]
            if self._by_content.setdefault(content, seen) != seen:
                self._by_content[content] = None
        for diary in diaries[1:]:
            for at, seen in enumerate(diary.numbers):
                content = events[seen][1]
                if seen in known or seen in self._numbers[ALL] or content not in self._by_content:
                    continue
                same = self._by_content[content]
                if same is not None and (loose(seen) or loose(same)):
                    diary.numbers[at] = same
                elif same is None and loose(seen):
                    self.doubtful.add(content)

    def _doubt(self, diaries: Sequence[Diary]) -> None:
        for diary in diaries:
            for seen, times in Counter(diary.numbers).items():
                event_id, content = self._sightings.events[seen]
                if not event_id and (times > 1 or seen in self._numbers[ALL]):
                    self.doubtful.add(content)

    def _fill_in(self, following: dict[int, int], diary: Diary, missed: set[int]) -> None:
        """What the witness lacks and this one got between two events that follow one another."""
        known = {*following, *following.values()}
        before, run = None, list[int]()
        for seen in diary.numbers:
            if seen in known:
                if run and before is not None and following.get(before) == seen:
                    following.update(pairwise([before, *dict.fromkeys(run), seen]))
                before, run = seen, []
            elif seen in missed:
                run.append(seen)

    def _number(
        self, following: dict[int, int], times_s: dict[int, float], told: AbstractSet[str]
    ) -> None:
        while (seen := following.get(self._last)) is not None:
            for feed, hears in ((ALL, True), (BY_NAME, self._sightings.kinds[seen] in told)):
                if hears:
                    self.said[feed].append(times_s[seen])
                    self._numbers[feed][seen] = len(self.said[feed])
                    self._ids[feed].append(self._sightings.events[seen][0])
            self.nameless += not self._sightings.events[seen][0]
            self._last = seen


def _times(diaries: Sequence[Diary]) -> dict[int, float]:
    """When each event came: to the witness, where it did."""
    times_s: dict[int, float] = {}
    for diary in diaries:
        offset = len(diary.times_s) - len(diary.numbers)
        for seen, at_s in zip(diary.numbers, diary.times_s[offset:], strict=True):
            times_s.setdefault(seen, at_s)
    return times_s


def _go_on(diary: Diary, page: Diary, cut: int, edge: int) -> None:
    """Take out of a diary what has become a page; its last time stays, for silences."""
    offset = len(diary.times_s) - len(diary.numbers)
    diary.times_s = page.times_s[-1:] + diary.times_s[offset + cut :]
    del diary.numbers[:cut]
    diary.gaps = [(at - cut, why) for at, why in diary.gaps if at >= edge]
    diary.trail = [(at - cut, *how) for at, *how in diary.trail if at >= edge]
    last_s = page.times_s[-1] if page.times_s else 0.0
    diary.claims = [claim for claim in diary.claims if claim[0] > last_s]
    diary.connections, diary.refusals = 0, []
