"""The relay against an upstream that keeps a log, loses connections, and may lie about its log.

With an honest upstream the entries are exactly the log. With any other, what was lost, repeated or
put out of order stands behind a gap; but for what the contract admits (section 3, "When the relay
may claim continuity"): a resumption with one known id proves nothing, a first cursor is trusted.
"""

import itertools
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lebureau_relay.core.continuity import Continuity
from lebureau_relay.core.event import Entry, parse_place, split_derived
from lebureau_relay.core.history import History, HistoryLimits, ResumePlan, Standing
from lebureau_relay.core.sse import Decoder

LIMIT_BYTES = 60


@dataclass(frozen=True)
class Block:
    """What upstream said once. `id` None: no id field; `data` None: a block of an id alone."""

    id: bytes | None
    data: bytes | None

    def encode(self) -> bytes:
        name = b"" if self.id is None else b"id: %b\n" % self.id
        return name + (b"" if self.data is None else b"data: %b\n" % self.data) + b"\n"


@dataclass
class Upstream:
    """A log, and a rule of where it goes on after a cursor."""

    log: list[Block] = field(default_factory=list)
    first: int = 0  # blocks that it has forgotten
    resolves_to_first: bool = True  # where an id was said more than once
    numbered: int = 0
    said: int = 0
    joined: int = 0  # where the relay came in without a cursor

    def emit(self, kind: str) -> Block:
        self.said += 1
        data = b"%d" % self.said
        if kind in ("id", "big", "only"):
            self.numbered += 1
        name: bytes | None = b"n%d" % self.numbered
        if kind in ("none", "big none"):
            name = None
        elif kind == "reset":
            name = b""
        elif kind == "again only":
            name = self.last_id()
        if kind in ("only", "again only", "reset"):
            data = None
        elif kind.startswith("big"):
            data += b"x" * LIMIT_BYTES
        self.log.append(Block(name, data))
        return self.log[-1]

    def last_id(self) -> bytes | None:
        """The last event id, if the relay can know from where on it holds."""
        said = [block.id for block in self.log[self.joined :] if block.id is not None]
        return said[-1] if said else None

    def after(self, cursor: bytes, lie: str, by: int) -> int:
        """Where in the log an answer begins."""
        places = [n for n in range(self.first, len(self.log)) if self.log[n].id == cursor]
        if not cursor or lie == "live":
            self.joined = len(self.log)
            return len(self.log)
        if lie == "whole" or not places:
            return self.first
        place = places[0 if self.resolves_to_first else -1] + 1
        return min(max(place + {"late": by, "early": -by}.get(lie, 0), self.first), len(self.log))


class Relay:
    """One feed's history and its connections, as the owner drives them."""

    def __init__(self, limits: HistoryLimits, first_cursor: bytes) -> None:
        self.history = History(limits, "e0", first_cursor)
        self.epochs = 0
        self.fresh = True
        self.plan = ResumePlan(b"")
        self.decoder: Decoder | None = None
        # entries in order; of upstream's with the place in its log, of gaps with None
        self.entries: list[tuple[Entry, int | None]] = []
        self.unproved: set[int] = set()  # entries before which nothing was proved
        self.connections: list[tuple[int, bytes]] = []  # entries before, and what was known

    def new_epoch(self) -> str:
        self.epochs += 1
        return f"e{self.epochs}"

    def ids(self) -> list[bytes]:
        """Upstream's ids in the ring since a gap or since it last gave none, that it can be asked
        for: what was lost in a gap would come first, so no proof reaches over one.
        """
        ids: list[bytes] = []
        for entry in reversed(self.history.since(0)):
            if not entry.from_upstream:
                if ids:
                    break
                continue
            if parse_place(entry.id):
                break
            base = split_derived(entry.id)[0]
            if base not in ids:
                ids.append(base)
        lost = [one for one in ids if self.history.find(one)[0] is Standing.LOST]
        return [one for one in ids if one == ids[0] or one not in lost]

    def connect(self) -> bytes:
        newest = [entry for entry, place in self.entries if place is not None][-1:]
        known = newest[0].id if newest else self.history.floor_id
        self.connections.append((len(self.entries), b"" if parse_place(known) else known))
        floor = ResumePlan(self.history.floor_id)
        self.plan = floor if self.fresh else self.history.plan_resume()
        if not self.plan.run and not self.plan.skip:
            assert self.fresh or len(self.ids()) < 2
            self.unproved.add(len(self.entries))
        self.decoder = Decoder(LIMIT_BYTES, self.plan.cursor)
        self.continuity = Continuity(self.history, self.plan, self.new_epoch, fresh=self.fresh)
        self.fresh = False
        self.entries += [(entry, None) for entry in self.continuity.opened(0.0)]
        return self.plan.cursor

    def hear(self, place: int, sent: bytes) -> None:
        assert self.decoder is not None
        for event in self.decoder.feed(sent):
            for entry in self.continuity.take(event, 0.0):
                self.entries.append((entry, place if entry.from_upstream else None))


def run(steps, upstream: Upstream, relay: Relay) -> None:
    """Steps: ("emit", kind, cut), ("connect", lie, by, cut), ("shrink",), and what a liar does."""
    for name, *how in steps:
        if name == "emit":
            block = upstream.emit(how[0])
            send(relay, len(upstream.log) - 1, block, how[1])
        elif name == "connect":
            lie, by, cut = how
            start = upstream.after(relay.connect(), lie, by)
            for place in range(start, len(upstream.log)):
                left = cut - (place - start)
                send(relay, place, upstream.log[place], cut if left == 0 else 0)
        elif name == "shrink":
            relay.history.shrink()
        elif name == "forget":
            upstream.first = len(upstream.log)
        elif name == "renumber":
            upstream.first, upstream.numbered = len(upstream.log), how[0]
        elif name == "resend" and upstream.log:
            upstream.log.append(upstream.log[-1 - how[0] % len(upstream.log)])
            send(relay, len(upstream.log) - 1, upstream.log[-1], 0)


def send(relay: Relay, place: int, block: Block, cut: int) -> None:
    """Say a block on the connection, if there is one; a cut ends it within the block."""
    if relay.decoder is None:
        return
    sent = block.encode()
    relay.hear(place, sent[:-cut] if cut else sent)
    if cut:
        relay.decoder = None


def check_order(upstream: Upstream, relay: Relay, admitted: set[int]) -> None:
    """Between two entries without a gap nothing was lost, repeated or put out of order.

    Blocks that are alike, id and content, stand for each other: nobody can tell them apart.
    """
    events = [block for block in upstream.log if block.data is not None]
    follows = set(itertools.pairwise(events))
    for at in range(1, len(relay.entries)):
        before, here = relay.entries[at - 1][1], relay.entries[at][1]
        if before is not None and here is not None and at not in admitted:
            pair = (upstream.log[before], upstream.log[here])
            assert pair in follows, (at, [place for _, place in relay.entries])


CUT = st.sampled_from([0, 0, 0, 0, 1, 2, 5])
KINDS = ["id", "id", "id", "none", "none", "only", "again only", "reset"]
LIMITS = st.builds(
    HistoryLimits, max_events=st.sampled_from([1, 2, 3, 5, 100]), max_bytes=st.just(10**6)
)
HONEST = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.sampled_from([*KINDS, "big", "big none"]), CUT),
        st.tuples(st.just("connect"), st.just(""), st.just(0), st.sampled_from([0, 0, 1, 2, 5])),
        st.tuples(st.just("shrink")),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=150)
@given(HONEST, LIMITS, st.sampled_from([b"", b"n1"]))
def test_an_honest_upstream_s_log_arrives_whole_and_once(steps, limits, first_cursor):
    upstream, relay = Upstream(), Relay(limits, first_cursor)
    upstream.emit("id")
    steps = [("connect", "", 0, 0), *steps, ("connect", "", 0, 0)]
    run(steps, upstream, relay)
    check_order(upstream, relay, set())
    # A gap stands exactly where a connection began with nothing known.
    gaps = [at for at, (_, place) in enumerate(relay.entries) if place is None]
    assert gaps == [at for at, known in relay.connections[1:] if not known]
    if not gaps:
        events = [n for n, block in enumerate(upstream.log) if block.data is not None]
        assert [place for _, place in relay.entries] == events[1:]


LIES = ["", "", "live", "whole", "late", "early"]
LYING = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.sampled_from(KINDS), CUT),
        st.tuples(
            st.just("connect"),
            st.sampled_from(LIES),
            st.integers(1, 3),
            st.sampled_from([0, 0, 1, 2, 5]),
        ),
        st.tuples(st.just("shrink")),
        st.tuples(st.just("forget")),
        st.tuples(st.just("renumber"), st.integers(0, 3)),
    ),
    max_size=30,
)
RESENDING = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.sampled_from(["id", "id", "none"]), CUT),
        st.tuples(st.just("connect"), st.sampled_from(LIES), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("resend"), st.integers(0, 3)),
        st.tuples(st.just("shrink")),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=250)
@example(
    [("emit", "id", 0)] * 2 + [("connect", "live", 1, 0), ("emit", "id", 0), ("connect", "", 1, 0)],
    HistoryLimits(),
    b"",
    True,
)  # one id since a gap, more before it
@given(LYING | RESENDING, LIMITS, st.sampled_from([b"", b"n1"]), st.booleans())
def test_whatever_upstream_does_a_loss_stands_behind_a_gap(steps, limits, first_cursor, to_first):
    upstream, relay = Upstream(resolves_to_first=to_first), Relay(limits, first_cursor)
    run([("connect", "", 0, 0), *steps], upstream, relay)
    check_order(upstream, relay, relay.unproved)
