"""How often somebody may do something: a sliding minute per name.

Written apart from the relay's own limiter on purpose: a stand-in that shared its arithmetic would
share its mistakes.
"""

from collections import deque
from typing import Final

_WINDOW_S: Final = 60.0
# Names come from strangers' addresses; past this many the window that was used longest ago is
# dropped.
_NAMES_HELD: Final = 10_000


class Window:
    """At most `limit` hits per name in 60 s; 0 is no limit. `now_s` never goes back."""

    __slots__ = ("_hits", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._hits: dict[str, deque[float]] = {}

    def wait_s(self, name: str, now_s: float) -> float:
        """How long until a hit would be within the limit: 0 if it would be now."""
        hits = self._hits.get(name)
        if not self.limit or not hits or len(hits) < self.limit:
            return 0.0
        return max(0.0, hits[0] + _WINDOW_S - now_s)

    def hit(self, name: str, now_s: float) -> None:
        """Count one."""
        if not self.limit:
            return
        hits = self._hits.pop(name, None) or deque(maxlen=self.limit)
        hits.append(now_s)
        self._hits[name] = hits
        if len(self._hits) > _NAMES_HELD:
            del self._hits[next(iter(self._hits))]
