"""The stream handler: the walk of one request, from a stranger's bytes to a subscriber on a feed.

Everything that can refuse happens before headers, in the order in which it costs: who asks, from
where, whether that is still good, whether there is room, and last what upstream says. After the
headers nothing can fail.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import hdrs, web

from lebureau_relay.core.credential import Credential
from lebureau_relay.edge.admission import Admission, ClientAddresses, Seat, budget_name
from lebureau_relay.edge.cors import Cors
from lebureau_relay.edge.credentials import ClientAsk, CredentialRules, read_ask
from lebureau_relay.edge.handoff import hand_off
from lebureau_relay.errors import CloseReason, Refusal, RefusalCode
from lebureau_relay.relay.feed import Feed
from lebureau_relay.relay.hub import Hub
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import FeedKey, Identities, StreamSpec
from lebureau_relay.relay.subscriber import Subscriber

_HEADERS = {
    hdrs.CONNECTION: "close",
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store, no-transform",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True)
class Door:
    """What every request passes."""

    rules: CredentialRules
    cors: Cors
    addresses: ClientAddresses
    admission: Admission
    identities: Identities
    observer: Observer


class StreamHandler:
    """Answers GET and HEAD on the streams. `refusing` is set once no new streams are taken."""

    def __init__(self, door: Door, hub: Hub) -> None:
        self.refusing = False
        self._door = door
        self._hub = hub

    async def __call__(self, request: web.Request, stream: StreamSpec) -> web.StreamResponse:
        """Answer one request, or raise Refusal."""
        return await self._answer(request, stream)

    async def _answer(self, request: web.Request, stream: StreamSpec) -> web.StreamResponse:
        door = self._door
        client = door.addresses.of(request)
        ask = read_ask(request, door.rules, stream, door.addresses.told_upstream(client))
        door.cors.check(request, ask.credential.kind)
        if self.refusing:
            detail = "This replica is leaving service; connect again and another one answers."
            raise Refusal(RefusalCode.DRAINING, detail, retry_after_s=1.0)
        async with door.admission.attempt(budget_name(client), ask.credential):
            return await self._let_in(request, stream, ask)

    async def _let_in(
        self, request: web.Request, stream: StreamSpec, ask: ClientAsk
    ) -> web.StreamResponse:
        door, hub = self._door, self._hub
        arrived_s = hub.clock()
        identity = await door.identities.identify(ask.credential)
        key = FeedKey(identity.name, stream, ask.query)
        if hub.is_warm(key) or request.method == hdrs.METH_HEAD:
            await door.identities.ensure_fresh(ask.credential)
        response = web.StreamResponse(headers=_HEADERS)
        if request.method == hdrs.METH_HEAD:
            response.force_close()
            return response
        guest = _Guest()
        try:
            guest.seat = await door.admission.admit_identity(identity, guest.retire)
        except Refusal:  # upstream will not be asked after all
            door.identities.undecided(ask.credential)
            raise
        try:
            feed = await hub.join(key, ask.credential, ask.cursor)
            subscriber = await hand_off(
                request, response, hub.timings.buffer_bytes, guest.maker(feed, ask.credential)
            )
        except BaseException:
            guest.seat.release()
            raise
        if subscriber is None:
            guest.seat.release()
        else:
            door.observer.stream(stream.name).connect("accepted")
            feed.attach(subscriber, ask.cursor, waited=arrived_s < feed.open_since_s)
            guest.settle()
        return response


class _Guest:
    """A request on its way to being a stream: it may be told to make room before it is one."""

    __slots__ = ("_retired", "_subscriber", "seat")

    def __init__(self) -> None:
        self.seat: Seat
        self._retired = False
        self._subscriber: Subscriber | None = None

    def maker(
        self, feed: Feed, credential: Credential
    ) -> Callable[[asyncio.Transport, bool], Subscriber]:
        """What makes the subscriber once its socket is known."""

        def make(transport: asyncio.Transport, chunked: bool) -> Subscriber:  # noqa: FBT001
            self._subscriber = Subscriber(
                feed, transport, credential, chunked=chunked, on_gone=self.seat.release
            )
            return self._subscriber

        return make

    def retire(self) -> None:
        """A newer stream of this identity takes the place."""
        self._retired = True
        self.settle()

    def settle(self) -> None:
        """End the stream if that was asked for, now that there is one."""
        subscriber = self._subscriber
        if self._retired and subscriber is not None:
            subscriber.feed.end(subscriber, CloseReason.RETIRED)
