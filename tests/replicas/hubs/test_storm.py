"""Everything at once, in random order: replicas that come, go, die and are parted, a server that
stumbles, forgets and goes away, an upstream that cuts, and tabs that wander between replicas. After
every step each tab's bytes are held against what upstream has said.
"""

import asyncio
import os

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.relay.api import Said
from tests.relay.house import Client
from tests.relay.loop import StillLoop
from tests.replicas.hubs.deployment import LEASE_S, Deployment, Replica

from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.errors import Refusal
from lebureau_relay.relay.host import StreamTimings

REPLICAS = 3
TABS = 4
TIMINGS = StreamTimings(linger_s=20.0, catchup_timeout_s=2.0)
# Time that passes after a step: within one call, within a tick, within a lease, and past it.
waits = st.sampled_from([0.0, 0.0005, 0.0015, 0.004, 0.05, 0.3, 1.2, 4.0, 2 * LEASE_S])
replicas = st.integers(0, REPLICAS - 1)
tabs = st.integers(0, TABS - 1)


class Tab:
    """One reader over all its connections; it goes on after the last id that it has.

    Without a gap the next event must follow. After one, nothing comes that stands at or before the
    gap's id.
    """

    def __init__(self, serials: dict[str, int]) -> None:
        self.client: Client | None = None
        self.at: Replica | None = None
        self.last_id: str | None = None
        self.serial: int | None = None  # of the newest event it has
        self._serials = serials  # of every id that any tab has seen
        self._loose = False  # a gap was told: what follows need not be the next
        self._joining: asyncio.Task[Client] | None = None
        self._looked = 0

    def come(self, replica: Replica) -> None:
        self.leave()
        self.at, self.client, self._looked = replica, None, 0
        self._joining = replica.joining(self.last_id)

    def leave(self) -> None:
        self.look()
        if self._joining is not None:
            self._joining.cancel()
            self._joining = None
        elif self.client is not None and not self.client.wire.lost:
            self.client.leave()
        self.client = None

    @property
    def streams(self) -> bool:
        return self.client is not None and not self.client.wire.lost

    @property
    def idle(self) -> bool:
        return self._joining is None and not self.streams

    def look(self) -> None:
        """Read what has come, and judge it."""
        joining = self._joining
        if joining is not None and joining.done():
            self._joining = None
            if not joining.cancelled() and joining.exception() is None:
                self.client = joining.result()
            elif not joining.cancelled():
                assert isinstance(joining.exception(), Refusal), joining.exception()
        if self.client is None:
            return
        blocks = self.client.reader.blocks
        for block in blocks[self._looked :]:
            self.last_id = block.id
            if block.type == "relay.gap":
                self._loose = True
                self.serial = self._serials.get(block.id)  # it is put back to there
            elif not block.type.startswith("relay."):
                self._judge(int(block.data))
                self._serials[block.id] = int(block.data)
        self._looked = len(blocks)

    def _judge(self, serial: int) -> None:
        if self.serial is not None and self._loose:
            assert serial > self.serial, f"{serial} again after {self.serial}, a gap between"
        elif self.serial is not None:
            assert serial == self.serial + 1, f"{serial} after {self.serial}"
        self.serial, self._loose = serial, False


class Storm(RuleBasedStateMachine):
    """A deployment in bad weather."""

    named = True

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=StillLoop)
        self.serial = 0
        self.every = 1
        serials: dict[str, int] = {}
        self.tabs = [Tab(serials) for _ in range(TABS)]
        self.site: Deployment

    def go(self, seconds: float) -> None:
        self.runner.run(self.site.passes(seconds))
        for tab in self.tabs:
            tab.look()

    @initialize(ring=st.sampled_from([1000, 1000, 6]))
    def begins(self, ring):

        async def build() -> Deployment:
            limits = HistoryLimits(max_events=ring)
            return Deployment(self.runner.get_loop(), REPLICAS, limits=limits, timings=TIMINGS)

        self.site = self.runner.run(build())

    # -- upstream

    @rule(count=st.integers(1, 4), wait=waits)
    def speaks(self, count, wait):
        self.site.api.emit(*(self.next() for _ in range(count)))
        self.go(wait)

    def next(self) -> Said:
        self.serial += 1
        named = self.every and self.serial % self.every == 0
        return Said(str(self.serial) if named else None, str(self.serial))

    @rule(wait=waits)
    def cuts(self, wait):
        self.site.api.cut()
        self.go(wait)

    # -- tabs

    @rule(which=tabs, where=replicas, wait=waits)
    def tab_comes(self, which, where, wait):
        self.runner.run(self._come(self.tabs[which], where))
        self.go(wait)

    async def _come(self, tab: Tab, where: int) -> None:
        tab.come(self.site.replicas[where])

    @rule(which=tabs, wait=waits)
    def tab_leaves(self, which, wait):
        self.runner.run(self._leave(self.tabs[which]))
        self.go(wait)

    async def _leave(self, tab: Tab) -> None:
        tab.leave()

    # -- replicas

    @rule(which=replicas, wait=waits)
    def is_parted(self, which, wait):
        self.site.part(self.site.replicas[which])
        self.go(wait)

    @rule(which=replicas, wait=waits)
    def is_healed(self, which, wait):
        self.site.replicas[which].seat.road.set()
        self.go(wait)

    @rule(which=replicas, deaf=st.booleans(), wait=waits)
    def hears(self, which, deaf, wait):
        self.site.replicas[which].seat.deaf = deaf
        self.go(wait)

    @rule(which=replicas, wait=waits)
    def loses_an_answer(self, which, wait):
        self.site.replicas[which].seat.lost_answers = 1
        self.go(wait)

    @rule(which=replicas, wait=waits)
    def loses_a_call(self, which, wait):
        self.site.replicas[which].seat.drop = 1
        self.go(wait)

    @rule(which=replicas, wait=waits, dies=st.booleans())
    def is_replaced(self, which, wait, dies):
        self.runner.run(self._replace(which, dies=dies))
        self.go(wait)

    async def _replace(self, which: int, *, dies: bool) -> None:
        old = self.site.replicas[which]
        if dies:
            old.seat.die()
        await self.site.stop(old)
        self.site.replicas.insert(which, self.site.start())
        self.site.replicas.pop()

    # -- the server

    @rule(wait=waits)
    def forgets(self, wait):
        self.site.server.flush()
        self.go(wait)

    @rule(wait=waits, empty=st.booleans())
    def goes(self, wait, empty):
        self.site.server.switch(False)
        if empty:
            self.site.server.flush()
        self.go(wait)

    @precondition(lambda self: not self.site.server.up)
    @rule(wait=waits)
    def comes(self, wait):
        self.site.server.switch(True)
        self.go(wait)

    @rule(wait=waits, count=st.integers(1, 3))
    def is_rolled_back(self, wait, count):
        for feed in self.site.server.feeds.values():
            if feed.log is not None and len(feed.log) > count:
                feed.log.truncate(feed.log.top - count)
        self.go(wait)

    # -- the end

    def teardown(self) -> None:
        """In the end the weather is fair, and everybody has everything."""
        try:
            if hasattr(self, "site"):
                self.ends_well()
        finally:
            self.runner.run(self._abandon())
            self.runner.close()

    async def _abandon(self) -> None:
        """Let go of what a failure left: what is cancelled may take time to end, which passes only
        here.
        """
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await self.runner.get_loop().advance(60.0)

    def ends_well(self) -> None:
        site = self.site
        site.server.switch(True)
        for replica in site.replicas:
            replica.seat.road.set()
            replica.seat.deaf = False
            replica.seat.lost_answers = replica.seat.drop = 0
        self.go(40.0)
        for number, tab in enumerate(self.tabs):
            if tab.idle:
                self.runner.run(self._come(tab, number % REPLICAS))
        self.go(2 * LEASE_S)
        for _ in range(1 if self.named else 2):  # without names the first one may fall into a gap
            site.api.emit(self.next())
            self.go(2 * LEASE_S)
        for tab in self.tabs:
            assert tab.streams
            assert tab.serial == self.serial, "the newest event has reached everybody"
        assert site.upstreams == 1
        assert [one.role for one in site.replicas if one.hub._feeds].count("owner") == 1
        self.runner.run(site.close())


class Nameless(Storm):
    """An upstream that names one event in three, or none."""

    named = False

    @initialize(every=st.sampled_from([3, 0]))
    def habits(self, every):
        self.every = every


class Starved(Storm):
    """No time for anybody: replicas stand still while others go on, and upstream takes requests
    without an answer. A class of its own, since more rules for all would dilute the others.
    """

    @rule(wait=waits)
    def hangs(self, wait):
        self.site.api.up.clear()
        self.go(wait)

    @precondition(lambda self: not self.site.api.up.is_set())
    @rule(wait=waits)
    def answers(self, wait):
        self.site.api.up.set()
        self.go(wait)

    @rule(which=replicas, wait=waits)
    def is_paused(self, which, wait):
        self.site.pause(self.site.replicas[which])
        self.go(wait)

    @rule(which=replicas, wait=waits)
    def goes_on(self, which, wait):
        self.site.wake(self.site.replicas[which])
        self.go(wait)

    async def _replace(self, which: int, *, dies: bool) -> None:
        self.site.wake(self.site.replicas[which])
        await super()._replace(which, dies=dies)

    async def _abandon(self) -> None:
        for replica in self.site.replicas if hasattr(self, "site") else ():
            self.site.wake(replica)
        await super()._abandon()

    def ends_well(self) -> None:
        self.site.api.up.set()
        for replica in self.site.replicas:
            self.site.wake(replica)
        super().ends_well()


def examples(count: int) -> settings:
    """Always the same storms; RELAY_EXAMPLES asks for so many new ones."""
    return settings(
        max_examples=int(os.environ.get("RELAY_EXAMPLES", count)),
        stateful_step_count=40,
        deadline=None,
        derandomize="RELAY_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


@pytest.mark.timeout(3600)  # a failure is shrunk, which takes minutes
@pytest.mark.parametrize("weather", [Storm, Nameless, Starved])
def test_nothing_is_lost_or_repeated_in_silence(weather):
    run_state_machine_as_test(weather, settings=examples(30))
