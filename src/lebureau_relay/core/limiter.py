"""A budget per key and minute: the generic cell rate algorithm (ITU-T I.371), in one process.

It keeps one number per key, the time at which the key's budget is whole again, so it needs no
windows, timers or sweeps. It stands in the core because a limit that can't be tested to the
microsecond is a guess.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

# Whoever rotates keys (addresses, credentials) fills the table; 65 536 entries are some 15 MiB, and
# so many keys that spend within the same minute are an attack, during which forgetting the least
# recent one is the lesser evil.
MAX_KEYS: Final = 65_536

_PERIOD_S: Final = 60.0
# How far to look for an idle key before a busy one is forgotten: past a few heavy users, no more.
_LOOK: Final = 8
# Sums of a minute's fractions miss the minute by some 1e-12; no client can tell a microsecond.
_SLACK_S: Final = 1e-6

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a budget says of one attempt. `limit` 0: it is off, and the other numbers are 0 too."""

    allowed: bool
    limit: int
    remaining: int  # attempts that could follow at once
    reset_s: float  # until the budget is whole again
    retry_after_s: float  # until one attempt would be allowed; 0 if one is now


def judge(per_minute: int, debt_s: float) -> Decision:
    """What a budget says of the next attempt, if it will be whole again after `debt_s`: wherever
    that number is kept.
    """
    if not per_minute:
        return _OFF
    cost_s = _PERIOD_S / per_minute
    wait_s = debt_s + cost_s - _PERIOD_S
    return Decision(
        allowed=wait_s <= _SLACK_S,
        limit=per_minute,
        remaining=math.floor((_PERIOD_S - debt_s + _SLACK_S) / cost_s),
        reset_s=debt_s,
        retry_after_s=wait_s if wait_s > _SLACK_S else 0.0,
    )


class Limiter(Generic[K]):
    """`per_minute` attempts for each key, all at once if need be; they grow back evenly. 0 is off.

    Time is `now`, in seconds on any clock that doesn't go back. A key that isn't in the table has
    its whole budget, so dropping an idle one changes nothing.
    """

    def __init__(self, per_minute: int, max_keys: int = MAX_KEYS) -> None:
        self._limit = per_minute
        self._max_keys = max_keys
        self._cost_s = _PERIOD_S / per_minute if per_minute else 0.0
        self._whole_at_s: OrderedDict[K, float] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._whole_at_s)

    def check(self, key: K, now: float) -> Decision:
        """Spend one attempt if the budget has one left. A refused attempt spends nothing."""
        decision = self.peek(key, now)
        return self.spend(key, now) if decision.allowed else decision

    def peek(self, key: K, now: float) -> Decision:
        """Whether `check` would allow an attempt, and what remains before it; spends nothing."""
        return judge(self._limit, max(self._whole_at_s.get(key, now) - now, 0.0))

    def spend(self, key: K, now: float) -> Decision:
        """Spend one attempt whether or not it is left, for what can only be counted afterwards.

        A debt never grows past the whole budget: a thousand failures that were under way together
        must not lock an address out for a thousand turns.
        """
        if not self._limit:
            return _OFF
        debt_s = min(max(self._whole_at_s.get(key, now) - now, 0.0) + self._cost_s, _PERIOD_S)
        self._whole_at_s[key] = now + debt_s
        self._whole_at_s.move_to_end(key)
        self._prune(now)
        return replace(judge(self._limit, debt_s), allowed=True)

    def _prune(self, now: float) -> None:
        """Drop up to two idle keys for the one that came; a busy one only if the table is full."""
        for _ in range(2):
            oldest = next(iter(self._whole_at_s))
            if self._whole_at_s[oldest] > now:
                break
            del self._whole_at_s[oldest]
        if len(self._whole_at_s) > self._max_keys:
            del self._whole_at_s[self._dispensable(now)]

    def _dispensable(self, now: float) -> K:
        """An idle key among the least recently used, or the very least recently used."""
        oldest = [key for key, _ in zip(self._whole_at_s, range(_LOOK), strict=False)]
        return next((key for key in oldest if self._whole_at_s[key] <= now), oldest[0])


_OFF: Final = Decision(allowed=True, limit=0, remaining=0, reset_s=0.0, retry_after_s=0.0)
