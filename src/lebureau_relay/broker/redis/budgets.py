"""The budgets of the whole deployment: streams and connects of an identity, bad credentials of an
address.

A seat is a lease: its name stands in a set under the time at which it runs out, and each replica
states its own again a few times before that. So a killed replica's streams stop counting within
`redis.lease_ttl`, a flushed server learns them anew, and no error stays for longer. An admission is
one script, and one round trip.

Where another replica has the oldest stream of an identity that is over its limit, its seat leaves
the count at once, and that replica finds out when it states its seats next. A word on a channel
would be heard sooner, by a second or two, and could be lost; this way there is one path.

Keys carry the identity's keyed hash, or one of the address. While the server is away, everything is
decided by this replica's own budgets (`relay.budgets`), which are kept in step for that.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Final, NamedTuple

from lebureau_relay.broker.redis.pipe import Pipe
from lebureau_relay.broker.redis.servers import Argument
from lebureau_relay.core.limiter import Decision, judge
from lebureau_relay.relay.budgets import LocalBudgets, OnExcess, rate_limited, too_many_streams
from lebureau_relay.relay.ports import BrokerDown, Clock

# Seats are stated so often within a lease that two statements in a row may be lost.
_STATEMENTS: Final = 3
# Seats of one call, some 0.2 ms of the server's time, and calls of one pipeline.
_SEATS_PER_CALL: Final = 100
_CALLS_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class BudgetKeys:
    """How keys are made: `prefix` begins them, `hash_key` keys the hashes of addresses. `clustered`
    says that no call may look at two identities.
    """

    prefix: str
    hash_key: bytes = field(repr=False)
    clustered: bool = False

    def identity(self, identity: str, *parts: str) -> tuple[str, ...]:
        """The keys of an identity, in one slot."""
        return tuple(f"{self.prefix}:{{{identity}}}:{part}" for part in parts)

    def address(self, address: str) -> str:
        """The key of an address."""
        name = blake2b(address.encode(), key=self.hash_key, digest_size=16, person=b"address")
        return f"{self.prefix}:{{{name.hexdigest()}}}:strikes"


class _Statement(NamedTuple):
    """What this replica knows of one identity's seats."""

    identity: str
    held: Sequence[str]
    gone: Sequence[str]


class RedisBudgets:
    """`relay.ports.Budgets` on Redis. `run` is its life.

    `local` is this replica's own, `wall` the time of day in seconds, by which seats are sorted:
    where the clocks of replicas differ, so may what they call the oldest.
    """

    def __init__(
        self,
        pipe: Pipe,
        keys: BudgetKeys,
        lease_ttl_s: float,
        local: LocalBudgets,
        wall: Clock = time.time,
    ) -> None:
        self._pipe = pipe
        self._keys = keys
        self._lease_ms = int(lease_ttl_s * 1000)
        self._local = local
        self._wall = wall
        self._replica = secrets.token_hex(6)
        self._numbers = count(1)
        self._gone: dict[str, list[str]] = {}  # seats given back, by identity, not yet told
        self._more = asyncio.Event()

    async def peek(self, address: str) -> Decision:
        """Whether one more credential from this address may be found bad."""
        try:
            return await self._strike(address, "")
        except BrokerDown:
            return await self._local.peek(address)

    async def spend(self, address: str) -> None:
        """A credential from this address was found bad."""
        await self._local.spend(address)
        with suppress(BrokerDown):
            await self._strike(address, "1")

    async def sit(self, identity: str, retire: Callable[[], None]) -> str:
        """Take a seat; its name."""
        seat = f"{int(self._wall() * 1000):013}:{self._replica}:{next(self._numbers):08}"
        limits = self._local.limits
        gone = self._gone.pop(identity, ())
        retires = limits.on_excess is OnExcess.RETIRE_OLDEST
        arguments = (
            *(seat, self._lease_ms, limits.streams_per_user, "1" if retires else ""),
            *(limits.connects_per_minute, *gone),
        )
        keys = self._keys.identity(identity, "seats", "retired", "connects")
        try:
            verdict, about = await self._pipe.call("sit", keys, arguments)
        except BrokerDown:
            self._local.take(identity, seat, retire)
            return seat
        if verdict == b"full":
            raise too_many_streams(limits.streams_per_user)
        if verdict == b"often":
            raise rate_limited(judge(limits.connects_per_minute, float(about) / 1000))
        self._local.enter(identity, seat, retire)
        if about:
            self._local.retire(identity, about.decode())
        return seat

    def stand(self, identity: str, seat: str) -> None:
        """Give a seat back."""
        self._local.stand(identity, seat)
        self._gone.setdefault(identity, []).append(seat)
        self._more.set()

    async def _strike(self, address: str, spend: str) -> Decision:
        per_minute = self._local.limits.failed_auth_per_minute
        if not per_minute:
            return judge(0, 0.0)
        keys = (self._keys.address(address),)
        debt_ms = await self._pipe.call("strike", keys, (per_minute, spend))
        return judge(per_minute, float(debt_ms) / 1000)

    # -- life

    async def run(self) -> None:
        """State seats, until cancelled: those given back at once, those held again and again."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._tell())
            parts.create_task(self._keep())

    async def _tell(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            gone, self._gone = self._gone, {}
            # What isn't told runs out by itself.
            await self._state([_Statement(name, (), seats) for name, seats in gone.items()])

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease_ms / 1000 / _STATEMENTS)
            await self._state(
                [_Statement(name, tuple(seats), ()) for name, seats in self._local.seats.items()]
            )

    async def _state(self, statements: Sequence[_Statement]) -> None:
        """Bounded steps: they must not hold up whoever connects meanwhile."""
        calls = list(self._calls(statements))
        for start in range(0, len(calls), _CALLS_AT_ONCE):
            some = calls[start : start + _CALLS_AT_ONCE]
            await asyncio.gather(*map(self._state_some, some))

    def _calls(self, statements: Sequence[_Statement]) -> Iterator[list[_Statement]]:
        """What goes into one call each: some identities, or a part of one's many seats."""
        call: list[_Statement] = []
        room = _SEATS_PER_CALL
        for identity, held, gone in statements:
            for start in range(0, max(len(held), len(gone)), _SEATS_PER_CALL):
                part = slice(start, start + _SEATS_PER_CALL)
                one = _Statement(identity, held[part], gone[part])
                size = len(one.held) + len(one.gone)
                if call and (size > room or self._keys.clustered):
                    yield call
                    call, room = [], _SEATS_PER_CALL
                call.append(one)
                room -= size
        if call:
            yield call

    async def _state_some(self, statements: Sequence[_Statement]) -> None:
        keys: list[str] = []
        arguments: list[Argument] = [self._lease_ms]
        for identity, held, gone in statements:
            keys += self._keys.identity(identity, "seats", "retired")
            arguments += [len(held), len(gone), *held, *gone]
        try:
            retired = await self._pipe.call("seats", keys, arguments)
        except BrokerDown:
            return
        owners = {seat: one.identity for one in statements for seat in one.held}
        for seat in retired:
            name = seat.decode()
            self._local.retire(owners[name], name)
