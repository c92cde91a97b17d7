"""What upstream would not open just now: what to answer meanwhile, so that it isn't asked again at
once.

A hundred tabs that come back every few seconds must not become a hundred requests to an API that is
down, and a credential that may not read a stream must not read it because somebody else has it
open.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from lebureau_relay.errors import Refusal

# A stranger can fill this with feeds that never opened; the oldest go first.
_MAX_ANSWERS = 10_000


@dataclass(frozen=True, slots=True)
class _Answer:
    until_s: float
    refusal: Refusal
    attempt: int  # how often in a row it has failed


class HeldOff:
    """The newest failures, by feed, or by feed and credential."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()

    def add(self, key: Hashable, refusal: Refusal, hold_s: float, attempt: int = 0) -> None:
        """Answer with this refusal for so long; the next try will be number `attempt`."""
        self._answers[key] = _Answer(self._clock() + hold_s, refusal, attempt)
        self._answers.move_to_end(key)
        if len(self._answers) > _MAX_ANSWERS:
            self._answers.popitem(last=False)

    def holds(self, key: Hashable) -> bool:
        """Whether there is such an answer just now."""
        answer = self._answers.get(key)
        return answer is not None and answer.until_s > self._clock()

    def attempt(self, key: Hashable) -> int:
        """Which try it is, if upstream may be asked now. Raises the Refusal otherwise."""
        answer = self._answers.get(key)
        if answer is None:
            return 0
        left_s = answer.until_s - self._clock()
        if left_s > 0:
            refusal = answer.refusal
            final = refusal.retry_after_s is None
            raise Refusal(refusal.code, refusal.detail, retry_after_s=None if final else left_s)
        del self._answers[key]
        return answer.attempt
