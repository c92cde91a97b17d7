"""How fast the inner pieces are: a regression is seen in minutes, without a quiet machine.

No thresholds: what is asserted is that the piece did its work. `make test` runs each for a moment,
`make micro` for long enough to believe the numbers.
"""

from types import SimpleNamespace

import pytest

from lebureau_relay.core import sse
from lebureau_relay.core.continuity import Continuity
from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.core.event import Entry, Event
from lebureau_relay.core.history import History, HistoryLimits, ResumePlan, Standing
from lebureau_relay.relay.fanout import Fanout
from lebureau_relay.relay.subscriber import Subscriber

EVENTS = 100
DATA = b'{"n":100000000001,"pad":"%b"}' % (b"x" * 174)
STREAM = b"".join(b"id: %d\ndata: %b\n\n" % (n, DATA) for n in range(EVENTS))
# Far from now, so that a flush is never interrupted.
NEVER_S = 1e12


def full_history(events: int) -> History:
    history = History(HistoryLimits(max_events=events, max_bytes=1 << 30), "e")
    for n in range(1, events + 1):
        event_id = b"%d" % n
        frame = sse.chunk(sse.block(event_id, b"", DATA))
        history.append(Entry(n, event_id, frame, 0.0))
    return history


@pytest.mark.parametrize("piece_bytes", [len(STREAM), 1448])
def test_decode(benchmark, piece_bytes):
    """A hundred events, as they come from loopback and as they come in TCP segments."""
    pieces = [STREAM[at : at + piece_bytes] for at in range(0, len(STREAM), piece_bytes)]

    def decode() -> int:
        decoder = sse.Decoder(1 << 20)
        return sum(len(decoder.feed(piece)) for piece in pieces)

    assert benchmark(decode) == EVENTS


def test_frame(benchmark):
    """One event's bytes, as every subscriber gets them."""
    frame = benchmark(lambda: sse.chunk(sse.block(b"100000000001", b"", DATA)))
    assert sse.unchunk(frame) == b"id: 100000000001\ndata: %b\n\n" % DATA


def test_append(benchmark):
    """A hundred events through continuity into a history that is full, so that each evicts one."""
    history = full_history(1000)
    continuity = Continuity(history, ResumePlan(b""), lambda: "f", fresh=True)
    ids = iter(range(1001, 1 << 60))

    def append() -> None:
        for _ in range(EVENTS):
            continuity.take(Event(b"%d" % next(ids), b"", DATA), 0.0)

    benchmark(append)
    assert len(history) == 1000
    assert history.top >= 1000 + EVENTS


@pytest.mark.parametrize("events", [100, 10_000])
def test_resume(benchmark, events):
    """Where a cursor stands and what has to be replayed from there: the same for any history."""
    history = full_history(events)
    cursor = b"%d" % (events - 50)

    def resume() -> tuple[Standing, list[Entry]]:
        standing, offset = history.find(cursor)
        return standing, history.window(offset, history.top, 16 * 1024)

    standing, entries = benchmark(resume)
    assert standing is Standing.HELD
    assert len(entries) == 50


class Sink:
    """A transport that takes whatever is written."""

    def __init__(self) -> None:
        self.writes = 0

    def write(self, _: bytes) -> None:
        self.writes += 1


@pytest.mark.parametrize("events", [1, 50])
def test_flush(benchmark, events):
    """What is new to a thousand subscribers, with the kernel's price left out."""
    sink = Sink()
    feed = SimpleNamespace(
        history=full_history(1000),
        shown=1000 - events,
        meter=SimpleNamespace(delivered=lambda *_: None, delay=lambda _: None),
    )
    credential = Credential(CredentialKind.KEY, "lb_k_micro")
    feed.fanout = fanout = Fanout(feed, lambda: 0.0)
    crowd = [
        Subscriber(feed, sink, credential, chunked=True, on_gone=lambda: None) for _ in range(1000)
    ]

    def behind() -> None:
        fanout.restart(1000 - events)
        for one in crowd:
            fanout.enter(one)
        feed.shown = 1000

    rounds = 20
    assert benchmark.pedantic(lambda: fanout.flush(NEVER_S), setup=behind, rounds=rounds)
    assert {one.offset for one in crowd} == {1000}
    assert sink.writes >= 1000
