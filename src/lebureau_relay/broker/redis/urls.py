"""Which server: a URL becomes a client, with every biting default overridden.

redis-py's own retries would wait ten times over and run a script twice; its time-outs would end a
listener that has nothing to hear.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from lebureau_relay.broker.redis.cluster import Cluster
from lebureau_relay.broker.redis.servers import Client, Server, Watched

# For each server that is tried; whoever calls keeps the time of all the rest.
_CONNECT_TIMEOUT_S: Final = 1.0
# Sentinels are asked one after the other, dead ones too, before the first call's time is up.
_SENTINEL_TIMEOUTS: Final = {"socket_timeout": 0.25, "socket_connect_timeout": 0.25}
# One for pipelines, one that listens; the others for looking at the server while those stand still.
_MAX_CONNECTIONS: Final = 8
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,  # with 3, every message is formatted for a debug log that nobody reads
    "socket_timeout": None,  # it would cost a timer an answer
    "socket_connect_timeout": _CONNECT_TIMEOUT_S,
    "decode_responses": False,
    "health_check_interval": 0,
    "max_connections": _MAX_CONNECTIONS,
    "retry": Retry(NoBackoff(), 0),
}


def connect(url: str) -> Client:
    """The client for a URL of the contract, section 2. Connects at the first call. Raises
    ValueError, whose text holds nothing of the URL but its scheme.

    `redis://` and `rediss://` as redis-py reads them (a private authority: `?ssl_ca_certs=FILE`);
    `redis+sentinel://[user:password@]host:port,…/service[/db]` and
    `redis+cluster://[user:password@]host:port,…`, both with `?tls=true` and `&ssl_ca_certs=FILE`
    where TLS is spoken. User and password are the servers'; Sentinel's own, where it asks for one,
    is `?sentinel_password=` (and `sentinel_username`).
    """
    scheme = url.partition("://")[0]
    make = _MAKERS.get(scheme)
    if make is None:
        raise ValueError(f"redis.url: {scheme}:// is none of {', '.join(_MAKERS)}")
    try:
        return make(url)
    except (ValueError, TypeError, RedisError):
        mend = "look at its port, service, database and options, and percent-encode its password"
        raise ValueError(f"redis.url: can't be read; {mend}") from None


def _single(url: str) -> Client:
    int(urlsplit(url).path.strip("/") or 0)  # redis-py takes database 0 where it reads no number
    redis = Redis.from_url(url, **_OPTIONS)
    redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # refuses unknown options
    return Server(redis)


def _clustered(url: str) -> Client:
    parts = _parts(url)
    if parts.path:
        raise ValueError("a cluster has one database")
    nodes = [ClusterNode(host, port) for host, port in parts.hosts]
    return Cluster(RedisCluster(startup_nodes=nodes, **parts.options, **parts.login))


def _watched(url: str) -> Client:
    parts = _parts(url)
    service, _, db = parts.path.partition("/")
    if not service:
        raise ValueError("sentinels are asked for a service")
    theirs = {name: parts.query.get(f"sentinel_{name}") for name in ("username", "password")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        parts.hosts, sentinel_kwargs=parts.options | _SENTINEL_TIMEOUTS | theirs
    )
    return Watched(sentinel, service, db=int(db or 0), **parts.options, **parts.login)


_MAKERS: Final[dict[str, Callable[[str], Client]]] = {
    "redis": _single,
    "rediss": _single,
    "redis+sentinel": _watched,
    "redis+cluster": _clustered,
}


class _Parts(NamedTuple):
    """A URL with several hosts, which redis-py doesn't read."""

    hosts: list[tuple[str, int]]
    path: str
    query: dict[str, str]
    options: dict[str, Any]
    login: dict[str, Any]


def _parts(url: str) -> _Parts:
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    options = dict(_OPTIONS)
    if query.get("tls") == "true":
        options |= {"ssl": True, "ssl_ca_certs": query.get("ssl_ca_certs")}
    return _Parts(
        [_place(place) for place in places.split(",")],
        parts.path.strip("/"),
        query,
        options,
        {"username": unquote(user) or None, "password": unquote(password) or None},
    )


def _place(text: str) -> tuple[str, int]:
    """A host and a port, with the usual one where none is given."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "6379"
    return host.strip("[]"), int(port)
