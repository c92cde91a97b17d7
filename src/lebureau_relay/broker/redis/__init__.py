"""What replicas share, on Redis or Valkey: one log and one lease per feed, and one set of budgets.

urls      a URL becomes a client: single server, Sentinel, cluster
servers   what a client is, and the single ones
cluster   the one with many masters
pipe      all calls of a loop turn in one pipeline, none longer than a second
ears      the connections that listen, and notice when they are deaf
broker    the replica's seat: logs, leases, and the tick that keeps them
budgets   streams and connects of an identity, bad credentials of an address
places    401s that happen upstream, and who may cause one
census    which replicas there are, and how much each of them has
lua/      what happens at once or not at all
"""

from lebureau_relay.broker.redis.broker import RedisBroker, RedisRules
from lebureau_relay.broker.redis.budgets import BudgetKeys, RedisBudgets
from lebureau_relay.broker.redis.census import RedisCensus
from lebureau_relay.broker.redis.places import RedisPlaces
from lebureau_relay.broker.redis.urls import connect

__all__ = [
    "BudgetKeys",
    "RedisBroker",
    "RedisBudgets",
    "RedisCensus",
    "RedisPlaces",
    "RedisRules",
    "connect",
]
