"""Admission: the budgets that a request must fit before it may cost anything.

One place holds them all, in the order in which they are asked (docs/architecture.md, the walk of
one request): by client address before anyone is asked who this is, by identity afterwards. They
live in this process; deployment-wide ones belong to whoever shares them. No method waits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp import web

from lebureau_relay.core.credential import Credential
from lebureau_relay.core.limiter import Limiter
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.ports import Clock, Identities, Identity, Observer

_FORWARDED: Final = "X-Forwarded-For"
# A subscriber to an IPv6 network gets a whole /64 and may use any address in it (RFC 6177).
_IPV6_PREFIX: Final = 64


class OnExcess(StrEnum):
    """Which stream goes when an identity opens one too many."""

    REFUSE_NEWEST = "refuse_newest"
    RETIRE_OLDEST = "retire_oldest"


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The `limits` settings of the contract, section 2, that admission holds. 0 is no limit.

    `streams_total` is the number itself: its default depends on the process and is the wiring's.
    """

    connects_per_minute: int = 120
    failed_auth_per_minute: int = 5
    streams_per_user: int = 100
    streams_total: int = 0
    on_excess: OnExcess = OnExcess.REFUSE_NEWEST


class Seat:
    """One open stream's place in the budgets: taken before it opens, given back after its end."""

    __slots__ = ("_admission", "identity", "retire")

    def __init__(self, admission: "Admission", identity: str, retire: Callable[[], None]) -> None:
        self._admission: Admission | None = admission
        self.identity = identity
        self.retire = retire

    def release(self) -> None:
        """Give the place back. May be called twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._give_back(self)  # noqa: SLF001 - a seat is a part of its admission


class Admission:
    """The budgets of one process.

    `identities` says which credentials are known to be good; `clock` is in seconds and never goes
    back.
    """

    def __init__(self, limits: AdmissionLimits, identities: Identities, clock: Clock) -> None:
        self._limits = limits
        self._identities = identities
        self._clock = clock
        self._failures = Limiter[str](limits.failed_auth_per_minute)
        self._connects = Limiter[str](limits.connects_per_minute)
        self._seats: dict[str, dict[Seat, None]] = {}  # by identity, oldest first
        self._taken = 0

    @property
    def taken(self) -> int:
        """Seats that are taken: open streams, and those that are about to open or to end."""
        return self._taken

    def admit_address(self, address: str, credential: Credential) -> None:
        """Let an address ask who its credential is.

        While an address has used up its failures, credentials that are known to be good still pass:
        behind one address there may be a whole office, and one of it with a wrong key. Raises
        Refusal `too_many_failures`, `at_capacity`.
        """
        decision = self._failures.peek(address, self._clock())
        if not decision.allowed and not self._identities.known_good(credential):
            raise Refusal(
                RefusalCode.TOO_MANY_FAILURES,
                "Too many credentials from this address were refused lately; others must wait.",
                retry_after_s=decision.retry_after_s,
                limit=decision.limit,
            )
        self._check_room()

    def failed(self, address: str) -> None:
        """A credential from this address was refused as invalid: count it."""
        self._failures.spend(address, self._clock())

    def admit_identity(self, identity: Identity, retire: Callable[[], None]) -> Seat:
        """Take a seat for one stream more; the caller owes its `release`.

        `retire` ends that stream to make room for a newer one; it is called at most once, perhaps
        before the stream has opened, and must not wait. Raises Refusal `at_capacity`,
        `too_many_streams`, `rate_limited`, in that order, so that who is refused for another reason
        spends nothing of the budget for connecting.
        """
        name = identity.name
        self._check_room()  # again: while identities were asked, others may have sat down
        seats = self._seats.get(name, {})
        limit = self._limits.streams_per_user
        full = 0 < limit <= len(seats)
        if full and self._limits.on_excess is OnExcess.REFUSE_NEWEST:
            raise Refusal(
                RefusalCode.TOO_MANY_STREAMS,
                f"{limit} streams are open for this user, and no more are allowed; close one.",
                limit=limit,
            )
        decision = self._connects.check(name, self._clock())
        if not decision.allowed:
            raise Refusal(
                RefusalCode.RATE_LIMITED,
                f"More than {decision.limit} connections a minute for this user; events don't "
                "count, so keep a stream open instead of asking again.",
                retry_after_s=decision.retry_after_s,
                limit=decision.limit,
            )
        if full:
            self._retire_oldest(seats)
        seat = Seat(self, name, retire)
        self._seats.setdefault(name, seats)[seat] = None
        self._taken += 1
        return seat

    def _check_room(self) -> None:
        total = self._limits.streams_total
        if 0 < total <= self._taken:
            raise Refusal(
                RefusalCode.AT_CAPACITY, "This relay serves as many streams as it can; try again."
            )

    def _retire_oldest(self, seats: dict[Seat, None]) -> None:
        """End the oldest. It leaves its identity's count now, and the total when it has ended."""
        oldest = next(iter(seats))
        del seats[oldest]
        oldest.retire()

    def _give_back(self, seat: Seat) -> None:
        self._taken -= 1
        seats = self._seats.get(seat.identity, {})
        seats.pop(seat, None)
        if not seats:
            self._seats.pop(seat.identity, None)


class ClientAddresses:
    """Which address a request is from: the peer's, or what a trusted proxy says it is.

    `trusted` are CIDRs (`proxy.trusted`). Raises ValueError for one that isn't.
    """

    def __init__(self, trusted: Iterable[str], observer: Observer) -> None:
        self._trusted = tuple(ip_network(cidr, strict=False) for cidr in trusted)
        self._observer = observer
        self._warned = False

    def of(self, request: web.BaseRequest) -> str:
        """The client's address as budgets count it: IPv4 whole, IPv6 by its /64."""
        forwarded = request.headers.getall(_FORWARDED, ())
        peer = _parse(request.remote or "")
        if peer is None:  # a Unix socket's, or one that has gone meanwhile
            return ""
        if not forwarded:
            return _budget_name(peer)
        if not self._is_trusted(peer):
            self._warn(peer)
            return _budget_name(peer)
        return _budget_name(self._right_most_untrusted(peer, ",".join(forwarded)))

    def _right_most_untrusted(
        self, peer: IPv4Address | IPv6Address, forwarded: str
    ) -> IPv4Address | IPv6Address:
        """Walk from the nearest hop outwards: each was written by the hop before it.

        What stands further left than the first untrusted address was written by a stranger. Where
        an entry is no address, the trusted hop that wrote it is the best that is known.
        """
        nearest = peer
        for entry in reversed(forwarded.split(",")):
            address = _parse(entry)
            if address is None:
                break
            nearest = address
            if not self._is_trusted(address):
                break
        return nearest

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)

    def _warn(self, peer: IPv4Address | IPv6Address) -> None:
        """Once: behind an ingress that isn't trusted, all clients share one address's budgets."""
        if not self._warned:
            self._warned = True
            self._observer.note(
                "warning",
                "proxy.untrusted",
                peer=str(peer),
                mend="X-Forwarded-For came from an address outside proxy.trusted and is ignored; "
                "if it is your proxy, list it there",
            )


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: bare, with a port, in brackets, or IPv4 dressed as IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _budget_name(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), _IPV6_PREFIX), strict=False))
