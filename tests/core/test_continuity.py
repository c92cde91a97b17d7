"""What one connection adds to a history, and what it says where things don't join."""

import itertools
import json

import pytest

from lebureau_relay.core import sse
from lebureau_relay.core.continuity import Continuity, gap_block, gap_entry, same
from lebureau_relay.core.event import Entry, Event, GapCause
from lebureau_relay.core.history import History, HistoryLimits, ResumePlan
from lebureau_relay.core.sse import Decoder


class Feed:
    """A history, and the connections that fill it. Events are told as `id=data`."""

    def __init__(self, first_cursor: bytes = b"", limits: HistoryLimits | None = None) -> None:
        self.history = History(limits or HistoryLimits(), "e0", first_cursor)
        self.epochs = (f"e{n}" for n in itertools.count(1))
        self.fresh = True
        self.now_s = 0.0
        self.said: list[str] = []

    def connect(self, *events: str) -> list[str]:
        """A new connection and what it brings; what the history gains by it, as text."""
        floor = ResumePlan(self.history.floor_id)
        plan = floor if self.fresh else self.history.plan_resume()
        self.continuity = Continuity(
            self.history, plan, lambda: next(self.epochs), fresh=self.fresh
        )
        self.fresh = False
        self.now_s += 1
        return [told(entry) for entry in self.continuity.opened(self.now_s)] + self.take(*events)

    def take(self, *events: str) -> list[str]:
        before = self.history.top
        found: list[Entry] = []
        for text in events:
            name, _, data = text.partition("=")
            event = Event(name.encode(), b"", None if data == "BIG" else data.encode())
            found += self.continuity.take(event, self.now_s)
        assert [entry.offset for entry in found] == [before + 1 + n for n in range(len(found))]
        assert {entry.at_s for entry in found} <= {self.now_s}
        return [told(entry) for entry in found]


def read(entry: Entry) -> Event:
    """What a client makes of an entry's frame."""
    [event] = Decoder(10**6).feed(sse.unchunk(entry.frame))
    return event


def told(entry: Entry) -> str:
    event = read(entry)
    assert event.id == entry.id
    assert event.data is not None
    if entry.gap is None:
        return f"{event.id.decode()}={event.data.decode()}"
    assert event.type == b"relay.gap"
    gap = json.loads(event.data)
    assert gap["type"] == "relay.gap"
    assert gap["payload"].keys() == {"cause", "lastEventId"}
    assert gap["payload"]["cause"] == entry.gap
    return f"GAP {gap['payload']['cause']} {gap['payload']['lastEventId']} at {event.id.decode()}"


def test_what_comes_is_kept_with_a_name():
    feed = Feed()
    assert feed.connect("a=1", "=2", "b=3") == ["a=1", "~lbre0-2=2", "b=3"]
    assert feed.history.top == 3


def test_the_overlap_is_dropped_and_what_follows_is_kept():
    feed = Feed()
    feed.connect("a=1", "b=2", "b~lbr1=3")
    assert feed.connect("b=2", "b~lbr1=3", "c=4") == ["c=4"]
    assert feed.connect("b~lbr1=3", "c=4") == []
    assert feed.connect("b~lbr1=3", "c=4", "d=5") == ["d=5"]
    assert feed.connect("d=5", "d~lbr1=6") == ["d~lbr1=6"]


@pytest.mark.parametrize(
    ("brings", "gains"),
    [
        (["d=4"], ["GAP upstream c at c", "d=4"]),
        (["b=2", "c=3"], ["GAP upstream c at c", "b=2", "c=3"]),
        (["=3"], ["GAP upstream c at c", "~lbre0-5=3"]),
        # the newest id with other content: the numbering has begun again
        (["c=x", "d=4"], ["GAP upstream c at ~lbre1-3", "c=x", "d=4"]),
        (["a=x"], ["GAP upstream c at ~lbre1-3", "a=x"]),
        (["c=BIG"], ["GAP upstream c at ~lbre1-3", "GAP oversize ~lbre1-3 at c"]),
    ],
)
def test_anything_but_the_newest_first_is_a_gap(brings, gains):
    feed = Feed()
    feed.connect("a=1", "b=2", "c=3")
    assert feed.connect(*brings) == gains


def test_an_overlap_that_breaks_off_is_a_gap_there():
    feed = Feed()
    feed.connect("a=1", "b=2", "b~lbr1=3")
    assert feed.connect("b=2", "c=4") == ["GAP upstream b~lbr1 at b~lbr1", "c=4"]


def test_an_overlap_cut_short_costs_nothing():
    feed = Feed()
    feed.connect("a=1", "b=2", "b~lbr1=3")
    assert feed.connect("b=2") == []
    assert feed.connect("b=2", "b~lbr1=3", "b~lbr2=4") == ["b~lbr2=4"]


def test_what_was_evicted_is_passed_over_by_name():
    feed = Feed(limits=HistoryLimits(max_events=1))
    feed.connect("a=1", "a~lbr1=2", "a~lbr2=3")
    assert feed.connect("a~lbr1=2", "a~lbr2=3", "b=4") == ["b=4"]
    feed = Feed(limits=HistoryLimits(max_events=1))
    feed.connect("a=1", "a~lbr1=2", "a~lbr2=3")
    assert feed.connect("b=4") == ["GAP upstream a~lbr2 at a~lbr2", "b=4"]


def test_passed_over_and_nothing_else_to_prove():
    feed = Feed(first_cursor=b"a~lbr2")
    feed.fresh = False
    assert feed.connect("a~lbr1=1", "a~lbr2=2", "a~lbr3=3") == ["a~lbr3=3"]


def test_without_any_id_every_reconnection_is_a_gap():
    feed = Feed()
    assert feed.connect() == []
    assert feed.connect("=1") == ["GAP upstream ~lbre0-0 at ~lbre0-0", "~lbre0-2=1"]
    assert feed.connect("=1") == ["GAP upstream ~lbre0-2 at ~lbre0-2", "~lbre0-4=1"]


def test_a_known_id_with_other_content_is_a_gap_in_mid_stream_too():
    feed = Feed()
    gains = feed.connect("a=1", "b=2", "a=3", "b=2")
    assert gains == ["a=1", "b=2", "GAP upstream b at ~lbre1-2", "a=3", "b=2"]
    assert feed.history.epoch == "e1"
    assert len(feed.history) == 3, "what is held can't be told apart from what comes"


def test_repeats_outside_the_overlap_are_never_dropped():
    feed = Feed()
    assert feed.connect("a=1", "a=1", "b=2", "a=1") == ["a=1", "a=1", "b=2", "a=1"]


@pytest.mark.parametrize("fresh", [True, False])
def test_the_very_event_that_was_to_be_followed_shows_an_ignored_cursor(fresh):
    feed = Feed(first_cursor=b"a")
    if not fresh:
        feed = Feed()
        feed.connect("a=1")
    here = feed.history.place_id(feed.history.top).decode()
    assert feed.connect("a=1", "b=2") == [f"GAP upstream {here} at {here}", "a=1", "b=2"]


def test_a_first_cursor_is_trusted_and_one_id_too():
    assert Feed(first_cursor=b"a").connect("c=3") == ["c=3"]
    feed = Feed()
    feed.connect("a=1")
    assert feed.connect("c=3") == ["c=3"]


def test_an_event_that_was_too_big_is_known_by_its_id():
    feed = Feed()
    assert feed.connect("a=1", "b=BIG") == ["a=1", "GAP oversize a at b"]
    assert feed.connect("b=BIG", "=BIG") == ["GAP oversize b at ~lbre0-3"]


def test_a_gap_entry_stands_where_the_reader_does():
    feed = Feed()
    feed.connect("a=1")
    entry = gap_entry(feed.history, GapCause.DEGRADED, 7.0)
    assert (entry.offset, entry.id, entry.at_s, entry.gap) == (2, b"a", 7.0, GapCause.DEGRADED)
    assert told(entry) == "GAP degraded a at a"
    assert told(gap_entry(feed.history, GapCause.SLOW, 7.0, b"z")) == "GAP slow z at a"
    assert feed.history.top == 1, "it is for the caller to append"


@pytest.mark.parametrize(("last_id", "said"), [(None, None), (b"", ""), (b"a\xff", "a�")])
def test_a_gap_says_what_is_known_of_where_continuity_ends(last_id, said):
    [event] = Decoder(10**6).feed(gap_block(GapCause.UNKNOWN_ID, last_id, b"b"))
    assert event.id == b"b"
    assert event.data is not None
    assert json.loads(event.data)["payload"] == {"cause": "unknown_id", "lastEventId": said}


def test_same_is_id_type_and_data():
    feed = Feed()
    feed.connect("a=1", "b=BIG")
    entry, big = feed.history.since(0)
    assert same(entry, Event(b"a", b"", b"1"))
    assert same(big, Event(b"b", b"", None))
    others = [Event(b"b", b"", b"1"), Event(b"a", b"t", b"1"), Event(b"a", b"", b"2")]
    assert not any(same(entry, event) for event in [*others, Event(b"a", b"", None)])
    assert not same(big, Event(b"a", b"", None))
    assert not same(big, Event(b"b", b"relay.gap", b"x"))


@pytest.mark.parametrize(
    ("proved", "gap"), [(True, []), (False, ["GAP upstream z at z"])], ids=["proved", "refuted"]
)
def test_one_id_after_a_gap_is_doubted_until_somebody_has_asked(proved, gap):
    feed = Feed()
    feed.connect("a=1", "b=2")
    assert not feed.continuity.in_doubt
    assert feed.connect("z=9") == ["GAP upstream b at b", "z=9"]
    feed.connect()
    assert feed.continuity.in_doubt
    feed.continuity.settle(proved=proved)
    assert not feed.continuity.in_doubt
    assert feed.take("y=8", "x=7") == [*gap, "y=8", "x=7"]
