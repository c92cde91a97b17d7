"""Which server: a URL becomes clients, for a single server, Sentinel or a cluster, with every
biting default overridden.

redis-py's own retries would wait ten times over and run a script twice; its pool raises past a
hundred connections; its time-outs end a listener that has nothing to hear. All of that is set here,
once.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

_TIMEOUT_S: Final = 1.0
# Pipelines go one at a time; the others are for probes.
_MAX_CONNECTIONS: Final = 4
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,  # with 3, every message is formatted for a debug log that nobody reads
    "socket_timeout": _TIMEOUT_S,
    "socket_connect_timeout": _TIMEOUT_S,
    "decode_responses": False,
    "health_check_interval": 0,
}

Call = tuple[str, Sequence[str], Sequence[str | bytes | int]]


class Client(Protocol):
    """What the pipe needs of a server or a cluster."""

    publish: str

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Run scripts by their hash in one pipeline; errors stand in the place of answers."""

    async def load(self, source: str) -> str:
        """Make a script known; its hash."""

    async def set_probe(self) -> None:
        """Write something, as a proof that writes are taken."""

    async def say(self, channel: str, word: str) -> None:
        """Say a word on a channel."""

    def pubsub(self) -> PubSub:
        """A connection that listens, without time-outs or retries of its own."""

    async def policy(self) -> str:
        """The server's eviction policy; empty where it won't say."""

    async def close(self) -> None:
        """Drop all connections."""


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


class _Server:
    """A single server, or whichever Sentinel says is the master."""

    publish = "PUBLISH"

    def __init__(self, redis: Redis, listener: Redis, probe_key: str) -> None:
        self._redis = redis
        self._listener = listener
        self._probe_key = probe_key

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for sha, keys, arguments in calls:
            pipeline.evalsha(sha, len(keys), *keys, *arguments)
        answers: Sequence[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    async def load(self, source: str) -> str:
        return str(await self._redis.script_load(source))

    async def set_probe(self) -> None:
        await self._redis.set(self._probe_key, b"1", px=5000)

    async def say(self, channel: str, word: str) -> None:
        await self._redis.publish(channel, word)

    def pubsub(self) -> PubSub:
        return self._listener.pubsub()

    async def policy(self) -> str:
        found = await self._redis.config_get("maxmemory-policy")
        return str(found.get("maxmemory-policy", ""))

    async def close(self) -> None:
        await self._redis.aclose()
        await self._listener.aclose()


class _Cluster:
    """A cluster: the keys of a feed are in one slot, and what is said of it stays in that slot's
    shard.
    """

    publish = "SPUBLISH"

    def __init__(self, redis: RedisCluster, probe_key: str) -> None:
        self._redis = redis
        self._probe_key = probe_key

    async def run(self, calls: Sequence[Call]) -> Sequence[Any]:
        pipeline = self._redis.pipeline()
        for sha, keys, arguments in calls:
            pipeline.execute_command("EVALSHA", sha, len(keys), *keys, *arguments)
        answers: Sequence[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    async def load(self, source: str) -> str:
        sha = await self._redis.script_load(source)
        return str(sha)

    async def set_probe(self) -> None:
        await self._redis.set(self._probe_key, b"1", px=5000)

    async def say(self, channel: str, word: str) -> None:
        await self._redis.spublish(channel, word)

    def pubsub(self) -> PubSub:
        pubsub: PubSub = self._redis.pubsub()
        return pubsub

    async def policy(self) -> str:
        return ""  # each node has its own; the operations guide says how to look

    async def close(self) -> None:
        await self._redis.aclose()


def connect(url: str, probe_key: str) -> Client:
    """The client for a URL of the contract, section 2. Connects at the first call. Raises
    ValueError.

    `redis://` and `rediss://` as redis-py reads them;
    `redis+sentinel://[user:password@]host:port,…/service[/db]` and
    `redis+cluster://[user:password@]host:port,…`, both with `?tls=true` and `&ca=FILE` where TLS is
    spoken.
    """
    scheme = url.partition("://")[0]
    if scheme in ("redis", "rediss", "unix"):
        plain = _OPTIONS | {"retry": _no_retry()}
        redis = Redis.from_url(url, max_connections=_MAX_CONNECTIONS, **plain)
        listener = Redis.from_url(url, **(plain | {"socket_timeout": None}))
        return _Server(redis, listener, probe_key)
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    hosts = [_place(place) for place in places.split(",")]
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    options = _OPTIONS | {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
    }
    if query.get("tls") == "true":
        options |= {"ssl": True, "ssl_ca_certs": query.get("ca")}
    if scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in hosts]
        cluster = RedisCluster(
            startup_nodes=nodes, cluster_error_retry_attempts=1, retry=_no_retry(), **options
        )
        return _Cluster(cluster, probe_key)
    if scheme == "redis+sentinel":
        service, _, db = parts.path.strip("/").partition("/")
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            hosts, sentinel_kwargs=_OPTIONS | {"retry": _no_retry()}
        )
        own = options | {"db": int(db or 0), "retry": _no_retry()}
        redis = sentinel.master_for(service, max_connections=_MAX_CONNECTIONS, **own)
        listener = sentinel.master_for(service, **(own | {"socket_timeout": None}))
        return _Server(redis, listener, probe_key)
    message = f"redis.url: {scheme}:// is none of redis, rediss, redis+sentinel, redis+cluster"
    raise ValueError(message)


def _place(text: str) -> tuple[str, int]:
    """A host and a port, with the usual one where none is given."""
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon else (text, 6379)
