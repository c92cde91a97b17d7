"""What replicas share, on Redis or Valkey: one log and one lease per feed.

servers   a URL becomes clients: single server, Sentinel, cluster
pipe      all calls of a loop turn in one pipeline, none longer than a second
ears      the one connection that listens, and notices when it is deaf
broker    the replica's seat: logs, leases, and the tick that keeps them
lua/      what happens at once or not at all
"""

from lebureau_relay.broker.redis.broker import RedisBroker, RedisRules
from lebureau_relay.broker.redis.servers import connect

__all__ = ["RedisBroker", "RedisRules", "connect"]
