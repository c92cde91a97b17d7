"""The fixtures of the black-box tests, and proxies in front of their relay."""

from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from tests.e2e.conftest import *  # noqa: F403 - fixtures are found by their names
from tests.ingress.fronts import CADDY, HAPROXY, NGINX, Front
from tests.ingress.reader import Reader

# What a front waits in silence, and heartbeats that come in time or don't.
IDLE_S = 2
BEATS = {"stream": {"heartbeat": 0.5}}
SILENT = {"stream": {"heartbeat": 60}}


@pytest.fixture
async def api():
    """Everything that is no stream: one page."""

    async def page(_request: web.Request) -> web.Response:
        text = '<!doctype html><title>tab</title><link rel="icon" href="data:,">'
        return web.Response(text=text, content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture(params=[NGINX, HAPROXY, CADDY])
def proxy(request):
    return request.param


@pytest.fixture
async def front(proxy, api):
    """Puts the proxy in front of a relay: `front(relay, idle_s=…)`."""
    async with AsyncExitStack() as stack:

        async def put(relay, **options) -> Front:
            made = Front(proxy, [relay.public_url], api, admin=relay.admin_url, **options)
            return await stack.enter_async_context(made)

        yield put


@pytest.fixture
async def read(user):
    """Opens streams through a front: `read(front)`."""
    async with AsyncExitStack() as stack:

        async def start(front: Front, **options) -> Reader:
            options.setdefault("key", user.key)
            return await stack.enter_async_context(Reader(front, **options))

        yield start
