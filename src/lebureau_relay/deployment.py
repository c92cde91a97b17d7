"""This replica's place in the deployment: what it shares with others through Redis, or has to
itself.

It stands apart from the rest of the wiring because only this part has two forms, and the one
without Redis must stay whole: it is what the other falls back on.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from socket import gethostname

from lebureau_relay.broker.redis import (
    BudgetKeys,
    RedisBroker,
    RedisBudgets,
    RedisCensus,
    RedisPlaces,
    RedisRules,
    connect,
)
from lebureau_relay.config import Settings
from lebureau_relay.core.balance import Balance, BalanceRules, Load
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.errors import StartError
from lebureau_relay.identity.gate import PLACE_LAPSES_S
from lebureau_relay.metrics import Metrics
from lebureau_relay.relay.budgets import BudgetLimits, LocalBudgets, LocalPlaces, OnExcess
from lebureau_relay.relay.observer import ReplicaFacts
from lebureau_relay.relay.ports import Budgets, FeedKey, Places
from lebureau_relay.relay.share import Shared

# How long a start waits for Redis: a server that is there answers in milliseconds.
_REDIS_WAIT_S = 1.0
# Nothing is evened out until the same replicas have been there for so many leases: a rollout moves
# everything anyway.
_SETTLED_LEASES = 5

Keep = Callable[[str, Coroutine[None, None, None]], None]
"""Runs a part, which has a name, for as long as the relay lives."""


class Deployment:
    """`hash_key` names identities, `budgets` and `places` are its limits, `shared` is what hubs
    have in common.

    Alone after its making; `join` takes a seat at Redis where one is set, `leave` gives it back.
    """

    def __init__(self, settings: Settings, metrics: Metrics, keep: Keep) -> None:
        self._settings = settings
        self._metrics = metrics
        self._keep = keep
        secret = settings.redis.hash_secret.get_secret_value().encode()
        self.hash_key = hashlib.blake2b(secret).digest() if secret else secrets.token_bytes(32)
        limits = settings.limits
        self._local = LocalBudgets(
            BudgetLimits(
                connects_per_minute=limits.connects_per_minute,
                failed_auth_per_minute=limits.failed_auth_per_minute,
                streams_per_user=limits.streams_per_user,
                on_excess=OnExcess(limits.on_excess),
            ),
            time.monotonic,
        )
        self.budgets: Budgets = self._local
        self.places: Places = LocalPlaces(limits.upstream_auth_failures_per_minute, time.monotonic)
        self.shared: Shared | None = None
        # Two processes of one machine, or a pod's two lives, are two replicas.
        self.name = f"{gethostname()}/{secrets.token_hex(3)}"
        self.replicas: Sequence[ReplicaFacts] = ()  # as they were when last heard of
        self._broker: RedisBroker | None = None
        self._policy_check: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Take a seat at Redis, if there is one; a server that is away is waited for a moment, then
        done without. Raises StartError.
        """
        redis, replay = self._settings.redis, self._settings.replay
        url = redis.url.get_secret_value()
        if not url:
            return
        try:
            client = connect(url)
        except ValueError as error:
            raise StartError(f"{error}; see config/relay.yaml.") from None
        history = HistoryLimits(replay.max_events, replay.max_bytes, replay.max_age)
        rules = RedisRules(redis.prefix, redis.lease_ttl, history)
        timed = partial(self._metrics.redis_call, "pipeline")
        self._broker = broker = RedisBroker(
            client, rules, time.monotonic, self._redis_changed, timed, self.name
        )
        self._metrics.redis_up(False)
        self._keep("broker", broker.run())
        with suppress(TimeoutError):
            async with asyncio.timeout(_REDIS_WAIT_S):
                await broker.arrived.wait()
        if not broker.arrived.is_set():
            self._redis_changed(False)
        self._share_budgets(broker, clustered=client.clustered)
        self.shared = Shared(broker, partial(_feed_name, self.hash_key))

    def gather(self, own: Callable[[], ReplicaFacts], let_go: Callable[[int], int]) -> None:
        """State what this replica is from now on, hear of the others, and let go of streams where
        it has more than its part. Without Redis there is nobody to compare with.
        """
        if self._broker is None:
            return
        lease_ttl_s = self._settings.redis.lease_ttl
        max_per_s = self._settings.balance.max_per_second
        rules = BalanceRules(max_per_s, lease_ttl_s * _SETTLED_LEASES)
        balance = Balance(self.name, rules)

        def heard(replicas: Sequence[ReplicaFacts]) -> None:
            self.replicas = replicas
            self._metrics.replicas(len(replicas))
            loads = (Load(one.name, one.streams, one.state == "ready") for one in replicas)
            excess = balance.hear(loads, time.monotonic())
            if excess:
                let_go(excess)

        prefix = self._settings.redis.prefix
        census = RedisCensus(self._broker.pipe, prefix, lease_ttl_s, own, heard)
        self._keep("census", census.run())

    async def leave(self) -> None:
        """Close the connections to Redis; what was kept must have ended."""
        if self._policy_check is not None:
            self._policy_check.cancel()
        if self._broker is not None:
            await self._broker.close()

    def _share_budgets(self, broker: RedisBroker, *, clustered: bool) -> None:
        """Let the budgets hold for the whole deployment; what was there stays to fall back on."""
        redis = self._settings.redis
        limit = self._settings.limits.upstream_auth_failures_per_minute
        keys = BudgetKeys(redis.prefix, self.hash_key, clustered)
        budgets = RedisBudgets(broker.pipe, keys, redis.lease_ttl, self._local)
        places = RedisPlaces(
            broker.pipe, redis.prefix, redis.lease_ttl, limit, PLACE_LAPSES_S, time.monotonic
        )
        self.budgets, self.places = budgets, places
        self._keep("budgets", budgets.run())
        self._keep("places", places.run())

    def _redis_changed(self, up: bool) -> None:  # noqa: FBT001 - it is what changed
        self._metrics.redis_up(up)
        if up:
            self._metrics.note("info", "redis.up")
            self._policy_check = asyncio.ensure_future(self._check_policy())
        else:
            mend = "streams go on from upstreams of their own; see docs/operations.md"
            self._metrics.note("error", "redis.down", mend=mend)

    async def _check_policy(self) -> None:
        """A server that evicts under pressure would take leases and logs away unseen."""
        if self._broker is None:
            return
        others = await self._broker.policies() - {"noeviction"}
        if others:
            mend = "set the server's maxmemory-policy to noeviction"
            self._metrics.note("warning", "redis.evicts", policy=sorted(others), mend=mend)


def _feed_name(key: bytes, feed: FeedKey) -> str:
    """What the deployment calls a feed: a keyed hash, the same in every replica."""
    text = f"{feed.identity}\n{feed.stream.name}\n{feed.query}"
    return hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest()
