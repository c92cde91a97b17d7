"""An API whose answers a test may replace, request by request: what it leaves alone the simulated
API behind it answers.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from lebureau_relay.simulator import Simulator

Answer = web.StreamResponse | None


def secret_of(request: web.Request) -> str:
    return request.headers.get("x-api-key") or request.headers.get("Cookie", "")


async def leave_alone(_request: web.Request) -> Answer:
    return None


class Veneer:
    """`answer` is asked first; None lets the request through. `asked` counts path and secret."""

    def __init__(self, simulator: Simulator) -> None:
        self.answer: Callable[[web.Request], Awaitable[Answer]] = leave_alone
        self.asked: Counter[tuple[str, str]] = Counter()
        self.url = ""
        self._behind = simulator.url
        self._session: aiohttp.ClientSession

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Veneer"]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle, allow_head=False)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout
        ) as self._session:
            yield self
            await runner.cleanup()

    def answers(self, path: str, make: Callable[[str], Answer]) -> None:
        """Answer requests for `path` by what `make(secret)` makes."""

        async def answer(request: web.Request) -> Answer:
            return make(secret_of(request)) if request.path == path else None

        self.answer = answer

    def count(self, path: str) -> int:
        """How often a path was asked."""
        return sum(times for (one, _), times in self.asked.items() if one == path)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path, secret_of(request)] += 1
        replaced = await self.answer(request)
        return replaced if replaced is not None else await self._pass_on(request)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with self._session.get(
            self._behind + request.path_qs, headers=headers, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            except aiohttp.ClientError:  # it was cut, so this is, too
                if request.transport is not None:
                    request.transport.abort()
            return response
