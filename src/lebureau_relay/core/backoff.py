"""How long to wait before asking again: full jitter over an exponential, so that a herd never
returns in step.
"""

from collections.abc import Callable
from dataclasses import dataclass

# Upstream may ask us to wait; longer than this is more likely a mistake than a wish (contract,
# `upstream.retry_min`).
MAX_HINT_S = 300.0
# 2 ** 30 times the shortest delay is past every setting; further doubling would only overflow.
_MAX_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounds of the reconnect delay, in seconds."""

    min_s: float = 0.5
    max_s: float = 30.0

    def delay_s(self, attempt: int, hint_s: float | None, uniform: Callable[[], float]) -> float:
        """The wait before attempt number `attempt` (0: the first after something worked).

        `hint_s` is upstream's `retry:` or `Retry-After` and raises the floor; `uniform` returns a
        number in [0, 1).
        """
        floor_s = max(self.min_s, min(hint_s or 0.0, MAX_HINT_S))
        span_s = min(self.max_s, self.min_s * 2.0 ** min(attempt + 1, _MAX_DOUBLINGS)) - self.min_s
        if floor_s > self.min_s:  # all were told the same: they must not return in step
            span_s = max(span_s, self.min_s)
        return floor_s + uniform() * span_s


def spread(base: float, uniform: Callable[[], float]) -> float:
    """`base` to one and a half times it: a hint that differs from client to client and is never too
    short.
    """
    return base * (1.0 + 0.5 * uniform())
