"""Who waits for a catch-up together, and how it may end."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from lebureau_relay.relay.subscriber import State, Subscriber


class Outcome(StrEnum):
    """How a catch-up ended; the label of `catchups_total`."""

    FILLED = "filled"  # what it brought ran into what the ring continues
    SEEN = "seen"  # the feed's own subscription brought the cursor's event meanwhile
    IGNORED = "ignored"  # upstream ignored the cursor
    FAILED = "failed"  # upstream refused, or the connection broke
    TIMEOUT = "timeout"  # the ring was not met in time


@dataclass(slots=True, eq=False)
class Group:
    """Subscribers that wait with one cursor."""

    cursor: bytes
    start: int  # the feed's top when the first of them came
    since_s: float  # when that was
    base: bytes = b""  # what upstream is asked for
    skip: int = 0  # events without ids that the clients have seen since `base`
    passed: int = 0  # of these, how many have come back
    own: bool = False  # the feed's own subscription is bringing what it needs
    # The ring has its cursor, but the log has not taken it yet: `seen` will say so.
    coming: bool = False
    sent: int = 0  # so many events, so far
    sent_before: int = 0  # of these, by requests that broke
    last_id: bytes = b""  # of the last of them
    subscribers: list[Subscriber] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def alive(self) -> list[Subscriber]:
        """Those that still wait."""
        return [one for one in self.subscribers if one.state is State.WAITING]
