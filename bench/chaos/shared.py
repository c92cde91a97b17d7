"""What can be done to the Redis that replicas share; part of `acts`, and by its rules."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis import Redis
from redis.exceptions import RedisError

from bench.chaos.processes import Valkey
from bench.chaos.stage import Stage

Act = Callable[..., Awaitable[None] | None]


def _redis(act: Callable[[Valkey], Awaitable[None] | None]) -> Act:
    return lambda stage: act(stage.redis) if stage.redis is not None else None


def _with_client(do: Callable[[Redis], object]) -> Callable[[Valkey], Awaitable[None]]:
    async def act(server: Valkey) -> None:
        def ask() -> None:
            with Redis("127.0.0.1", server.port, socket_timeout=5.0) as client:
                do(client)

        if server.alive and not server.stopped:
            with suppress(RedisError):  # stopped, killed or crowded meanwhile
                await asyncio.to_thread(ask)

    return act


def _ask(*command: str) -> Act:
    return _redis(_with_client(lambda client: client.execute_command(*command)))


def _evict(stage: Stage, spare_kib: str) -> Awaitable[None] | None:
    """From so much more on, the least recently used keys go for what is written."""

    def evict(client: Redis) -> None:
        most = client.info("memory")["used_memory"] + (int(spare_kib) << 10)
        policy = ("maxmemory-policy", "allkeys-lru")
        client.execute_command("CONFIG", "SET", *policy, "maxmemory", most)

    return _redis(_with_client(evict))(stage)


def _crowd(server: Valkey) -> Awaitable[None]:
    """`maxclients` is reached: those that are here go, and nobody comes in. One of ours stays, for
    nobody else could undo it.
    """

    def crowd() -> None:
        if server.door is None:
            server.door = Redis(
                "127.0.0.1", server.port, socket_timeout=5.0, single_connection_client=True
            )
        server.door.config_set("maxclients", 1)
        for kind in ("normal", "pubsub"):
            server.door.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    return _by_the_door(server, crowd)


def _empty(server: Valkey) -> Awaitable[None]:
    def empty() -> None:
        if server.door is not None:
            with suppress(RedisError):  # another server by now, which has room
                server.door.config_set("maxclients", 10_000)
            server.door.close()
            server.door = None

    return _by_the_door(server, empty)


async def _by_the_door(server: Valkey, do: Callable[[], None]) -> None:
    if server.alive and not server.stopped:
        with suppress(RedisError):
            await asyncio.to_thread(do)


async def _start(server: Valkey) -> None:
    server.signal(signal.SIGCONT)
    if not server.alive:
        await server.start()


async def _kill(server: Valkey) -> None:
    await server.end()


async def make_good(stage: Stage) -> None:
    """Undo whatever is still done to it."""
    for verb in ("start", "empty", "roomy", "writable"):
        await ACTS[verb](stage)


ACTS: dict[str, Act] = {
    "kill": _redis(_kill),
    "start": _redis(_start),
    "pause": _redis(lambda server: server.signal(signal.SIGSTOP)),
    "resume": _redis(lambda server: server.signal(signal.SIGCONT)),
    "flush": _ask("FLUSHALL"),
    "full": _ask("CONFIG", "SET", "maxmemory", "1"),
    "evict": _evict,
    "roomy": _ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction"),
    # the replica of a server that isn't there
    "read-only": _ask("REPLICAOF", "127.0.0.1", "1"),
    "writable": _ask("REPLICAOF", "NO", "ONE"),
    "crowd": _redis(_crowd),
    "empty": _redis(_empty),
    # what the next start has, instead of nothing
    "save": _ask("SAVE"),
}
