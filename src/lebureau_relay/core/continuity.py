"""Continuity: what one upstream connection says, turned into entries that promise no more than is
known.

An upstream that forgets, ignores the cursor, repeats ids or starts its numbering again is found out
here and told by a gap, never papered over (contract, section 3, "When the relay may claim
continuity"). One object per connection.
"""

from collections.abc import Callable

from lebureau_relay.core import sse
from lebureau_relay.core.event import Entry, Event, GapCause, Place, derived_id, trim
from lebureau_relay.core.history import History, ResumePlan


def gap_block(cause: GapCause, last_id: bytes | None, at_id: bytes) -> bytes:
    """A relay.gap: `last_id` is where continuity ends (None: nowhere known), `at_id` where the
    reader stands now.
    """
    last = None if last_id is None else last_id.decode("utf-8", "replace")
    payload = {"cause": cause.value, "lastEventId": last}
    return sse.relay_event("relay.gap", payload, at_id)


class Continuity:
    """Takes events of one connection, appends entries to the history, and finds out where they
    don't join.

    `plan` is what upstream was asked for; `fresh` says that this is the feed's first connection,
    which has nothing to continue but its cursor, and trusts that. `new_epoch` makes names of
    numberings.
    """

    __slots__ = (
        "_fresh",
        "_history",
        "_new_epoch",
        "_next",
        "_plan",
        "_proving",
        "_refuted",
        "_skip",
        "_trusted",
        "in_doubt",
    )

    def __init__(
        self, history: History, plan: ResumePlan, new_epoch: Callable[[], str], *, fresh: bool
    ) -> None:
        self._history = history
        self._plan = plan
        self._new_epoch = new_epoch
        self._fresh = fresh
        self._skip = plan.skip
        self._next = 0  # of plan.run, what must come back next
        self._proving = not fresh and bool(plan.skip or plan.run)
        # the cursor, where nothing has to come back that proves it
        self._trusted = b"" if self._proving else trim(plan.cursor)
        # An upstream that has just been found out may forget again, and its one event since can't
        # prove the contrary: whoever owns this asks once more before it takes what comes first.
        self.in_doubt = not fresh and bool(self._trusted) and history.knows_one_since_gap
        self._refuted = False

    def settle(self, *, proved: bool) -> None:
        """The doubt is over: what comes first follows the cursor, or nobody can say what does."""
        self.in_doubt, self._refuted = False, not proved
        self._trusted = self._trusted if proved else b""

    def opened(self, now_s: float) -> list[Entry]:
        """Upstream has answered. With nothing to ask for, what happened since is lost."""
        if self._fresh or self._plan.cursor:
            return []
        return [self._gap(GapCause.UPSTREAM, now_s)]

    def take(self, event: Event, at_s: float) -> list[Entry]:
        """The entries that an event adds, in order, appended: none for a repeat, a gap before it
        where it doesn't join.
        """
        if self._proving:
            if self._repeats(event):
                return []
            self._proving = False
            return [*self._break(event, at_s), self._entry(event, at_s)]
        known = self._history.named(event.id) if event.id else None
        refuted, self._refuted = self._refuted, False
        if refuted or (known is not None and not same(known, event)):
            return [*self._break(event, at_s), self._entry(event, at_s)]
        if self._trusted and trim(event.id) == self._trusted:
            # The very event that was to be followed: the cursor was ignored.
            return [self._gap(GapCause.UPSTREAM, at_s), self._entry(event, at_s)]
        return [self._entry(event, at_s)]

    def _repeats(self, event: Event) -> bool:
        """Whether the event is the next of the overlap. Clears `_proving` once the overlap has been
        seen whole.
        """
        if self._skip:
            passed = derived_id(self._plan.cursor, self._plan.skip - self._skip + 1)
            if event.id == passed:
                self._skip -= 1
                self._proving = bool(self._skip or self._plan.run)
                return True
            return False
        if same(self._plan.run[self._next], event):
            self._next += 1
            self._proving = self._next < len(self._plan.run)
            return True
        return False

    def _break(self, event: Event, at_s: float) -> list[Entry]:
        """A gap; and a new epoch where a known id has come with other content, since ids mean
        something else now.
        """
        known = self._history.named(event.id) if event.id else None
        if known is not None and not same(known, event):
            last = self._history.place_id(self._history.top)
            self._history.begin_epoch(self._new_epoch())
            return [self._gap(GapCause.UPSTREAM, at_s, last)]
        return [self._gap(GapCause.UPSTREAM, at_s)]

    def _entry(self, event: Event, at_s: float) -> Entry:
        history = self._history
        offset = history.top + 1
        event_id = event.id or Place(history.name, offset).id
        if event.data is None:
            body = gap_block(GapCause.OVERSIZE, history.place_id(history.top), event_id)
            entry = Entry(offset, event_id, sse.chunk(body), at_s, GapCause.OVERSIZE)
        else:
            frame = sse.chunk(sse.block(event_id, event.type, event.data))
            entry = Entry(offset, event_id, frame, at_s)
        history.append(entry)
        return entry

    def _gap(self, cause: GapCause, at_s: float, last_id: bytes | None = None) -> Entry:
        entry = gap_entry(self._history, cause, at_s, last_id)
        self._history.append(entry)
        return entry


def gap_entry(
    history: History, cause: GapCause, at_s: float, last_id: bytes | None = None
) -> Entry:
    """A gap as the next entry of a history, not yet appended. Its id is the place before it."""
    here = history.place_id(history.top)
    body = gap_block(cause, last_id or here, here)
    return Entry(history.top + 1, here, sse.chunk(body), at_s, cause)


def same(entry: Entry, event: Event) -> bool:
    """Whether an event is the one that an entry was made of: id and content."""
    if event.data is None:
        return entry.gap is GapCause.OVERSIZE and entry.id == event.id
    return entry.frame == sse.chunk(sse.block(event.id, event.type, event.data))
