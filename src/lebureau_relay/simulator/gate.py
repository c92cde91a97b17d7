"""The door of the simulated API: who calls, may they, how often, and what a broken server says.

The order of the checks is the likely order of the real thing's layers: ordered faults first (a
broken server does not look at credentials), then the credential with its budget of failures per
address, the key's connections per minute, and its capabilities.
"""

import asyncio
import math
from http.client import responses
from typing import Final

from aiohttp import hdrs, web

from lebureau_relay.simulator.accounts import COOKIE, READ, Accounts, Grant
from lebureau_relay.simulator.catalogue import Fault
from lebureau_relay.simulator.faults import FaultBook, FaultOrder
from lebureau_relay.simulator.limits import Window
from lebureau_relay.simulator.options import SimulatorOptions

# Where a redirect on the same origin leads; every stream is served there, too.
MOVED: Final = "/moved"
_RETRY_AFTER_S: Final = 5
_PAGE: Final = "<!doctype html><title>Le Bureau</title><p>This is no event stream.</p>\n"


class Gate:
    """Who may come in. One for the life of a simulator, however often that restarts."""

    __slots__ = ("_accounts", "_connects", "_failures", "_faults", "_stopping")

    def __init__(self, options: SimulatorOptions, accounts: Accounts, faults: FaultBook) -> None:
        self._accounts = accounts
        self._faults = faults
        self._connects = Window(options.connects_per_minute)
        self._failures = Window(options.failed_auth_per_minute)
        self._stopping = asyncio.Event()

    def open(self) -> None:
        """Take requests."""
        self._stopping.clear()

    def close(self) -> None:
        """Break every stalled request."""
        self._stopping.set()

    async def admit(self, request: web.Request, place: str) -> Grant | web.StreamResponse:
        """Who calls, or the answer that they get instead.

        `place` is a stream's name, `me` or `list`. Waits only where a stall is ordered.
        """
        presented, grant = self._credential(request)
        has_cursor = "Last-Event-ID" in request.headers
        order = self._faults.answer(grant.user if grant else None, place, has_cursor=has_cursor)
        # Who has followed a redirect has arrived, or one that stands would lead round in circles.
        arrived = request.path.startswith(MOVED)
        if order is not None and not (arrived and order.fault is Fault.REDIRECT):
            return await self._faulty(request, order)
        now_s = asyncio.get_running_loop().time()
        address = request.remote or ""
        if wait_s := self._failures.wait_s(address, now_s):
            # Good keys from there wait as well: the unkind reading of "per address".
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
            return True, self._accounts.by_key(key)
        value = request.cookies.get(COOKIE)
        return bool(value), self._accounts.by_cookie(value) if value else None

    async def _faulty(self, request: web.Request, order: FaultOrder) -> web.StreamResponse:
        match order.fault:
            case Fault.REDIRECT:
                origin = order.argument.rstrip("/") or MOVED
                return web.Response(status=307, headers={hdrs.LOCATION: origin + request.path_qs})
            case Fault.CONTENT_TYPE:
                headers = {hdrs.CONTENT_TYPE: order.argument or "text/html"}
                return web.Response(body=_PAGE.encode(), headers=headers)
            case Fault.NO_CONTENT:
                return web.Response(status=204)
            case Fault.STALL:
                return await self._stall(request, headers=bool(order.argument))
            case _:
                return _refusal(*_status(order))

    async def _stall(self, request: web.Request, *, headers: bool) -> web.StreamResponse:
        """Say nothing until the client leaves (cancelled) or the simulator stops."""
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream"})
        if headers:
            await response.prepare(request)
        await self._stopping.wait()
        if request.transport is not None:
            request.transport.abort()
        return response


def _status(order: FaultOrder) -> tuple[int, int]:
    """The status that an order asks for, and its `Retry-After` in seconds, 0 for none."""
    match order.fault:
        case Fault.TOO_MANY:
            return 429, order.number(_RETRY_AFTER_S)
        case Fault.UNAVAILABLE:
            return 503, order.number(0)
        case Fault.CURSOR_REJECTED:
            return order.number(400), 0
        case fault:
            return int(fault), 0


def _refusal(status: int, retry_after_s: int = 0) -> web.Response:
    headers = {hdrs.RETRY_AFTER: str(retry_after_s)} if retry_after_s else None
    body = {"error": responses.get(status, "Refused"), "statusCode": status}
    return web.json_response(body, status=status, headers=headers)
