"""Admission: the budgets that a request must fit before it may cost anything.

One place asks them all, in the order in which they cost (docs/architecture.md, the walk of one
request): by client address before anyone is asked who this is, by identity afterwards. What may be
shared with other replicas is counted behind `relay.ports.Budgets`; how many streams this process
can serve is its own affair and counted here.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp import web

from lebureau_relay.core.credential import Credential
from lebureau_relay.core.limiter import Decision
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import Budgets, Identities, Identity

# How long a request waits while others of its address are found out about: as at the gate behind.
ATTEMPT_WAIT_S: Final = 10.0
_FORWARDED: Final = "X-Forwarded-For"
# A subscriber to an IPv6 network gets a whole /64 and may use any address in it (RFC 6177).
_IPV6_PREFIX: Final = 64


class Seat:
    """One open stream's place in the budgets: taken before it opens, given back after its end."""

    __slots__ = ("_admission", "identity", "name")

    def __init__(self, admission: "Admission", identity: str, name: str) -> None:
        self._admission: Admission | None = admission
        self.identity = identity
        self.name = name

    def release(self) -> None:
        """Give the place back. May be called twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._give_back(self)  # noqa: SLF001 - a seat is a part of its admission


@dataclass(slots=True)
class _Line:
    """The requests of one address with credentials that nobody vouches for: how many are being
    found out about, how many wait. These look in order of arrival, again when one has left.
    """

    inside: int = 0
    waiting: int = 0
    head: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """The door's questions to the budgets.

    `streams_total` bounds the open streams of this process (0: not at all; its default depends on
    the process and is the wiring's). `identities` says which credentials are known to be good.
    """

    def __init__(self, streams_total: int, identities: Identities, budgets: Budgets) -> None:
        self._streams_total = streams_total
        self._identities = identities
        self._budgets = budgets
        self._taken = 0
        self._lines: dict[str, _Line] = {}

    @property
    def taken(self) -> int:
        """Seats that are taken: open streams, and those that are about to open or to end."""
        return self._taken

    @asynccontextmanager
    async def attempt(self, address: str, credential: Credential) -> AsyncIterator[None]:
        """Let an address find out who its credential is, and count it if it is refused as invalid.

        While an address has used up its failures, credentials that were good when last heard of
        still pass: behind one address there may be a whole office, and one of it with a wrong key.
        Of others as many are let in at a time as failures are left, or a hundred guesses of one
        instant would cost no more than one. Raises Refusal `too_many_failures`, `at_capacity`, and
        `identity_unavailable` after ATTEMPT_WAIT_S.
        """
        line = await self._line_up(address, credential)
        try:
            self._check_room()
            yield
        except Refusal as refusal:
            if refusal.code is RefusalCode.INVALID_CREDENTIAL:
                await self._budgets.spend(address)
            raise
        finally:
            if line is not None:
                line.inside -= 1
                line.moved.set()
                self._forget(address, line)

    async def _line_up(self, address: str, credential: Credential) -> "_Line | None":
        """The line that the caller stands in from now on; None for a credential that needs none."""
        if self._identities.known_good(credential):
            return None
        line = self._lines.setdefault(address, _Line())
        line.waiting += 1
        try:
            async with asyncio.timeout(ATTEMPT_WAIT_S), line.head:
                while not self._identities.known_good(credential):
                    decision = await self._peek(address)
                    if not decision.limit or line.inside < decision.remaining:
                        break
                    line.moved.clear()
                    await line.moved.wait()
            line.inside += 1
        except TimeoutError:
            raise Refusal(
                RefusalCode.IDENTITY_UNAVAILABLE,
                "Others from this address were asked about for too long; try again.",
                retry_after_s=1.0,
            ) from None
        finally:
            line.waiting -= 1
            self._forget(address, line)
        return line

    def _forget(self, address: str, line: "_Line") -> None:
        if not (line.waiting or line.inside):
            del self._lines[address]

    async def _peek(self, address: str) -> Decision:
        decision = await self._budgets.peek(address)
        if not decision.allowed:
            raise Refusal(
                RefusalCode.TOO_MANY_FAILURES,
                "Too many credentials from this address were refused lately; others must wait.",
                retry_after_s=decision.retry_after_s,
                limit=decision.limit,
            )
        return decision

    async def admit_identity(self, identity: Identity, retire: Callable[[], None]) -> Seat:
        """Take a seat for one stream more; the caller owes its `release`.

        `retire` ends that stream to make room for a newer one; it is called at most once, perhaps
        before the stream has opened, and must not wait. Raises Refusal `at_capacity`,
        `too_many_streams`, `rate_limited`, in that order, so that who is refused for another reason
        spends nothing of the budget for connecting.
        """
        self._check_room()  # again: while identities were asked, others may have sat down
        self._taken += 1
        try:
            name = await self._budgets.sit(identity.name, retire)
        except BaseException:
            self._taken -= 1
            raise
        return Seat(self, identity.name, name)

    def _check_room(self) -> None:
        if 0 < self._streams_total <= self._taken:
            raise Refusal(
                RefusalCode.AT_CAPACITY, "This relay serves as many streams as it can; try again."
            )

    def _give_back(self, seat: Seat) -> None:
        self._taken -= 1
        self._budgets.stand(seat.identity, seat.name)


Address = IPv4Address | IPv6Address


class ClientAddresses:
    """Which address a request is from: the peer's, or what a trusted proxy says it is.

    `trusted` are CIDRs (`proxy.trusted`). Raises ValueError for one that isn't.
    """

    def __init__(self, trusted: Iterable[str], observer: Observer) -> None:
        self._trusted = tuple(ip_network(cidr, strict=False) for cidr in trusted)
        self._observer = observer
        self._warned = False

    def of(self, request: web.BaseRequest) -> Address | None:
        """The client's address; None where there is none."""
        forwarded = request.headers.getall(_FORWARDED, ())
        peer = _parse(request.remote or "")
        if peer is None:  # a Unix socket's, or one that has gone meanwhile
            return None
        if not forwarded:
            return peer
        if not self._is_trusted(peer):
            self._warn(peer)
            return peer
        return self._right_most_untrusted(peer, ",".join(forwarded))

    def told_upstream(self, address: Address | None) -> str:
        """The address as upstream is told it; empty where no proxy is trusted: then the peer may be
        one, and would be taken for the client.
        """
        return str(address) if self._trusted and address is not None else ""

    def _right_most_untrusted(self, peer: Address, forwarded: str) -> Address:
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

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _warn(self, peer: Address) -> None:
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


def _parse(text: str) -> Address | None:
    """An address as proxies write it: bare, with a port, in brackets, or IPv4 dressed as IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # Without a zone: that may be any text, and means nothing here.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def budget_name(address: Address | None) -> str:
    """An address as budgets count it: IPv4 whole, IPv6 by its /64."""
    if address is None:
        return ""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), _IPV6_PREFIX), strict=False))
