"""The census: which replicas there are, and how much each of them has.

Each states itself a few times within `redis.lease_ttl` and hears of all others in the same round
trip. Whoever is gone lapses; a server that was flushed knows all again after one round. What a
replica says is the name of its machine, which in Kubernetes is the pod's, and three counts.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from lebureau_relay.broker.redis.pipe import Pipe
from lebureau_relay.relay.observer import ReplicaFacts
from lebureau_relay.relay.ports import BrokerDown

# So often within a lease that two statements in a row may be lost.
_STATEMENTS: Final = 3
# More streams or feeds than any replica has; what is longer was said by nobody of ours.
_MAX_DIGITS: Final = 9


class RedisCensus:
    """`run` is its life. `own` is what this replica says of itself, by a name without blanks that
    no other has; `heard` is told what all say, this one among them, or nothing while the server is
    away.
    """

    def __init__(
        self,
        pipe: Pipe,
        prefix: str,
        lease_ttl_s: float,
        own: Callable[[], ReplicaFacts],
        heard: Callable[[Sequence[ReplicaFacts]], None],
    ) -> None:
        self._pipe = pipe
        self._keys = (f"{prefix}:{{replicas}}:roll",)
        self._lease_ms = int(lease_ttl_s * 1000)
        self._own = own
        self._heard = heard

    async def run(self) -> None:
        """State and hear, until cancelled."""
        said = ""
        while True:
            before, said = said, _written(self._own())
            try:
                arguments = (self._lease_ms, said, before)
                self._heard(list(_read(await self._pipe.call("census", self._keys, arguments))))
            except BrokerDown:
                self._heard(())
            await asyncio.sleep(self._lease_ms / 1000 / _STATEMENTS)


def _written(facts: ReplicaFacts) -> str:
    return f"{facts.streams} {facts.owned} {facts.state} {facts.name}"


def _read(answer: Iterable[bytes]) -> Iterable[ReplicaFacts]:
    """By name. What another version may say, and isn't this, is passed over."""
    found = {}
    for line in answer:
        match line.decode("utf-8", "replace").split(" "):
            case [streams, owned, state, name] if _is_count(streams) and _is_count(owned):
                found[name] = ReplicaFacts(name, int(streams), int(owned), state)
    return (found[name] for name in sorted(found))


def _is_count(word: str) -> bool:
    return word.isdecimal() and len(word) <= _MAX_DIGITS
