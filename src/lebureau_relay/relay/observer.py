"""What the relay tells of itself: counters and log lines as Protocols, and facts for whoever asks.

A socket in the wall like those of `ports`, which metrics and logs are plugged into. Nothing that is
told holds a secret: who somebody is, is a keyed hash.
"""

from dataclasses import dataclass
from typing import Protocol

from lebureau_relay.core.event import GapCause
from lebureau_relay.errors import CloseReason, RefusalCode, SourceProblem


class StreamMeter(Protocol):
    """Counters of one stream, bound beforehand so that the hot path looks nothing up."""

    def received(self, events: int, size_bytes: int) -> None:
        """Bytes came from upstream, on any request for the stream, and completed so many events."""

    def delivered(self, deliveries: int, size_bytes: int) -> None:
        """Events were handed to transports: events × subscribers, and the bytes written."""

    def delay(self, seconds: float) -> None:
        """From the first byte of the oldest event of a flush to its last subscriber written."""

    def reconnect(self, reason: SourceProblem) -> None:
        """The owner lost upstream, or didn't get it, and will ask again."""

    def catchup(self, outcome: str) -> None:
        """A catch-up ended: `filled`, `seen`, `ignored`, `failed`, `timeout`."""

    def replay(self, outcome: str, events: int) -> None:
        """A subscriber got its verdict: `fresh`, `resumed`, `caught_up`, `gap`; events of the ring
        it has to read.
        """

    def gap(self, cause: GapCause) -> None:
        """A relay.gap was written into the feed, or to one subscriber."""

    def connect(self, outcome: str) -> None:
        """A request for this stream was answered: `accepted`, or a refusal's code."""

    def closed(self, reason: CloseReason, age_s: float) -> None:
        """A stream ended."""


class Observer(Protocol):
    """What the relay tells of itself: counters, and the few facts that are worth a log line."""

    def stream(self, name: str) -> StreamMeter:
        """The meter of one stream; the same one for the same name."""

    def refused(self, code: RefusalCode) -> None:
        """A request was refused."""

    def takeover(self, seconds: float) -> None:
        """This replica has taken over a feed that another one had, so long after it was free."""

    def note(self, level: str, event: str, **facts: object) -> None:
        """One log line: `level` as in logging, `event` dotted, facts without secrets."""


@dataclass(frozen=True, slots=True)
class FeedFacts:
    """One feed as operators may see it."""

    identity: str
    stream: str
    role: str
    owner: str  # the replica that owns it, where that is another and known; empty otherwise
    state: str
    subscribers: int
    events: int
    history_bytes: int
    last_id: str
    age_s: float


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One replica of the deployment, as it says of itself.

    `name` is its machine's with something that tells two processes apart; `owned` are the feeds
    that it subscribes to upstream; `state` is `ready`, `starting` or `draining`.
    """

    name: str
    streams: int
    owned: int
    state: str


@dataclass(frozen=True, slots=True)
class HubFacts:
    """The hub at one moment, for gauges, status and console."""

    draining: bool
    streams: dict[str, int]  # open streams, by stream name
    feeds: dict[tuple[str, str], int]  # by stream name and role
    upstream: dict[tuple[str, str], int]  # by stream name and state: opening, open, waiting
    history_bytes: int


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """One identity by its hash: its open streams and feeds here."""

    identity: str
    streams: int
    feeds: int


@dataclass(frozen=True, slots=True)
class Counted:
    """All feeds within some turns of the loop: how many of what, and the largest of them."""

    hub: HubFacts
    largest: list[FeedFacts]
    identities: list[IdentityFacts]  # those with most streams
    identity_count: int


@dataclass(frozen=True, slots=True)
class TabFacts:
    """One client stream: what it is doing, how far it is behind, where it stands."""

    state: str
    age_s: float
    pending_bytes: int  # handed to the socket, and not taken by it yet
    behind: int  # events that wait for it here
    last_id: str


@dataclass(frozen=True, slots=True)
class FeedInDetail:
    """One feed of an identity, with its streams: sums over many, facts of some."""

    facts: FeedFacts
    pending_bytes: int
    slow: int  # streams whose sockets take no more
    tabs: list[TabFacts]


@dataclass(frozen=True, slots=True)
class Found:
    """Whom a search found: `by` its hash or an event that it has; how many, some in detail."""

    by: str
    count: int
    identities: dict[str, list[FeedInDetail]]
