"""Everything at once, in random order: tabs that come, leave, stall and return, an upstream that
cuts, hangs and comes back, relays that are replaced, and time. After every step every tab's bytes
are held against what upstream has said.
"""

import asyncio
import os

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.relay.api import Api, Ask, Said
from tests.relay.house import House
from tests.relay.loop import StillLoop
from tests.relay.reader import Block, Reader
from tests.relay.tabs import Tab, canonical, serial_of

from lebureau_relay.core.backoff import Backoff
from lebureau_relay.core.event import Entry
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.errors import CloseReason, SourceProblem
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.subscriber import State, Subscriber

MAX_TABS = 6
# A ring that a burst overruns, buffers that a few frames fill, and waits that a few steps reach.
LIMITS = HistoryLimits(max_events=12, max_bytes=3_000, max_age_s=6.0)
TIMINGS = StreamTimings(
    heartbeat_s=1.0,
    buffer_bytes=600,
    write_timeout_s=4.0,
    linger_s=3.0,
    catchup_timeout_s=2.0,
)
# How far the loop runs after a step: None until nothing is left to do, else so many turns, so that
# the next step meets work half done.
turns = st.sampled_from([None, None, None, 0, 1, 2, 4])
# Cursors that upstream never gave anybody.
STRANGE = ("odd", "i99999", "~lbrold-3", "~lbr", "i1~lbr0")
pick = st.integers(0, MAX_TABS - 1)
kernels = st.sampled_from([200, 1_000, 100_000])


class World(RuleBasedStateMachine):
    """Upstream, a relay that may be replaced, and tabs."""

    lies = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=StillLoop)
        self.loop = self.runner.get_loop()
        self.api = Api()
        self.tabs: list[Tab] = []
        self.places: dict[str, int | None] = {}  # ids that a relay made: the event they name
        self.serial = 0  # of the newest event
        self.named = 0  # the newest id that upstream gave
        self.houses = 0
        self.settled = True
        self.wrong = False  # a tab was judged to have been deceived
        self.open_house()

    # -- the world's own doings

    def open_house(self) -> None:
        self.houses += 1

        async def build() -> House:
            return House(
                self.loop,
                timings=TIMINGS,
                limits=LIMITS,
                backoff=Backoff(min_s=0.1, max_s=1.0),
                api=self.api,
                name=f"h{self.houses}x",
            )

        self.house = self.runner.run(build())
        self.house.register.withdrawn = self.api.refused  # as everybody who asks upstream is told

    def go(self, count: int | None) -> None:
        """Run the loop, then hold what every tab got against the truth."""

        async def run() -> None:
            if count is None:
                await self.loop.settle()
            else:
                for _ in range(count):
                    await asyncio.sleep(0)

        self.settled = False
        self.runner.run(run())
        self.settled = count is None
        self.look()

    def look(self) -> None:
        self.truth = canonical(self.api)
        self.wrong = True
        for tab in self.tabs:
            for block in tab.look():
                self.judge(tab, block)
        self.wrong = False

    def say(self, *, named: bool, size: int) -> Said:
        """The next event."""
        self.serial += 1
        event_id = None
        if named:
            self.named += 1
            event_id = f"i{self.named}"
        return Said(event_id, f"{self.serial} " + "x" * size)

    def tab(self, number: int) -> Tab | None:
        return self.tabs[number % len(self.tabs)] if self.tabs else None

    def judge(self, tab: Tab, block: Block) -> None:
        raise NotImplementedError

    # -- tabs

    def come(self, tab: Tab, *, reading: bool, kernel: int, count: int | None) -> None:
        tab.connect(self.house, reading=reading, kernel_bytes=kernel)
        self.go(count)

    @precondition(lambda self: len(self.tabs) < MAX_TABS)
    @rule(chunked=st.booleans(), reading=st.booleans(), kernel=kernels, count=turns)
    def fresh_tab(self, chunked, reading, kernel, count):
        self.tabs.append(Tab(None, None, chunked=chunked))
        self.come(self.tabs[-1], reading=reading, kernel=kernel, count=count)

    @precondition(lambda self: len(self.tabs) < MAX_TABS and self.api.log)
    @rule(back=st.integers(0, 30), chunked=st.booleans(), kernel=kernels, count=turns)
    def tab_with_a_known_cursor(self, back, chunked, kernel, count):
        names = list(canonical(self.api).items())
        if names:
            cursor, serial = names[max(len(names) - 1 - back, 0)]
            self.tabs.append(Tab(cursor, serial, chunked=chunked))
            self.come(self.tabs[-1], reading=True, kernel=kernel, count=count)

    @precondition(lambda self: len(self.tabs) < MAX_TABS)
    @rule(
        cursor=st.sampled_from([*STRANGE, "i1~lbr7"]),
        count=turns,
    )
    def tab_with_an_odd_cursor(self, cursor, count):
        self.tabs.append(Tab(cursor, None, chunked=True))
        self.come(self.tabs[-1], reading=True, kernel=1_000, count=count)

    @rule(number=pick, reading=st.booleans(), kernel=kernels, count=turns)
    def come_back(self, number, reading, kernel, count):
        tab = self.tab(number)
        if tab is not None and tab.idle:
            self.come(tab, reading=reading, kernel=kernel, count=count)

    @rule(count=turns)
    def all_come_back(self, count):
        for tab in reversed(self.tabs):
            if tab.idle:
                tab.connect(self.house)
        self.go(count)

    @rule(number=pick, count=turns)
    def leave(self, number, count):
        tab = self.tab(number)
        if tab is not None:
            self.runner.run(self.hang_up(tab))
            self.go(count)

    async def hang_up(self, tab):
        """Within the loop, as a FIN is found there."""
        tab.disconnect()

    @precondition(lambda self: len(self.tabs) == MAX_TABS)
    @rule(number=pick)
    def forget(self, number):
        tab = self.tabs.pop(number)
        self.runner.run(self.hang_up(tab))
        self.go(None)

    @rule(number=pick, count=turns)
    def stall(self, number, count):
        tab = self.tab(number)
        if tab is not None and tab.connected:
            tab.client.wire.stall()
            self.go(count)

    @rule(number=pick, count=turns)
    def read_on(self, number, count):
        tab = self.tab(number)
        if tab is not None and tab.connected:
            tab.client.wire.resume()
            self.go(count)

    @rule(number=pick, size=st.integers(1, 900), count=turns)
    def sip(self, number, size, count):
        tab = self.tab(number)
        if tab is not None and tab.connected:
            tab.client.wire.take(size)
            self.go(count)

    @rule(number=pick, count=turns)
    def revoke(self, number, count):
        """A tab's key is no longer good; who comes back has another."""
        tab = self.tab(number)
        if tab is not None:
            self.api.refused.add(tab.who)
            self.runner.run(self.withdraw(tab.who))
            self.go(count)

    async def withdraw(self, who):
        """Within the loop, as a recheck finds it."""
        self.house.hub.revoke(who)

    @rule(number=pick)
    def change_key(self, number):
        tab = self.tab(number)
        if tab is not None and tab.idle:
            tab.change_key(self.api)

    # -- upstream

    sizes = st.sampled_from([0, 40, 200])

    @rule(burst=st.integers(1, 30), named=st.booleans(), size=sizes, count=turns)
    def emit(self, burst, named, size, count):
        self.api.emit(*(self.say(named=named or n == 0, size=size) for n in range(burst)))
        self.go(count)

    @rule(named=st.booleans(), count=turns)
    def emit_one(self, named, count):
        self.api.emit(self.say(named=named, size=0))
        self.go(count)

    @rule(count=turns)
    def cut(self, count):
        self.api.cut()
        self.go(count)

    @rule(burst=st.integers(1, 15), named=st.booleans(), count=turns)
    def cut_and_emit_while_away(self, burst, named, count):
        self.api.cut()
        self.api.note(*(self.say(named=named, size=10) for _ in range(burst)))
        self.go(count)

    @rule(count=turns)
    def cut_in_the_middle_of_an_event(self, count):
        said = self.say(named=True, size=20)
        self.api.note(said)
        for line in self.api.listening:
            line.send(said.block[:-7])
            line.cut()
        self.go(count)

    @rule(count=turns)
    def hang(self, count):
        self.api.up.clear()
        self.go(count)

    @rule(count=turns)
    def answer_again(self, count):
        self.api.up.set()
        self.go(count)

    @rule(
        problem=st.sampled_from([SourceProblem.UNAVAILABLE, SourceProblem.THROTTLED]),
        count=turns,
    )
    def fail_next(self, problem, count):
        if len(self.api.answers) < 3:
            self.api.fail(problem)
            self.go(count)

    # -- the relay

    @rule(number=pick, count=turns)
    def end(self, number, count):
        tab = self.tab(number)
        if tab is not None and tab.connected:
            tab.client.subscriber.feed.end(tab.client.subscriber, CloseReason.OPERATOR)
            self.go(count)

    @rule(
        order=st.permutations(range(MAX_TABS)),
        first=st.sampled_from(["", "", "fresh", "odd"]),
        away=st.sampled_from(["", "", "cut", "hangs"]),
        emits=st.integers(0, 3),
        count=turns,
    )
    def replace_the_relay(self, order, first, away, emits, count):
        """A deploy: the tabs come to another relay, in any order, a new one perhaps before them."""
        self.runner.run(self.house.close())
        self.look()
        self.open_house()
        self.api.note(*(self.say(named=True, size=10) for _ in range(emits)))
        if first and len(self.tabs) < MAX_TABS:
            self.fresh_tab(chunked=True, reading=True, kernel=1_000, count=None)
        if first == "odd" and len(self.tabs) < MAX_TABS:
            self.tabs.append(Tab(STRANGE[0], None, chunked=True))
            self.come(self.tabs[-1], reading=True, kernel=1_000, count=count)
        if away == "hangs":
            self.api.up.clear()
        if away:
            self.cut(None)
            self.time_passes(0.3)
        for number in order:
            if number < len(self.tabs) and self.tabs[number].idle:
                self.come(self.tabs[number], reading=True, kernel=1_000, count=count)
        self.api.up.set()
        self.go(count)

    @rule(seconds=st.sampled_from([0.06, 0.4, 1.2, 2.3, 7.0]))
    def time_passes(self, seconds):
        self.runner.run(self.loop.advance(seconds))
        self.settled = True
        self.look()

    # -- what always holds

    @invariant()
    def nothing_goes_wrong_unnoticed(self):
        assert self.loop.faults == []
        assert not [note for note in self.house.journal.notes if note[0] == "error"]

    @invariant()
    def one_subscription_and_one_catch_up_at_most(self):
        assert len(self.api.listening) <= 2

    @precondition(lambda self: self.settled)
    @invariant()
    def no_subscription_lives_by_what_was_revoked(self):
        for feed in self.house.hub._feeds.values():
            line = feed.owner._subscription
            alive = line is not None and line.open
            assert not alive or line.ask.credential not in self.api.refused

    @invariant()
    def memory_is_bounded_and_counted(self):
        feeds = list(self.house.hub._feeds.values())
        assert self.house.hub.history_bytes == sum(feed.history.memory_bytes for feed in feeds)
        for feed in feeds:
            assert len(feed.history) <= LIMITS.max_events
            for subscriber in feed.subscribers:
                # The bound, and the one write that went over it.
                unsent = subscriber.transport.get_write_buffer_size()
                assert unsent <= TIMINGS.buffer_bytes + 16 * 1024

    @precondition(lambda self: self.settled)
    @invariant()
    def everybody_stands_where_there_is_nothing_left_to_do(self):
        for feed in self.house.hub._feeds.values():
            for subscriber in feed.subscribers:
                assert subscriber.state is not State.REPLAYING
                if subscriber.state is State.LIVE:
                    assert subscriber.offset == feed.shown == feed.history.top

    def teardown(self) -> None:
        """In the end upstream is well, everybody reads, and nothing may be missing."""
        if self.wrong:
            self.runner.close()
            return
        try:
            self.api.known = "honours"
            self.api.answers.clear()
            self.api.up.set()
            self.time_passes(9.0)
            self.all_come_back(None)
            for tab in self.tabs:
                tab.client.wire.resume()
            self.time_passes(4.0)
            self.api.emit(self.say(named=True, size=0))
            self.go(None)
            if self.lies:  # it is asked again for what it said, until the time is up
                self.time_passes(TIMINGS.catchup_timeout_s)
            for tab in self.tabs:
                assert tab.connected
                assert tab.client.state is State.LIVE
                assert tab.serial == self.serial, "the newest event has reached everybody"
            self.runner.run(self.house.close())
        finally:
            self.runner.close()


class Honest(World):
    """An upstream that keeps its promises: every gap needs a reason."""

    def __init__(self) -> None:
        super().__init__()
        self.api.rejects_unknown = True  # it doesn't pretend to know what follows a stranger's id

    def calm(self) -> bool:
        """Whether the relay is connected, and holds nothing that upstream couldn't name."""
        feeds = list(self.house.hub._feeds.values())
        if not self.settled or not self.api.up.is_set() or self.api.answers:
            return False
        for feed in feeds:
            ids = [entry.id.decode() for entry in feed.history.since(0)]
            floor = feed.history.floor_id.decode()
            if feed.owner.state != "open" or not {*ids, floor} <= {*self.truth, ""}:
                return False
            if feed.catchup.waiting or any(entry.gap for entry in feed.history.since(0)):
                return False
        return True

    @precondition(calm)
    @rule(number=pick)
    def come_back_when_all_is_well(self, number):
        tab = self.tab(number)
        if tab is not None and not tab.idle:
            self.runner.run(self.hang_up(tab))
            self.go(None)
        if tab is not None and tab.cursor in self.truth and self.calm():
            self.come(tab, reading=True, kernel=100_000, count=None)
            if tab.connected:  # an opening that failed may still hold it off
                assert not tab.gaps, "a gap without a reason"
                assert tab.serial == self.serial

    def judge(self, tab: Tab, block: Block) -> None:
        place = self.truth.get(block.id, self.places.get(block.id))
        if block.type == "relay.closing":
            if place is not None and tab.serial is not None and not tab.loose:
                assert place == tab.serial, "it may go on from where it is"
        elif block.type == "relay.gap":
            tab.gaps += 1
            if block.payload["cause"] == "oversize":
                tab.serial = place
                return
            # What could not be found out may lead back: to where the feed stands.
            asked = block.payload["cause"] in ("unknown_id", "evicted")
            if not asked and None not in (place, tab.serial):
                assert place >= tab.serial, "a gap leads back"
            tab.serial = place
            # The place may be that of another gap, which stands where its events are missing.
            tab.loose = place is None or block.payload["cause"] in ("upstream", "unknown_id")
        else:
            serial = serial_of(block.data)
            if block.id.startswith("~lbr"):
                assert self.places.setdefault(block.id, serial) == serial
            else:
                assert place == serial, "an id names one event"
            assert tab.gaps or tab.cursor_sent not in STRANGE, "nobody knows what follows it"
            if tab.serial is None:
                pass
            elif tab.loose:
                assert serial > tab.serial, f"{serial} after {tab.serial}, a gap between"
            else:
                assert serial == tab.serial + 1, f"{serial} after {tab.serial}"
            tab.serial, tab.loose = serial, False


class Dishonest(World):
    """An upstream that forgets, ignores cursors, numbers anew and gives ids twice.

    What it does is found out and told, but for what nobody could find out, which the contract names
    (section 3): the cursor of a first connection and of a catch-up is believed, and so is that of
    a feed that knows only one id, until it was lied to once; and an id that upstream has used for
    two events names either.
    """

    lies = True

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[str, set[int]] = {}  # every id ever given: the events that had it
        self.asked: set[str] = set()  # cursors that were believed
        self.unproved: set[int] = set()  # events that anything may follow: nothing was proved there
        self.believed: set[Subscriber] = set()  # waiters whose request upstream may have lied to
        self.api.notice = self.notice

    def look(self) -> None:
        for name, serial in canonical(self.api).items():
            self.used.setdefault(name, set()).add(serial)
        super().look()
        if self.settled:
            self.believed -= {one for one in self.believed if one.state is State.LIVE}

    def notice(self, ask: Ask) -> None:
        """A stream opens: note what the relay can't but believe, if it is a lie."""
        feed = self.house.hub._feeds[ask.key]
        known = ask.cursor in {one.id for one in self.api.log}
        if known and self.api.known == "honours" and len(self.used[ask.cursor]) == 1:
            return
        if feed.owner.state != "opening":
            self.believed |= {one for one in feed.subscribers if one.state is State.WAITING}
            if self.api.known != "whole":  # which may begin with anything, the live one's first too
                return
        unbroken: list[Entry] = []  # what the feed knows to follow on one another
        for entry in feed.history.since(0):
            unbroken = [*unbroken, entry] if entry.from_upstream else []
        plain = self.api.known != "whole" and len(self.used.get(ask.cursor, ())) < 2
        if plain and feed.history.knows_one_since_gap:  # it will be asked again
            return
        if feed.owner._fresh or len(unbroken) < 2 or unbroken[-2].id.startswith(b"~lbr"):
            self.unproved |= {serial_in(entry) for entry in unbroken[-1:]}
            self.asked.add(ask.cursor)
            for tab in self.tabs:
                tab.believes = tab.believes or not tab.idle

    @rule(count=st.integers(1, 40), turns_=turns)
    def forget_the_oldest(self, count, turns_):
        del self.api.log[:count]
        self.go(turns_)

    @rule(known=st.sampled_from(["honours", "live", "whole"]))
    def treat_cursors(self, known):
        self.api.known = known

    @rule(rejects=st.booleans())
    def reject_unknown_cursors(self, rejects):
        self.api.rejects_unknown = rejects

    @rule(cut=st.booleans(), count=turns)
    def number_anew(self, cut, count):
        self.api.log.clear()
        self.named = 0
        if cut:
            self.api.cut()
        self.go(count)

    @rule(back=st.integers(0, 14), count=turns)
    def say_an_id_twice(self, back, count):
        """An older id for a newer event."""
        self.named = max(self.named - back - 1, 0)
        self.api.emit(self.say(named=True, size=0))
        self.named += back
        self.go(count)

    def ambiguous(self, cursor: str) -> bool:
        """Whether upstream gave it to two events, of which the relay has seen one at most."""
        held = [
            entry
            for feed in self.house.hub._feeds.values()
            for entry in feed.history.since(0)
            if entry.from_upstream and entry.id.decode() == cursor
        ]
        return len(self.used.get(cursor, ())) > 1 and len(held) < 2

    def judge(self, tab: Tab, block: Block) -> None:
        if block.type == "relay.closing":
            return
        if block.type == "relay.gap":
            tab.gaps += 1
            tab.loose = True
            return
        serial = serial_of(block.data)
        self.used.setdefault(block.id, set()).add(serial)
        sent = tab.cursor_sent or ""
        excused = (
            tab.loose
            or tab.serial is None
            or tab.believes
            or tab.client.subscriber in self.believed
            or tab.serial in self.unproved
            or sent.split("~lbr", 1)[0] in self.asked
            or self.ambiguous(sent)
        )
        if not excused:
            assert serial == tab.serial + 1, f"{serial} after {tab.serial}"
        tab.serial, tab.loose, tab.believes = serial, False, False
        tab.cursor_sent = None


def serial_in(entry: Entry) -> int:
    reader = Reader(opening_ms=0)
    reader.feed(entry.frame)
    return serial_of(reader.blocks[0].data)


def examples(count: int) -> settings:
    return settings(
        max_examples=int(os.environ.get("RELAY_EXAMPLES", count)),
        stateful_step_count=50,
        deadline=None,
        derandomize="RELAY_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )


@pytest.mark.timeout(3600)
def test_a_dishonest_upstream_is_found_out():
    run_state_machine_as_test(Dishonest, settings=examples(150))


@pytest.mark.timeout(3600)
def test_an_honest_upstream_is_passed_on_without_loss():
    run_state_machine_as_test(Honest, settings=examples(150))
