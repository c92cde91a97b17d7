"""The models are worth what they catch: each rule of the design is broken here in turn, by one line
of the real code, and the model that walks over it must find that out.

A mutant that survives says that a promise of the contract (section 8) is held by nothing.
"""

import asyncio
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.relay.test_stateful import Dishonest, Honest
from tests.replicas.hubs.test_faults import (
    test_a_stale_owner_appends_nothing_even_where_its_word_would_fit as a_stale_owner_comes_back,
)
from tests.replicas.hubs.test_storm import Storm

from lebureau_relay.broker.memory import MemoryBroker
from lebureau_relay.core.continuity import Continuity
from lebureau_relay.core.history import History, ResumePlan, Standing
from lebureau_relay.relay.feed import Feed
from lebureau_relay.relay.ledger import Ledger
from lebureau_relay.relay.ports import Verdict
from lebureau_relay.relay.share import Share

# The hardest of them falls well before; each stops at its first failure.
_MOST = 400
Patch = pytest.MonkeyPatch


def drops_the_fence_check(patch: Patch) -> None:
    """Anybody may append, whoever has the lease."""
    real = MemoryBroker.append

    async def append(self, feed, token, epoch, after, entries):
        held = self._feed(feed)
        if held.log is None or held.log.epoch != epoch:
            return Verdict.MOVED
        return await real(self, feed, held.token, epoch, held.log.top, entries)

    patch.setattr(MemoryBroker, "append", append)


def lets_everybody_have_the_lease(patch: Patch) -> None:
    """Who asks is the owner."""
    real = MemoryBroker.take

    async def take(self, feed, *, wanted):
        self._feed(feed).token = ""
        return await real(self, feed, wanted=wanted)

    patch.setattr(MemoryBroker, "take", take)


def subscribes_after_it_has_read(patch: Patch) -> None:
    """What is said between the read and the subscription is not heard, nor looked for by a tick."""
    enter, tick = MemoryBroker.enter, MemoryBroker.tick

    def late(self, feed, member):
        asyncio.get_running_loop().call_later(0.01, enter, self, feed, member)

    def silent(self):
        said = {name: self._server.feed(name).log for name in self._names}
        for name in said:
            self._server.feed(name).log = None  # so that it tells of leases only
        tick(self)
        for name, log in said.items():
            self._server.feed(name).log = log

    patch.setattr(MemoryBroker, "enter", late)
    patch.setattr(MemoryBroker, "tick", silent)


def joins_live_before_it_has_replayed(patch: Patch) -> None:
    """The swap of read and subscribe within a feed: what came since the cursor is not sent."""

    def go(self, subscriber, offset):
        subscriber.resume_id = b""
        subscriber.cursor = self.fanout.level
        self.fanout.enter(subscriber)

    patch.setattr(Feed, "_go", go)


def shows_what_the_log_has_not_taken(patch: Patch) -> None:
    """Subscribers get an event before it is in the log, which may never take it."""
    real = Share._append

    def append(self, entries):
        self._feed.accept(entries)
        real(self, entries)

    patch.setattr(Share, "_append", append)


def believes_every_log(patch: Patch) -> None:
    """A log is never held against the history."""
    patch.setattr(Ledger, "_fits", lambda *_: True)


def finds_places_by_number(patch: Patch) -> None:
    """In another numbering a subscriber goes on from the same offset."""

    def find(self, subscriber, old):
        self._feed.move(subscriber, min(subscriber.cursor, self._feed.history.top))

    patch.setattr(Ledger, "_find_place", find)


def asks_for_what_follows_the_newest(patch: Patch) -> None:
    """No overlap, so no proof that upstream honoured the cursor."""

    def plan(self):
        newest = self.place_id(self.top)
        return ResumePlan(b"" if newest.startswith(b"~") else newest.split(b"~lbr")[0])

    patch.setattr(History, "plan_resume", plan)


def takes_repeats_for_news(patch: Patch) -> None:
    """What comes back in the overlap is sent again."""
    patch.setattr(Continuity, "_repeats", lambda *_: False)


def tells_of_no_gap(patch: Patch) -> None:
    """Where a connection doesn't join it goes on as if it did."""
    patch.setattr(Continuity, "_break", lambda *_: [])


def believes_that_every_cursor_is_held(patch: Patch) -> None:
    """An unknown cursor is taken for the newest place."""
    real = History.find

    def find(self, cursor):
        standing, offset = real(self, cursor)
        return (Standing.HELD, offset if standing is Standing.HELD else self.top)

    patch.setattr(History, "find", find)


MUTANTS: list[tuple[Callable[[Patch], None], type]] = [
    (drops_the_fence_check, Storm),
    (lets_everybody_have_the_lease, Storm),
    (subscribes_after_it_has_read, Storm),
    (joins_live_before_it_has_replayed, Honest),
    (believes_every_log, Storm),
    (asks_for_what_follows_the_newest, Dishonest),
    (takes_repeats_for_news, Honest),
    (tells_of_no_gap, Dishonest),
    (believes_that_every_cursor_is_held, Storm),
]
# These hide well: a minute or two each, by `make model`.
HIDDEN = [
    (shows_what_the_log_has_not_taken, Storm),
    (finds_places_by_number, Storm),
]
CHOSEN = MUTANTS + HIDDEN if "RELAY_EXAMPLES" in os.environ else MUTANTS


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mutate", "model"), CHOSEN, ids=lambda one: one.__name__)
def test_the_model_catches(mutate, model, monkeypatch):
    mutate(monkeypatch)
    quick = settings(
        max_examples=_MOST,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011 - however it shows
        run_state_machine_as_test(model, settings=quick)
    assert caught.type.__module__ != "hypothesis.errors", caught.value


async def test_a_schedule_of_its_own_catches_the_dropped_fence(deploy, monkeypatch):
    """The storm meets that schedule by chance, and by another one whenever it is edited."""
    drops_the_fence_check(monkeypatch)
    with pytest.raises(AssertionError):
        await a_stale_owner_comes_back(deploy)
