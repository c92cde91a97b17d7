"""The page's side of the demo: its files, its numbers and its orders, as routes beside the streams.

They share the relay's origin, because the page is to use the streams as any application would:
`new EventSource("/api/desktops/stream?apiKey=…")`. Orders break things, and the numbers hold the
demo's key, so both are for this page alone: not for a page of another site, nor for one that has
rebound its name to this machine.
"""

from importlib.resources import files
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from lebureau_relay.demo.stage import Order, Stage, hosts

_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
# Its own files, its own origin, and the streams under other names of this machine.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' http://*.localhost:*; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """The routes over one stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def install(self, app: web.Application) -> None:
        """Put the routes into the relay's public application, which is about to start."""
        for asset in (files("lebureau_relay.demo") / "assets").iterdir():
            name = asset.name
            path = "/" if name == "index.html" else f"/demo/{name}"
            app.router.add_get(path, _asset(asset.read_bytes(), _TYPES[name.rpartition(".")[2]]))
        app.router.add_get("/demo/state", _own(self._state))
        app.router.add_get("/demo/desktops", _own(self._desktops))
        app.router.add_post("/demo/orders/{order}", _own(self._order))

    async def _state(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._stage.state(), headers={"Cache-Control": "no-store"})

    async def _desktops(self, _request: web.Request) -> web.StreamResponse:
        desktops = await self._stage.desktops()
        return web.json_response(desktops, headers={"Cache-Control": "no-store"})

    async def _order(self, request: web.Request) -> web.StreamResponse:
        """Carry out an order of the page's."""
        try:
            order = Order(request.match_info["order"])
        except ValueError:
            return web.Response(status=404)
        self._stage.order(order)
        return web.Response(status=202)


def _own(handler: Handler) -> Handler:
    """`handler` for this page alone, and for programs on this machine.

    The name in `Host` foils rebinding; `Sec-Fetch-Site` and, for browsers that don't send it,
    `Origin` tell who asks (Fetch Metadata; RFC 6454, section 7).
    """

    async def own(request: web.Request) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST, "")
        origin = request.headers.get(hdrs.ORIGIN, f"http://{host}")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        known = host.partition(":")[0] in hosts()
        if not known or origin != f"http://{host}" or site != "same-origin":
            return web.Response(status=403)
        return await handler(request)

    return own


def _asset(body: bytes, content_type: str) -> Handler:
    """A handler for one file, read once."""

    async def asset(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=_HEADERS)

    return asset
