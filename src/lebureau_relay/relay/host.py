"""What a feed asks of the house it lives in: its hub as a Protocol, and how streams behave."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lebureau_relay.core.credential import Credential
from lebureau_relay.errors import CloseReason, Refusal
from lebureau_relay.relay.ports import FeedKey
from lebureau_relay.relay.subscriber import Subscriber
from lebureau_relay.relay.turns import Turns


@dataclass(frozen=True, slots=True)
class StreamTimings:
    """How streams to clients behave. Durations in seconds."""

    heartbeat_s: float = 15.0
    retry_s: float = 3.0
    buffer_bytes: int = 262_144
    write_timeout_s: float = 30.0
    max_age_s: float = 0.0
    linger_s: float = 30.0
    catchup_timeout_s: float = 5.0
    pause_s: float = 0.0  # what upstream says with no longer pause is judged together
    settle_s: float = 300.0  # a younger stream isn't sent to another replica


class Host(Protocol):
    """What a feed asks of its hub."""

    clock: Callable[[], float]
    timings: StreamTimings
    turns: Turns

    def watch(self, subscriber: Subscriber, after_s: float) -> None:
        """Call `feed.check` with it then."""

    def left(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """A stream of this feed has ended."""

    def joined(self, subscriber: Subscriber) -> bool:
        """A stream of this feed has begun; False if its credential has lost its right meanwhile."""

    def forbidden(self, key: FeedKey, credential: Credential, refusal: Refusal) -> None:
        """Upstream does not let this credential read this stream."""

    def hang_up(self, transport: asyncio.Transport) -> None:
        """Close the socket of a client that has gone."""

    def grown(self, size_bytes: int) -> None:
        """The histories have grown by so much; below 0: shrunk."""

    def retry_ms(self, reason: CloseReason) -> int:
        """A jittered reconnect hint for one client."""
