"""A cluster as one client: each feed's keys, and what is said of it, with one of its masters.

redis-py knows which master has which slot; the rest is ours, for the reasons that `servers` gives.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, RedisClusterException

from lebureau_relay.broker.redis.servers import Call, exchange, policies_of
from lebureau_relay.broker.redis.together import together

# Hash tags that are tried to find one for each master of a cluster.
_TAGS: Final = 256


class Cluster:
    """A cluster: the keys of a feed are in one slot, and what is said of it stays with that slot's
    master, where the servers know how (7 and later); before, it goes everywhere.
    """

    clustered = True

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

    @property
    def _sharded(self) -> bool:
        commands = self._redis.commands_parser.commands  # empty until the first answer
        return not commands or "spublish" in commands

    @property
    def publish(self) -> str:
        """The command that says a word to the slot, or to all."""
        return "SPUBLISH" if self._sharded else "PUBLISH"

    @property
    def subscribe(self) -> str:
        """The command that listens."""
        return "SSUBSCRIBE" if self._sharded else "SUBSCRIBE"

    @property
    def unsubscribe(self) -> str:
        """The command that no longer does."""
        return "SUNSUBSCRIBE" if self._sharded else "UNSUBSCRIBE"

    async def load(self, source: str) -> str:
        """Make a script known to every master."""
        return str(await self._redis.script_load(source))

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Run scripts, in one pipeline a master."""
        shares: dict[ClusterNode, list[int]] = {}
        for place, (_, keys, _) in enumerate(calls):
            shares.setdefault(self._node_of(keys[0]), []).append(place)
        answers: list[Any] = [None] * len(calls)
        await together(
            *(self._run_share(node, calls, places, answers) for node, places in shares.items())
        )
        for place, answer in enumerate(answers):
            if isinstance(answer, AskError):  # or MOVED: not executed, and it says where to ask
                sha, keys, arguments = calls[place]
                answers[place] = await self._redis.execute_command(
                    "EVALSHA", sha, len(keys), *keys, *arguments
                )
        return answers

    async def _run_share(
        self, node: ClusterNode, calls: Sequence[Call], places: Sequence[int], answers: list[Any]
    ) -> None:
        async with self.line(node.name, keep=True) as connection:
            said = await exchange(connection, [calls[place] for place in places])
        for place, answer in zip(places, said, strict=True):
            answers[place] = answer

    def tags(self) -> Sequence[str]:
        """Hash tags, one for each master."""
        found: dict[str, str] = {}
        masters = len(self._redis.get_primaries())
        for n in range(_TAGS):
            if len(found) == masters:
                break
            found.setdefault(self._node_of(f"{{{n}}}").name, str(n))
        return tuple(found.values())

    async def refresh(self) -> None:
        """Look again which server has what."""
        await self._redis.initialize()
        await self._redis.nodes_manager.initialize()

    def server_of(self, channel: str) -> str:
        """The name of the server on which a channel is heard."""
        if self._sharded:
            return self._node_of(channel).name
        return min(node.name for node in self._redis.get_primaries())

    @asynccontextmanager
    async def line(self, server: str, *, keep: bool = False) -> AsyncIterator[AbstractConnection]:
        """A connection of one's own; kept for others to use only if told so."""
        node = self._redis.nodes_manager.nodes_cache[server]
        connection = node.acquire_connection()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                await connection.disconnect(nowait=True)
            node.release(connection)

    async def leads(self, line: AbstractConnection) -> bool:  # noqa: ARG002 - it says so itself
        """Whether a line still leads to where others are heard."""
        return True

    async def policies(self) -> frozenset[str]:
        """The eviction policies."""
        found = await self._redis.info("memory", target_nodes=RedisCluster.PRIMARIES)
        return policies_of(found.values())

    async def close(self) -> None:
        """Drop all connections."""
        await self._redis.aclose()

    def _node_of(self, key: str) -> ClusterNode:
        node = self._redis.get_node_from_key(key)
        if node is None:
            raise RedisClusterException("no server has this slot")
        return node
