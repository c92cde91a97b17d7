"""The hub's rounds: what feeds and streams need about every second, by one timer for all of them.

A timer for each would cost more than what is done at it; and nothing here minds to be late by a
slot.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from lebureau_relay.core.wheel import Wheel
from lebureau_relay.errors import CloseReason
from lebureau_relay.relay.feed import Feed, FeedState
from lebureau_relay.relay.host import Host
from lebureau_relay.relay.subscriber import State, Subscriber

# The wheel's slot: coarse enough to cost nothing when idle, fine enough that nobody notices.
SLOT_S: Final = 0.05
# Feeds are visited this often, and at least ten times within their shortest delay; while nothing is
# due at one, thrice within it: ten thousand silent feeds would else take a good part of a core.
_MAX_TICK_S: Final = 1.0
# How often a stream that may grow old is looked at.
_LOOK_S: Final = 60.0
# Between a join and the attach of its subscriber stands the writing of headers; no feed is let go
# meanwhile.
_ARRIVAL_S: Final = 1.0


class Rounds:
    """What is due, on one wheel. `let_go` closes a feed that nobody needs; `uniform` is random in
    [0, 1).

    The caller owes `start` in a running loop, and `stop`.
    """

    def __init__(
        self, host: Host, let_go: Callable[[Feed], None], uniform: Callable[[], float]
    ) -> None:
        self._host = host
        self._let_go = let_go
        self._uniform = uniform
        self._wheel: Wheel[Callable[[], None]] = Wheel(SLOT_S)
        self._timer: asyncio.TimerHandle | None = None
        timings = host.timings
        shortest_s = min(timings.heartbeat_s, max(timings.linger_s, SLOT_S))
        self._tick_s = max(SLOT_S, min(_MAX_TICK_S, shortest_s / 10))
        self._quiet_s = max(self._tick_s, shortest_s / 3)

    def start(self) -> None:
        """Begin to keep time."""
        self._timer = asyncio.get_running_loop().call_later(SLOT_S, self._on_timer)

    def stop(self) -> None:
        """Do nothing more. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()

    def later(self, after_s: float, look: Callable[[], None]) -> None:
        """Call `look` after that, or a slot later."""
        self._wheel.add(self._host.clock() + after_s, look)

    def visit(self, feed: Feed) -> None:
        """Look after a feed from now on, until it is closed."""
        self.later(self._tick_s, partial(self._tick, feed))

    def see_grow_old(self, subscriber: Subscriber) -> None:
        """End a stream at the oldest it may grow, where there is such an age."""
        max_age_s = self._host.timings.max_age_s
        if max_age_s:
            age_s = max_age_s * (1.0 - 0.2 * self._uniform())
            self._grow_old(subscriber, self._host.clock() + age_s)

    def _on_timer(self) -> None:
        self.start()
        for due in self._wheel.due(self._host.clock()):
            due()

    def _tick(self, feed: Feed) -> None:
        """Now and then a feed beats, expires, notices silence, goes if nobody needs it."""
        if feed.state is FeedState.CLOSED:
            return
        now_s = self._host.clock()
        timings = self._host.timings
        idle_in_s = feed.owner.check_idle(now_s)
        feed.fanout.forget_joins()
        before_bytes = feed.history.memory_bytes
        feed.history.expire(now_s)
        self._host.grown(feed.history.memory_bytes - before_bytes)
        if (
            feed.subscribers
            and now_s - feed.fanout.written_at_s >= timings.heartbeat_s - self._tick_s
        ):
            self._host.turns.job(feed.fanout.heartbeat())
        if not feed.in_use and now_s - feed.used_at_s >= max(timings.linger_s, _ARRIVAL_S):
            self._let_go(feed)
            return
        pause_s = self._tick_s
        if feed.subscribers:
            beat_in_s = feed.fanout.written_at_s + timings.heartbeat_s - self._tick_s - now_s
            due_in_s = min(beat_in_s, idle_in_s, feed.history.expires_in_s(now_s))
            pause_s = max(pause_s, min(due_in_s, self._quiet_s))
        # Out of step with the others, also after a pause that made all of them due at once.
        due_s = now_s + pause_s * (0.9 + 0.2 * self._uniform())
        self._wheel.add(due_s, partial(self._tick, feed))

    def _grow_old(self, subscriber: Subscriber, ends_at_s: float) -> None:
        """Look again now and then: the wheel must not keep a stream that is gone for a day."""
        now_s = self._host.clock()
        if subscriber.reason is not None or subscriber.state is State.GONE:
            return
        if now_s >= ends_at_s:
            subscriber.feed.end(subscriber, CloseReason.MAX_AGE)
            return
        look_s = min(ends_at_s, now_s + _LOOK_S)
        self._wheel.add(look_s, partial(self._grow_old, subscriber, ends_at_s))
