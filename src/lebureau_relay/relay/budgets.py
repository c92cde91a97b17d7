"""The budgets as one process keeps them: open streams and connects by identity, bad credentials by
address, and the 401s that happen upstream.

They are the product where a process is alone, and what a replica falls back on while the server
that replicas share is away. So whoever shares them keeps these in step, under names that mean the
same everywhere, and looks here for what is this process's own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Final

from lebureau_relay.core.limiter import Decision, Limiter
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.ports import Clock, Room

WINDOW_S: Final = 60.0
"""The minute of `limits.upstream_auth_failures_per_minute`, which upstream counts exactly."""


class OnExcess(StrEnum):
    """Which stream goes when an identity opens one too many."""

    REFUSE_NEWEST = "refuse_newest"
    RETIRE_OLDEST = "retire_oldest"


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The `limits` settings of the contract, section 2, by identity and address. 0 is no limit."""

    connects_per_minute: int = 120
    failed_auth_per_minute: int = 5
    streams_per_user: int = 100
    on_excess: OnExcess = OnExcess.REFUSE_NEWEST


def too_many_streams(limit: int) -> Refusal:
    """The refusal of a stream over `limits.streams_per_user`."""
    return Refusal(
        RefusalCode.TOO_MANY_STREAMS,
        f"{limit} streams are open for this user, and no more are allowed; close one.",
        limit=limit,
    )


def rate_limited(decision: Decision) -> Refusal:
    """The refusal of a connection over `limits.connects_per_minute`."""
    return Refusal(
        RefusalCode.RATE_LIMITED,
        f"More than {decision.limit} connections a minute for this user; events don't count, so "
        "keep a stream open instead of asking again.",
        retry_after_s=decision.retry_after_s,
        limit=decision.limit,
    )


class LocalBudgets:
    """`relay.ports.Budgets` of this process alone. `clock` is in seconds and never goes back.

    `seats` are its own open streams, by identity and name, the oldest first, with what retires
    each.
    """

    def __init__(self, limits: BudgetLimits, clock: Clock) -> None:
        self.limits = limits
        self.seats: dict[str, dict[str, Callable[[], None]]] = {}
        self._clock = clock
        self._failures = Limiter[str](limits.failed_auth_per_minute)
        self._connects = Limiter[str](limits.connects_per_minute)
        self._numbers = count(1)

    async def peek(self, address: str) -> Decision:
        """Whether one more credential from this address may be found bad."""
        return self._failures.peek(address, self._clock())

    async def spend(self, address: str) -> None:
        """A credential from this address was found bad."""
        self._failures.spend(address, self._clock())

    async def sit(self, identity: str, retire: Callable[[], None]) -> str:
        """Take a seat; its name."""
        seat = str(next(self._numbers))
        self.take(identity, seat, retire)
        return seat

    def take(self, identity: str, seat: str, retire: Callable[[], None]) -> None:
        """`sit` under a name that the caller gives."""
        limit = self.limits.streams_per_user
        seats = self.seats.get(identity, {})
        full = 0 < limit <= len(seats)
        if full and self.limits.on_excess is OnExcess.REFUSE_NEWEST:
            raise too_many_streams(limit)
        decision = self._connects.peek(identity, self._clock())
        if not decision.allowed:
            raise rate_limited(decision)
        if full:
            self.retire(identity, next(iter(seats)))
        self.enter(identity, seat, retire)

    def enter(self, identity: str, seat: str, retire: Callable[[], None]) -> None:
        """Keep in step with a seat that was taken elsewhere, by whatever counted there."""
        self._connects.spend(identity, self._clock())
        self.seats.setdefault(identity, {})[seat] = retire

    def retire(self, identity: str, seat: str) -> None:
        """End a stream if it is one of ours. It leaves the count now, before it has ended."""
        retire = self.seats.get(identity, {}).pop(seat, None)
        if retire is not None:
            retire()

    def stand(self, identity: str, seat: str) -> None:
        """Give a seat back."""
        seats = self.seats.get(identity, {})
        seats.pop(seat, None)
        if not seats:
            self.seats.pop(identity, None)


class LocalPlaces:
    """`relay.ports.Places` of this process alone. `limit` is 401s a minute, from 1.

    It remembers the 401s of the last minute exactly, rather than by a rate that may come as a burst
    (GCRA): that lets nearly twice as many through in the worst minute, 15 of a limit of 8, where
    upstream bears 10. `failures` are those, each with its time and a name; `held` the places that
    are taken. `names` gives new ones.
    """

    def __init__(self, limit: int, clock: Clock, names: Iterator[str] | None = None) -> None:
        self.limit = limit
        self.failures: deque[tuple[float, str]] = deque(maxlen=limit)
        self.held: dict[str, float] = {}
        self._clock = clock
        self._names = names or map(str, count(1))
        self._freed = asyncio.Event()

    async def take(self, wanted: int) -> Room:
        """Take up to so many places."""
        left = self.limit - len(self.recent())
        if left <= 0:
            return Room(spent_for_s=self.failures[0][0] + WINDOW_S - self._clock())
        places = self.new(min(wanted, left - len(self.held)))
        self.hold(places)
        return Room(places)

    async def freed(self) -> None:
        """Wait until a place was given back."""
        self._freed.clear()
        await self._freed.wait()

    def give_back(self, place: str) -> None:
        """No 401 came of it."""
        self.held.pop(place, None)
        self._freed.set()

    def failed(self, place: str | None) -> None:
        """A 401 happened upstream."""
        self.failures.append((self._clock(), place or next(self._names)))
        if place is not None:
            self.give_back(place)

    def new(self, size: int) -> tuple[str, ...]:
        """Names for that many places, none if it is below 1."""
        return tuple(next(self._names) for _ in range(size))

    def hold(self, places: Iterable[str]) -> None:
        """These are taken, by whatever counted them."""
        self.held.update(dict.fromkeys(places, self._clock()))

    def recent(self) -> deque[tuple[float, str]]:
        """The 401s of the last minute."""
        horizon_s = self._clock() - WINDOW_S
        while self.failures and self.failures[0][0] <= horizon_s:
            self.failures.popleft()
        return self.failures
