"""The deployment's one budget of upstream 401s, and the places of those who may cause one.

Upstream counts them by address, and all replicas have one behind a NAT gateway. So the 401s of the
last minute stand in one set, the places of credentials that are being asked about in another, and a
place is taken, or turned into a 401, in one script. Each call states all that this replica knows of
them, and a replica that has some states them now and then: whatever was lost, or flushed, or
happened while the server was away, is counted again within a third of `redis.lease_ttl`. A killed
replica's places lapse when it would have taken them back itself.

Whoever waits for a place asks again a few dozen times a second, one call a replica however many
wait there, and only while somebody does. A word when one is given back would wake them all at once,
and to hand it on by order of arrival would need a queue in Redis that outlives its members.
"""

import asyncio
import random
import secrets
from itertools import count
from typing import Final

from lebureau_relay.broker.redis.pipe import Pipe
from lebureau_relay.broker.redis.servers import Argument
from lebureau_relay.relay.budgets import WINDOW_S, LocalPlaces
from lebureau_relay.relay.ports import BrokerDown, Clock, Room

# Between two questions for a place, at random so that no replica is always the first.
_ASK_AGAIN_S: Final = (0.01, 0.04)
_STATEMENTS: Final = 3


class RedisPlaces:
    """`relay.ports.Places` on Redis. `run` is its life.

    `lapse_s` is after how long a place counts no more, whatever became of it; `clock` never goes
    back.
    """

    def __init__(
        self, pipe: Pipe, prefix: str, lease_ttl_s: float, limit: int, lapse_s: float, clock: Clock
    ) -> None:
        replica = secrets.token_hex(6)
        self._pipe = pipe
        self._keys = tuple(f"{prefix}:{{upstream-401s}}:{part}" for part in ("failures", "places"))
        self._every_s = lease_ttl_s / _STATEMENTS
        self._lapse_s = lapse_s
        self._clock = clock
        self._local = LocalPlaces(limit, clock, (f"{replica}:{n}" for n in count(1)))
        self._gone: list[str] = []  # places given back, not yet told
        self._more = asyncio.Event()

    async def take(self, wanted: int) -> Room:
        """Take up to so many places."""
        places = self._local.new(wanted)
        try:
            taken, spent_ms = await self._state(places)
        except BrokerDown:
            return await self._local.take(wanted)
        self._local.hold(places[:taken])
        return Room(places[:taken], spent_ms / 1000)

    async def freed(self) -> None:
        """Wait until `take` may find more."""
        await asyncio.sleep(random.uniform(*_ASK_AGAIN_S))  # noqa: S311 - spreads load

    def give_back(self, place: str) -> None:
        """No 401 came of it."""
        self._local.give_back(place)
        self._gone.append(place)
        self._more.set()

    def failed(self, place: str | None) -> None:
        """A 401 happened upstream."""
        self._local.failed(place)
        if place is not None:
            self._gone.append(place)
        self._more.set()

    async def run(self) -> None:
        """State what is known: changes at once, the rest again and again; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._more.wait()
            except TimeoutError:
                if not (self._local.recent() or self._local.held):
                    continue
            self._more.clear()
            try:
                await self._state(())
            except BrokerDown:
                continue  # the next statement says it all again, but for places, which lapse

    async def _state(self, wanted: tuple[str, ...]) -> tuple[int, int]:
        now_s = self._clock()
        failures = self._local.recent()
        gone, self._gone = self._gone, []
        arguments: list[Argument] = [
            *(self._local.limit, int(WINDOW_S * 1000), int(self._lapse_s * 1000)),
            *(len(failures), len(self._local.held), len(gone)),
        ]
        for at_s, name in failures:
            arguments += [int((now_s - at_s) * 1000), name]
        for place, at_s in self._local.held.items():
            arguments += [int((at_s + self._lapse_s - now_s) * 1000), place]
        taken, spent_ms = await self._pipe.call("places", self._keys, (*arguments, *gone, *wanted))
        return int(taken), int(spent_ms)
