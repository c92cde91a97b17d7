"""The simulated API's endpoints, and the streams that are open on them.

Who may come in is the gate's business; here stands what they get, and what is ordered to happen to
it. Every request is kept, as it came, for tests that look for leaked credentials.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_sse import sse_response

from lebureau_relay.errors import ConfigError
from lebureau_relay.simulator.catalogue import Fault
from lebureau_relay.simulator.channel import Channel
from lebureau_relay.simulator.faults import FaultBook, FaultOrder
from lebureau_relay.simulator.gate import MOVED, Gate
from lebureau_relay.simulator.options import SimulatorOptions, Stream
from lebureau_relay.simulator.subscription import Subscription
from lebureau_relay.simulator.world import World, strike

# The library's ping would cut into frames that leave in pieces; ours goes between them.
_NO_PING_S: Final = 31_536_000
_REQUESTS_KEPT: Final = 5_000


@dataclass(slots=True)
class RequestSeen:
    """A request as it came.

    `headers` answers to names in any case, and its items hold repeated fields. `status` is None
    until headers went out, and stays so for one that was stalled or broken.
    """

    method: str
    path: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    address: str
    status: int | None = None


_SEEN: Final = web.RequestKey("seen", RequestSeen)


class Api:
    """The endpoints, and the open subscriptions.

    One for the life of a simulator, however often that restarts.
    """

    __slots__ = ("_gate", "_options", "faults", "requests", "served", "subscriptions", "world")

    def __init__(self, options: SimulatorOptions, world: World, faults: FaultBook) -> None:
        self.world = world
        self.faults = faults
        self.subscriptions: set[Subscription] = set()
        self.requests: deque[RequestSeen] = deque(maxlen=_REQUESTS_KEPT)
        self.served = 0
        self._options = options
        self._gate = Gate(options, world.accounts, faults)

    def install(self, app: web.Application) -> None:
        """Put the endpoints into an application that is about to start."""
        self._gate.open()
        app.middlewares.append(self._witness)
        app.on_response_prepare.append(_note_status)
        for stream in Stream:
            for prefix in ("", MOVED):
                handler = partial(self._stream, stream)
                app.router.add_get(prefix + stream.path, handler, allow_head=False)
        app.router.add_get("/v1/me", self._me, allow_head=False)
        app.router.add_get("/api/desktops", self._list, allow_head=False)

    def end_all(self) -> None:
        """Break every open stream and every stalled request."""
        self._gate.close()
        for subscription in tuple(self.subscriptions):
            subscription.cut()

    # Orders

    def order(self, order: FaultOrder, *, while_open: bool = False) -> int:
        """Carry out a fault, or let it stand.

        `while_open` does it to the streams that are open now and to no later one. Returns to how
        many it was done; 0 for an order that stands. Raises ConfigError if an open stream can't be
        given it.
        """
        if while_open:
            return self._order_open(order)
        if order.fault.at_once and order.every == 1:
            stream = Stream(order.place) if order.place else None
            struck = [each[2] for each in self.world.channels(order.user, stream)]
            for channel in struck:
                strike(channel, order.fault)
            return len(struck)
        self.faults.add(order)
        return 0

    def _order_open(self, order: FaultOrder) -> int:
        if not order.fault.while_open:
            choice = ", ".join(fault for fault in Fault if fault.while_open)
            raise ConfigError(
                [f"fault {order.fault}: can't be done to an open stream; choose from {choice}"]
            )
        meant = [s for s in self.subscriptions if order.concerns(s.user, s.stream)]
        for subscription in meant:
            subscription.order(order)
        return len(meant)

    def clear_faults(self) -> None:
        """Forget every standing order; open streams behave again and send what they held back."""
        self.faults.clear()
        for subscription in self.subscriptions:
            subscription.recover()

    def revoke(self, secret: str, *, cut: bool = False) -> bool:
        """Let a key or a cookie's value open nothing from now on; whether it did until now.

        `cut` breaks the streams that it opened, too.
        """
        known = self.world.accounts.revoke(secret)
        for subscription in tuple(self.subscriptions) if cut else ():
            if subscription.secret == secret:
                subscription.cut()
        return known

    def beat(self) -> None:
        """Send a comment on every stream that has been silent for long enough."""
        due_s = asyncio.get_running_loop().time() - self._options.heartbeat_s
        for subscription in self.subscriptions:
            if subscription.written_at_s <= due_s:
                subscription.heartbeat()

    def state(self) -> dict[str, object]:
        """The numbers that tell the story: open subscriptions, and events and requests so far."""
        users: dict[str, dict[str, int]] = {}
        for user, stream, channel in self.world.channels():
            if channel.open:
                users.setdefault(user, {})[stream] = channel.open
        return {
            "subscriptions": {"total": len(self.subscriptions), "users": users},
            "events": self.world.emitted,
            "requests": self.served,
        }

    # Requests

    @web.middleware
    async def _witness(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/_sim/"):
            self.served += 1
            seen = RequestSeen(
                request.method,
                request.path,
                request.rel_url.raw_query_string,
                request.headers,
                request.remote or "",
            )
            request[_SEEN] = seen
            self.requests.append(seen)
        return await handler(request)

    async def _stream(self, stream: Stream, request: web.Request) -> web.StreamResponse:
        grant = await self._gate.admit(request, stream)
        if isinstance(grant, web.StreamResponse):
            return grant
        channel = self.world.channel(grant.user, stream)
        orders = self.faults.deliveries(grant.user, stream)
        cursor = _cursor(request, channel, orders)
        subscription = Subscription(grant.user, stream, channel, cursor, grant.secret)
        for order in orders:
            subscription.order(order)
        retry_ms = self._options.retry_ms
        opening = b"" if retry_ms is None else b"retry: %d\n\n" % retry_ms
        # Joined before the headers leave: a client that has them may count on the next event.
        channel.join(subscription)
        self.subscriptions.add(subscription)
        try:
            async with sse_response(request, sep="\n", ping_interval=_NO_PING_S) as response:
                await subscription.serve(request, response, opening)
            return response
        finally:
            self.subscriptions.discard(subscription)
            channel.leave(subscription)

    async def _me(self, request: web.Request) -> web.StreamResponse:
        grant = await self._gate.admit(request, "me")
        if isinstance(grant, web.StreamResponse):
            return grant
        user = self.world.accounts.users[grant.user]
        return web.json_response(
            {
                "id": user.id,
                "email": user.email,
                "role": user.role,
                "tier": user.tier,
                "capabilities": list(grant.capabilities),
            }
        )

    async def _list(self, request: web.Request) -> web.StreamResponse:
        grant = await self._gate.admit(request, "list")
        if isinstance(grant, web.StreamResponse):
            return grant
        return web.json_response(self.world.desktops(grant.user))


def _cursor(request: web.Request, channel: Channel, orders: list[FaultOrder]) -> int:
    """Where a client reads on: after the id that it names, and from now on if it names none."""
    for order in orders:
        if order.fault is Fault.CURSOR_IGNORED:
            return channel.beginning if order.argument == "all" else channel.top
    last = request.headers.get("Last-Event-ID")
    return channel.top if last is None else channel.after(last)


async def _note_status(request: web.Request, response: web.StreamResponse) -> None:
    seen = request.get(_SEEN)
    if seen is not None:
        seen.status = response.status
