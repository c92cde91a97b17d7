"""Scenarios as data: what is sent to whom, and who takes part. The goals are issue 5's."""

from bench.kinds import Scenario
from bench.scenarios import delivery, growth, life, memory

SCENARIOS: tuple[Scenario, ...] = (
    delivery.SPACED,
    delivery.BURST,
    delivery.USERS,
    memory.IDLE_STREAMS,
    memory.IDLE_FEEDS,
    life.STORM,
    delivery.STUCK,
    delivery.REDIS_ONE,
    delivery.REDIS,
    growth.DELIVERIES,
    growth.FEEDS,
    growth.HISTORY,
    growth.IDLE_CLIENTS,
    life.SOAK,
)
