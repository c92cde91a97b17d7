"""The simulated API's own endpoints: who is calling, may they, how often, and what they get.

The order of a request is the order of the real thing's likely layers: ordered faults first (a
broken server does not look at credentials), then the credential with its budget of failures per
address, the key's connections per minute, its capabilities, and then the answer. Every request is
kept, as it came, for tests that look for leaked credentials.
"""

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from aiohttp_sse import sse_response

from lebureau_relay.errors import ConfigError
from lebureau_relay.simulator.accounts import COOKIE, READ, Grant
from lebureau_relay.simulator.catalogue import Fault
from lebureau_relay.simulator.channel import Channel
from lebureau_relay.simulator.faults import FaultBook, FaultOrder
from lebureau_relay.simulator.limits import Window
from lebureau_relay.simulator.options import SimulatorOptions, Stream
from lebureau_relay.simulator.subscription import Subscription
from lebureau_relay.simulator.world import World, strike

# The library's ping would cut into frames that leave in pieces; ours goes between them.
_NO_PING_S: Final = 31_536_000
_REQUESTS_KEPT: Final = 5_000
_RETRY_AFTER_S: Final = 5
_MOVED: Final = "/moved"
_PAGE: Final = "<!doctype html><title>Le Bureau</title><p>This is no event stream.</p>\n"
_REASONS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    412: "Precondition Failed",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(slots=True)
class RequestSeen:
    """A request as it came. `status` is None until headers went out, and stays so for one that was
    stalled or broken.
    """

    method: str
    path: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(
        repr=False
    )  # as they came: names in any case, repeats and all
    address: str
    status: int | None = None


_SEEN: Final = web.RequestKey("seen", RequestSeen)


class Api:
    """The endpoints, and the open subscriptions. One for the life of a simulator, however often it
    restarts.
    """

    __slots__ = ("_connects", "_failures", "_options", "_stopping", "faults", "requests", "served",
                 "subscriptions", "world")  # fmt: skip

    def __init__(self, options: SimulatorOptions, world: World, faults: FaultBook) -> None:
        self.world = world
        self.faults = faults
        self.subscriptions: set[Subscription] = set()
        self.requests: deque[RequestSeen] = deque(maxlen=_REQUESTS_KEPT)
        self.served = 0
        self._options = options
        self._connects = Window(options.connects_per_minute)
        self._failures = Window(options.failed_auth_per_minute)
        self._stopping = asyncio.Event()

    def install(self, app: web.Application) -> None:
        """Put the endpoints into an application that is about to start."""
        self._stopping = asyncio.Event()
        app.middlewares.append(self._witness)
        app.on_response_prepare.append(_note_status)
        for stream in Stream:
            for prefix in ("", _MOVED):
                handler = partial(self._stream, stream)
                app.router.add_get(prefix + stream.path, handler, allow_head=False)
        for place, path in (("me", "/v1/me"), ("list", "/api/desktops")):
            app.router.add_get(path, getattr(self, f"_{place}"), allow_head=False)

    def end_all(self) -> None:
        """Break every open stream and every stalled request."""
        self._stopping.set()
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
        """The numbers that tell the story: open subscriptions per user and stream and in all,
        events, requests.
        """
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
        grant = await self._admit(request, stream)
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
        grant = await self._admit(request, "me")
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
        grant = await self._admit(request, "list")
        if isinstance(grant, web.StreamResponse):
            return grant
        return web.json_response(self.world.desktops(grant.user))

    async def _admit(self, request: web.Request, place: str) -> Grant | web.StreamResponse:
        """Who calls, or the answer that refuses it."""
        presented, grant = self._credential(request)
        has_cursor = "Last-Event-ID" in request.headers
        order = self.faults.answer(grant.user if grant else None, place, has_cursor=has_cursor)
        if order is not None:
            return await self._faulty(request, order)
        now_s = asyncio.get_running_loop().time()
        address = request.remote or ""
        if wait_s := self._failures.wait_s(address, now_s):
            return _refusal(429, math.ceil(wait_s))
        if grant is None:
            if presented:
                self._failures.hit(address, now_s)
            return _refusal(401)
        if wait_s := self._connects.wait_s(grant.secret, now_s):
            return _refusal(429, math.ceil(wait_s))
        self._connects.hit(grant.secret, now_s)
        if place != "me" and READ not in grant.capabilities:
            return _refusal(403)
        return grant

    def _credential(self, request: web.Request) -> tuple[bool, Grant | None]:
        """Whether a credential came, and what it is good for. A key wins over a cookie."""
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        key = request.headers.get("x-api-key") or bearer or request.query.get("apiKey")
        if key:
            return True, self.world.accounts.by_key(key)
        value = request.cookies.get(COOKIE)
        return bool(value), self.world.accounts.by_cookie(value) if value else None

    async def _faulty(self, request: web.Request, order: FaultOrder) -> web.StreamResponse:
        match order.fault:
            case Fault.REDIRECT:
                origin = order.argument.rstrip("/") or _MOVED
                return web.Response(status=307, headers={hdrs.LOCATION: origin + request.path_qs})
            case Fault.CONTENT_TYPE:
                headers = {hdrs.CONTENT_TYPE: order.argument or "text/html"}
                return web.Response(body=_PAGE.encode(), headers=headers)
            case Fault.NO_CONTENT:
                return web.Response(status=204)
            case Fault.STALL:
                return await self._stall(request, headers=bool(order.argument))
            case Fault.TOO_MANY:
                return _refusal(429, order.number(_RETRY_AFTER_S))
            case _:
                status = (
                    order.number(400) if order.fault is Fault.CURSOR_REJECTED else int(order.fault)
                )
                return _refusal(status, order.number(0) if order.fault is Fault.UNAVAILABLE else 0)

    async def _stall(self, request: web.Request, *, headers: bool) -> web.StreamResponse:
        """Say nothing until the client leaves (cancelled) or the simulator stops."""
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream"})
        if headers:
            await response.prepare(request)
        await self._stopping.wait()
        if request.transport is not None:
            request.transport.abort()
        return response


def _cursor(request: web.Request, channel: Channel, orders: list[FaultOrder]) -> int:
    """Where a client reads on: after the id that it names, and from now on if it names none."""
    for order in orders:
        if order.fault is Fault.CURSOR_IGNORED:
            return channel.beginning if order.argument == "all" else channel.top
    last = request.headers.get("Last-Event-ID")
    return channel.top if last is None else channel.after(last)


def _refusal(status: int, retry_after_s: int = 0) -> web.Response:
    headers = {hdrs.RETRY_AFTER: str(retry_after_s)} if retry_after_s else None
    reason = _REASONS.get(status, "Refused")
    return web.json_response(
        {"error": reason, "statusCode": status}, status=status, headers=headers
    )


async def _note_status(request: web.Request, response: web.StreamResponse) -> None:
    seen = request.get(_SEEN)
    if seen is not None:
        seen.status = response.status
