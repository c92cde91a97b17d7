"""Balance: how many streams a replica should let go, so that all end up with about as many.

Streams live long, so a replica that is added stays empty while the others stay full. Each replica
compares itself with what the others say, and gives up a small share of what it has too much of; its
clients come back wherever the balancer in front sends them. No one decides for all: what is let go
in one place lowers the excess there and nowhere else.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Of the excess, per second: half of it has moved in about a minute, and the last ones go slowly.
SHARE_PER_S: Final = 0.01
# Where clients choose replicas by chance, so many standard deviations from the mean are no excess;
# and whoever has few streams has nothing to give. Without it replicas would swap streams for ever.
_CHANCE: Final = 3.0
_TOLERANCE: Final = 0.05
# After a pause (a stopped process, a server that was away) no more is made up for than this.
_MAX_ELAPSED_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """What one replica says of itself. `ready`: it takes new streams, and will go on to."""

    name: str
    streams: int
    ready: bool


@dataclass(frozen=True, slots=True)
class BalanceRules:
    """`max_per_s` bounds how many streams are let go (0: none ever). The set of replicas must have
    been the same for `settled_s`: in the middle of a rollout whatever moves would move again.
    """

    max_per_s: float
    settled_s: float


class Balance:
    """One replica's look at itself among the others. The caller owes `hear`, about evenly."""

    def __init__(self, own: str, rules: BalanceRules) -> None:
        self._own = own
        self._rules = rules
        self._names: frozenset[str] = frozenset()
        self._settled_at_s = math.inf
        self._heard_at_s = 0.0
        self._due = 0.0  # what is to be let go, in streams; the fraction is kept for the next time

    def hear(self, replicas: Iterable[Load], now_s: float) -> int:
        """What all replicas say, this one among them, at `now_s` of a clock that never goes back.

        Returns how many streams to let go now.
        """
        loads = list(replicas)
        names = frozenset(one.name for one in loads if one.ready)
        elapsed_s = min(now_s - self._heard_at_s, _MAX_ELAPSED_S)
        self._heard_at_s = now_s
        if names != self._names or len(names) < len(loads):
            self._names = names
            self._settled_at_s = now_s + self._rules.settled_s
        if now_s < self._settled_at_s or self._own not in names:
            self._due = 0.0
            return 0
        excess = self._excess(loads)
        if not excess:
            self._due = 0.0
            return 0
        self._due += elapsed_s * min(excess * SHARE_PER_S, self._rules.max_per_s)
        count = int(min(self._due, excess))
        self._due -= count
        return count

    def _excess(self, loads: list[Load]) -> int:
        """How many more than its part this replica has, if that is no chance."""
        mean = sum(one.streams for one in loads) / len(loads)
        ours = next(one.streams for one in loads if one.name == self._own)
        tolerance = max(_TOLERANCE * mean, _CHANCE * math.sqrt(mean))
        return int(ours - mean) if ours > mean + tolerance else 0
