"""The sockets in the wall: what the relay's heart needs from outside, as Protocols, and the small
data they share.

Each has one small default and one real implementation: `Source` (upstream by aiohttp), `Identities`
(who a credential is), `Broker`, `Budgets` and `Places` (what replicas share). They stand here so
that the heart never imports what it is plugged into; so does `observer`, for metrics and logs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Entry, Event
from lebureau_relay.core.limiter import Decision
from lebureau_relay.errors import RelayError, SourceProblem


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One of the streams that the relay serves: a name for people and labels, a path here and
    upstream.
    """

    name: str
    path: str
    forward_query: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedKey:
    """What two subscribers must have in common to share a feed: who they are, and what they ask
    for.

    `identity` is a keyed hash, never a credential or a user's name. `query` is the forwarded part
    of the query, encoded.
    """

    identity: str
    stream: StreamSpec
    query: str = ""


# Who takes events as they come. It returns those that it can't take yet, without waiting for
# anything.
Take = Callable[[Sequence[Event]], Sequence[Event]]


class Subscription(Protocol):
    """One open upstream connection, read by its one owner."""

    @property
    def retry_s(self) -> float | None:
        """The last `retry:` that upstream sent on this connection, in seconds."""

    @property
    def idle_timeout_s(self) -> float:
        """How long it may be silent before it counts as dead; shorter once upstream has been seen
        to send comments.
        """

    async def read(self, take: Take) -> Sequence[Event]:
        """Hand events to `take` in the very turn of the loop in which their bytes come, until it
        leaves some; return those.

        `take` is called for whatever comes (without events: a comment, or part of an event). Until
        the next `read`, what comes is held, and upstream soon held off. Raises what `take` raises,
        and SourceFailure when the connection has ended, `REPLACED` or `IDLE` after `close` with
        that problem.
        """

    def close(self, problem: SourceProblem = SourceProblem.REPLACED) -> None:
        """End it now; a waiting `read` raises SourceFailure with `problem`. May be called twice."""


class Source(Protocol):
    """Where events come from."""

    async def open(self, key: FeedKey, credential: Credential, cursor: bytes) -> Subscription:
        """Ask for what follows `cursor` (empty: from now on). Raises SourceFailure."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a credential is: `name` is a keyed hash that is the same in every replica."""

    name: str


class Identities(Protocol):
    """The register of credentials: what upstream has said of each, and how long ago."""

    async def identify(self, credential: Credential) -> Identity:
        """Who this is. Raises Refusal (invalid_credential, forbidden, identity_unavailable,
        too_many_failures …).
        """

    async def ensure_fresh(self, credential: Credential) -> None:
        """Return once upstream has accepted the credential within the recheck interval; asks it if
        need be.

        Raises Refusal as `identify` does.
        """

    def known_good(self, credential: Credential) -> bool:
        """Whether upstream's last word on it was good, however long ago; asks nobody."""

    def accepted(self, credential: Credential, took_s: float = 0.0) -> None:
        """Upstream has just accepted it on a stream; it was asked `took_s` ago."""

    def rejected(self, credential: Credential) -> None:
        """Upstream has just answered 401 for it on a stream."""

    def undecided(self, credential: Credential) -> None:
        """The stream that was to tell about it came to nothing."""

    def hold(self, credential: Credential, identity: Identity | None = None) -> bool:
        """A stream of `identity`, down here or upstream, depends on this credential from now on:
        recheck it.

        False if it has been refused meanwhile, or is somebody else's: the stream must not live, but
        the caller owes its `release` all the same.
        """

    def release(self, credential: Credential) -> None:
        """One stream fewer depends on it."""


class BrokerDown(RelayError):  # noqa: N818 - a state of the world
    """The server that replicas share gave no answer: what was asked may have happened, or not."""


class Verdict(StrEnum):
    """What the log said to an append."""

    TAKEN = "taken"
    FENCED = "fenced"  # the lease is no longer the caller's: it must stop
    MOVED = "moved"  # the log isn't what the caller believes: read it again


@dataclass(frozen=True, slots=True)
class LogPage:
    """What a feed's log holds after some offset, in one atomic look.

    `epoch` is what `begin` called it. `base` is the offset before its first entry ever, `floor_id`
    the cursor that stood there; `top` is the newest offset. `entries` are in order, those that are
    still held; their times are unknown and set to now.
    """

    epoch: str
    base: int
    floor_id: bytes
    top: int
    entries: tuple[Entry, ...]


class EventLog(Protocol):
    """The deployment's history of each feed: bounded like a feed's own, and appended by one owner
    at a time.

    A feed is named by a keyed hash. All calls of one loop turn may travel together. Each raises
    BrokerDown, within a second, where the server gives no answer.
    """

    async def read(self, feed: str, after: int) -> LogPage | None:
        """What the log holds after an offset; None where there is no log."""

    async def append(
        self, feed: str, token: str, epoch: str, after: int, entries: Sequence[Entry]
    ) -> Verdict:
        """Add entries behind offset `after`, which must be the top, and tell the others. May be
        repeated.
        """

    async def begin(
        self,
        feed: str,
        token: str,
        epoch: str,
        base: int,
        floor_id: bytes,
        entries: Sequence[Entry],
    ) -> Verdict:
        """Replace the log by a new one, and tell the others."""


class Leases(Protocol):
    """The time-limited right to run a feed's source."""

    async def take(self, feed: str, *, wanted: bool) -> str | None:
        """A token if the lease was free or is the caller's; None if another has it.

        `wanted` tells its owner that somebody here would take it over. Raises BrokerDown.
        """

    async def give(self, feed: str, token: str, *, if_wanted: bool) -> bool:
        """Give it back, or only if another replica wants it; whether it was given. Tells the
        others.

        Raises BrokerDown.
        """


class Member(Protocol):
    """A feed's part in the deployment, as the broker calls it back; nothing here waits."""

    token: str | None

    @property
    def in_use(self) -> bool:
        """Whether anybody here reads the feed, or waits to."""

    def look_again(self) -> None:
        """What was said of the log may have been missed."""

    def log_moved(self, epoch: str, top: int) -> None:
        """The log's top is now there: by a message, or by a look that may repeat what is known."""

    def lease_free(self) -> None:
        """Nobody holds the lease."""

    def lease_held(self, replica: str) -> None:
        """Another replica holds the lease."""

    def lease_lost(self) -> None:
        """The lease that `token` names is another's, or nobody's."""

    def wanted_elsewhere(self) -> None:
        """Another replica has streams of this feed and would own it."""

    def broker_changed(self) -> None:
        """The server has gone or come back; see `Broker.is_up`."""


class Broker(EventLog, Leases, Protocol):
    """One replica's seat at the server that replicas share."""

    def is_up(self) -> bool:
        """Whether the server answers, as far as is known."""

    def enter(self, feed: str, member: Member) -> None:
        """Call this member back from now on."""

    def leave(self, feed: str) -> None:
        """Stop calling back."""


class Budgets(Protocol):
    """What one identity and one address may take: of this process, or of the whole deployment.

    Addresses and identities are as the caller counts them; nothing here raises but what is said,
    and nothing waits for longer than a second.
    """

    async def peek(self, address: str) -> Decision:
        """Whether one more credential from this address may be found bad; spends nothing."""

    async def spend(self, address: str) -> None:
        """A credential from this address was found bad."""

    async def sit(self, identity: str, retire: Callable[[], None]) -> str:
        """Take a seat for one stream more; its name, which the caller owes to `stand`.

        `retire` ends that stream to make room for a newer one; it is called at most once, perhaps
        before this returns, and must not wait. Raises Refusal `too_many_streams`, `rate_limited`,
        in that order, and then has spent nothing.
        """

    def stand(self, identity: str, seat: str) -> None:
        """Give a seat back. May be called twice."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the budget of upstream's 401s had left: the places that were taken, and where it is
    spent for how long.
    """

    places: tuple[str, ...] = ()
    spent_for_s: float = 0.0


class Places(Protocol):
    """How many 401s may still happen upstream within a minute: whoever may cause one takes a place
    first.
    """

    async def take(self, wanted: int) -> Room:
        """Take up to so many places; each is owed to `give_back` or `failed`. Within a second."""

    async def freed(self) -> None:
        """Wait until `take` may find more."""

    def give_back(self, place: str) -> None:
        """No 401 came of it."""

    def failed(self, place: str | None) -> None:
        """A 401 happened upstream. A place turns into it; a credential that was good once has
        none.
        """


Clock = Callable[[], float]
