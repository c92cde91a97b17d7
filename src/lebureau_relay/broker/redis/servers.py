"""Which server: a URL becomes a client, for a single server, Sentinel or a cluster, with every
biting default overridden.

redis-py brings connections: handshake, TLS, parser, discovery. Its own pipelines and pub/sub are
passed by: they pack commands in Python at three times the price, resubscribe without a word, and a
cluster's shards are listened to one after the other. Its retries would run a script twice.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AskError, RedisClusterException, ResponseError

# For each server that is tried; whoever calls keeps the time of all the rest.
_CONNECT_TIMEOUT_S: Final = 1.0
# Sentinels are asked one after the other, dead ones too, before the first call's time is up.
_SENTINEL_TIMEOUT_S: Final = 0.25
# One for pipelines, one that listens; the others for looking at the server while those stand still.
_MAX_CONNECTIONS: Final = 8
# Hash tags that are tried to find one for each master of a cluster.
_TAGS: Final = 256
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,  # with 3, every message is formatted for a debug log that nobody reads
    "socket_timeout": None,  # it would cost a timer an answer
    "socket_connect_timeout": _CONNECT_TIMEOUT_S,
    "decode_responses": False,
    "health_check_interval": 0,
    "max_connections": _MAX_CONNECTIONS,
}

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

    async def policies(self) -> frozenset[str]:
        """The servers' eviction policies; those that won't say are left out."""

    async def close(self) -> None:
        """Drop all connections."""


class _Server:
    """A single server, or whichever Sentinel says is the master."""

    clustered = False
    publish = "PUBLISH"
    subscribe = "SUBSCRIBE"
    unsubscribe = "UNSUBSCRIBE"

    def __init__(self, redis: Redis, sentinel: Sentinel | None = None) -> None:
        self._redis = redis
        self._sentinel = sentinel
        # Kept between pipelines: the pool's care for it costs as much as ten calls.
        self._connection: AbstractConnection | None = None

    async def load(self, source: str) -> str:
        return str(await self._redis.script_load(source))

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        connection, self._connection = self._connection, None
        if connection is None:
            connection = await self._connect()
        try:
            answers = await _exchange(connection, calls)
        except BaseException:
            await self._drop(connection)
            raise
        self._connection = connection
        return answers

    def tags(self) -> Sequence[str]:
        return ("0",)

    async def refresh(self) -> None:
        pass

    def server_of(self, channel: str) -> str:  # noqa: ARG002 - there is but one
        return ""

    @asynccontextmanager
    async def line(self, server: str) -> AsyncIterator[AbstractConnection]:  # noqa: ARG002
        connection = await self._connect()
        try:
            yield connection
        finally:
            await self._drop(connection)

    async def policies(self) -> frozenset[str]:
        return _policies([await self._redis.info("memory")])

    async def close(self) -> None:
        if self._connection is not None:
            await self._drop(self._connection)
        await self._redis.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _connect(self) -> AbstractConnection:
        found: AbstractConnection = await self._redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        return found

    async def _drop(self, connection: AbstractConnection) -> None:
        await connection.disconnect(nowait=True)
        await self._redis.connection_pool.release(connection)


class _Cluster:
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
        return "SPUBLISH" if self._sharded else "PUBLISH"

    @property
    def subscribe(self) -> str:
        return "SSUBSCRIBE" if self._sharded else "SUBSCRIBE"

    @property
    def unsubscribe(self) -> str:
        return "SUNSUBSCRIBE" if self._sharded else "UNSUBSCRIBE"

    async def load(self, source: str) -> str:
        return str(await self._redis.script_load(source))

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        shares: dict[ClusterNode, list[int]] = {}
        for place, (_, keys, _) in enumerate(calls):
            shares.setdefault(self._node_of(keys[0]), []).append(place)
        answers: list[Any] = [None] * len(calls)
        async with asyncio.TaskGroup() as parts:
            for node, places in shares.items():
                parts.create_task(self._run_share(node, calls, places, answers))
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
            said = await _exchange(connection, [calls[place] for place in places])
        for place, answer in zip(places, said, strict=True):
            answers[place] = answer

    def tags(self) -> Sequence[str]:
        found: dict[str, str] = {}
        masters = len(self._redis.get_primaries())
        for n in range(_TAGS):
            if len(found) == masters:
                break
            found.setdefault(self._node_of(f"{{{n}}}").name, str(n))
        return tuple(found.values())

    async def refresh(self) -> None:
        await self._redis.initialize()
        await self._redis.nodes_manager.initialize()

    def server_of(self, channel: str) -> str:
        if self._sharded:
            return self._node_of(channel).name
        return min(node.name for node in self._redis.get_primaries())

    @asynccontextmanager
    async def line(self, server: str, *, keep: bool = False) -> AsyncIterator[AbstractConnection]:
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

    async def policies(self) -> frozenset[str]:
        found = await self._redis.info("memory", target_nodes=RedisCluster.PRIMARIES)
        return _policies(found.values())

    async def close(self) -> None:
        await self._redis.aclose()

    def _node_of(self, key: str) -> ClusterNode:
        node = self._redis.get_node_from_key(key)
        if node is None:
            raise RedisClusterException("no server has this slot")
        return node


def connect(url: str) -> Client:
    """The client for a URL of the contract, section 2. Connects at the first call. Raises
    ValueError.

    `redis://` and `rediss://` as redis-py reads them (a private authority: `?ssl_ca_certs=FILE`);
    `redis+sentinel://[user:password@]host:port,…/service[/db]` and
    `redis+cluster://[user:password@]host:port,…`, both with `?tls=true` and `&ssl_ca_certs=FILE`
    where TLS is spoken. User and password are the servers'; Sentinel's own, where it asks for one,
    is `?sentinel_password=` (and `sentinel_username`).
    """
    scheme = url.partition("://")[0]
    if scheme in ("redis", "rediss"):
        return _Server(Redis.from_url(url, retry=_no_retry(), **_OPTIONS))
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    hosts = [_place(place) for place in places.split(",")]
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    shared = _OPTIONS | {"retry": _no_retry()}
    if query.get("tls") == "true":
        shared |= {"ssl": True, "ssl_ca_certs": query.get("ssl_ca_certs")}
    own = shared | {"username": unquote(user) or None, "password": unquote(password) or None}
    if scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in hosts]
        return _Cluster(RedisCluster(startup_nodes=nodes, **own))
    if scheme == "redis+sentinel":
        service, _, db = parts.path.strip("/").partition("/")
        quick = {
            "socket_timeout": _SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
        }
        theirs = {name: query.get(f"sentinel_{name}") for name in ("username", "password")}
        sentinel = Sentinel(hosts, sentinel_kwargs=shared | quick | theirs)  # type: ignore[no-untyped-call]
        return _Server(sentinel.master_for(service, db=int(db or 0), **own), sentinel)
    message = f"redis.url: {scheme}:// is none of redis, rediss, redis+sentinel, redis+cluster"
    raise ValueError(message)


def packed(*words: Argument) -> bytes:
    """A command as it travels."""
    done: bytes = pack_command(words)  # type: ignore[arg-type]  # its stub takes tuples of one
    return done


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


async def _exchange(connection: AbstractConnection, calls: Sequence[Call]) -> list[Any]:
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


def _policies(servers: Iterable[dict[str, Any]]) -> frozenset[str]:
    found = (str(facts.get("maxmemory_policy", "")) for facts in servers)
    return frozenset(policy for policy in found if policy)


def _place(text: str) -> tuple[str, int]:
    """A host and a port, with the usual one where none is given."""
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon else (text, 6379)
