"""A server as the pipe and the ears need it, and the single ones: on its own, or under a Sentinel.

redis-py brings connections: handshake, TLS, parser, discovery. Its own pipelines and pub/sub are
passed by: they pack commands in Python at three times the price, resubscribe without a word, and a
cluster's shards are listened to one after the other.
"""

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError, ResponseError

Argument = str | bytes | int
Call = tuple[str, Sequence[str], Sequence[Argument]]  # a script's hash, its keys, its arguments


class Client(Protocol):
    """What the pipe and the ears need of a server or a cluster."""

    @property
    def clustered(self) -> bool:
        """Whether two feeds may be on two servers, so that no script can look at both."""

    @property
    def publish(self) -> str:
        """The command that says a word on a channel, from within a script."""

    @property
    def subscribe(self) -> str:
        """The command that listens to a channel."""

    @property
    def unsubscribe(self) -> str:
        """The command that no longer does."""

    async def load(self, source: str) -> str:
        """Make a script known to every server; its hash."""

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Run scripts in one pipeline; errors stand in the place of answers. One at a time."""

    def tags(self) -> Sequence[str]:
        """Hash tags: one for each server that takes writes."""

    async def refresh(self) -> None:
        """Look again which server has what."""

    def server_of(self, channel: str) -> str:
        """The name of the server on which a channel is heard."""

    def line(self, server: str) -> AbstractAsyncContextManager[AbstractConnection]:
        """A connection of one's own to a server; dropped afterwards."""

    async def leads(self, line: AbstractConnection) -> bool:
        """Whether a line still leads to where others are heard, as far as can be told."""

    async def policies(self) -> frozenset[str]:
        """The servers' eviction policies; those that won't say are left out."""

    async def close(self) -> None:
        """Drop all connections. May be called twice."""


class Server:
    """A single server."""

    clustered = False
    publish = "PUBLISH"
    subscribe = "SUBSCRIBE"
    unsubscribe = "UNSUBSCRIBE"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        # Kept between pipelines: the pool's care for it costs as much as ten calls.
        self._connection: AbstractConnection | None = None

    async def load(self, source: str) -> str:
        """Make a script known."""
        return str(await self._redis.script_load(source))

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Run scripts in one pipeline."""
        connection, self._connection = self._connection, None
        if connection is None:
            connection = await self._connect()
        try:
            answers = await exchange(connection, calls)
        except BaseException:
            await self._drop(connection)
            raise
        self._connection = connection
        return answers

    def tags(self) -> Sequence[str]:
        """One server, one tag."""
        return ("0",)

    async def refresh(self) -> None:
        """It is where it was."""

    def server_of(self, channel: str) -> str:  # noqa: ARG002 - there is but one
        """All is heard on one."""
        return ""

    @asynccontextmanager
    async def line(self, server: str) -> AsyncIterator[AbstractConnection]:  # noqa: ARG002
        """A connection of one's own."""
        connection = await self._connect()
        try:
            yield connection
        finally:
            await self._drop(connection)

    async def leads(self, line: AbstractConnection) -> bool:  # noqa: ARG002
        """Whether a line still leads to where others are heard."""
        return True

    async def policies(self) -> frozenset[str]:
        """The eviction policies."""
        return policies_of([await self._redis.info("memory")])

    async def close(self) -> None:
        """Drop all connections. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._drop(connection)
        await self._redis.aclose()

    async def _connect(self) -> AbstractConnection:
        found: AbstractConnection = await self._redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        return found

    async def _drop(self, connection: AbstractConnection) -> None:
        await connection.disconnect(nowait=True)
        await self._redis.connection_pool.release(connection)


class Watched(Server):
    """Whichever server Sentinel says is the master.

    One that was and is no longer goes on taking writes for seconds, until Sentinel tells it too. So
    Sentinel is asked now and then, and a connection to another than it last named is not used.
    """

    def __init__(self, sentinel: Sentinel, service: str, **options: Any) -> None:
        self._pool = SentinelConnectionPool(service, sentinel, **options)  # type: ignore[no-untyped-call]
        super().__init__(Redis(connection_pool=self._pool))
        self._sentinel = sentinel

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Run scripts in one pipeline."""
        kept = self._connection
        if kept is not None and _address(kept) != self._pool.master_address:
            self._connection = None
            await self._drop(kept)
        return await super().run(calls)

    async def leads(self, line: AbstractConnection) -> bool:
        """Whether a line still leads to where others are heard."""
        with suppress(RedisError, OSError):  # without a Sentinel all stays as it is
            await self._pool.get_master_address()  # type: ignore[no-untyped-call]
        return _address(line) == self._pool.master_address

    async def close(self) -> None:
        """Drop all connections."""
        await super().close()
        await self._pool.aclose()
        await self._sentinel.aclose()


def _address(connection: AbstractConnection) -> tuple[object, object]:
    return connection.host, getattr(connection, "port", None)


def packed(*words: Argument) -> bytes:
    """A command as it travels."""
    done: bytes = pack_command(words)  # type: ignore[arg-type]  # its stub takes tuples of one
    return done


async def exchange(connection: AbstractConnection, calls: Sequence[Call]) -> list[Any]:
    """One pipeline on one connection; errors stand in the place of answers. The caller keeps time
    and drops the connection when it fails: what is left on it would be taken for other answers.
    """
    asked = [packed("EVALSHA", sha, len(keys), *keys, *more) for sha, keys, more in calls]
    await connection.send_packed_command(b"".join(asked), check_health=False)
    answers: list[Any] = []
    for _ in calls:
        try:
            answers.append(await connection.read_response(timeout=math.inf))
        except ResponseError as error:
            answers.append(error)
    return answers


def policies_of(servers: Iterable[dict[str, Any]]) -> frozenset[str]:
    """What servers that were asked for their memory say of eviction."""
    found = (str(facts.get("maxmemory_policy", "")) for facts in servers)
    return frozenset(policy for policy in found if policy)
