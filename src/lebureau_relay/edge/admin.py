"""The admin listener: probes, metrics, status, console, and the one verb of operators.

It stands apart from the public edge because it answers other people on another port. Probes and
metrics answer whoever reaches it; what tells more answers only names that the operator allowed, or
a page anywhere on the web could read it through the operator's own browser by rebinding its name to
this address. Nothing here shows a secret: feeds go by keyed hashes.
"""

import asyncio
import json
import platform
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from importlib.resources import files
from typing import Any, Final

from aiohttp import hdrs, http_parser, web
from aiohttp.typedefs import Handler
from aiohttp_sse import sse_response
from multidict import CIMultiDict

from lebureau_relay.edge.picture import Picture, PictureSources
from lebureau_relay.edge.pulse import Pulse
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import Clock

_TELL_EVERY_S: Final = 60.0
# A console that takes nothing for this long is a closed laptop.
_SEND_TIMEOUT_S: Final = 10.0
# An order is two short fields, written by a tool in one go.
_MAX_ORDER_BYTES: Final = 4096
_ORDER_TIMEOUT_S: Final = 5.0
_MAX_REASON: Final = 200
_HASH: Final = re.compile(r"[0-9a-f]{32}")
_USAGE: Final = (
    'Send {"identity": "<hash from /status>", "reason": "…"} or {"all": true, "reason": "…"}.'
)

# What is searched for: a hash, or an event's id, which is longer only where somebody tries it.
_MAX_TEXT: Final = 300
_FIND: Final = 'Send {"find": "<the beginning of a hash, or an event\'s id>"}.'

ASSETS: Final = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/tables.js": ("tables.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
}
_HEADERS: Final = {
    "Server": "lebureau-relay",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class AdminRules:
    """The `admin` settings (contract, section 2). Without a `token` there are no operator verbs."""

    version: str
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class AdminSources:
    """Where the admin listener reads from, and what it may do: plain calls on the event loop.

    `picture` is what status and console show. `render` gives the metrics for an `Accept` header
    with their content type. `end` ends the streams of an identity's hash, or all for None, for the
    reason `operator`, and returns how many.
    """

    picture: PictureSources
    render: Callable[[str], tuple[bytes, str]]
    end: Callable[[str | None], int]
    observer: Observer


def build_admin(
    rules: AdminRules, sources: AdminSources, clock: Clock = time.monotonic
) -> web.Application:
    """The application of the admin listener. It raises Refusal for what it won't do: whoever serves
    it owes the guard that answers, counts and logs these.
    """
    admin = _Admin(rules, sources, clock)
    app = web.Application(middlewares=[_in_our_words], client_max_size=_MAX_ORDER_BYTES)
    app.router.add_get("/healthz", admin.healthz)
    app.router.add_get("/readyz", admin.readyz)
    app.router.add_get("/metrics", admin.metrics)
    app.router.add_get("/status", admin.guarded(admin.status))
    app.router.add_get("/events", admin.guarded(admin.events), allow_head=False)
    app.router.add_post("/explain", admin.guarded(admin.explain))
    for path, (name, content_type) in ASSETS.items():
        app.router.add_get(path, admin.guarded(_asset(name, content_type)))
    if rules.token:
        app.router.add_post("/operator/end", admin.guarded(admin.end))
    app.on_response_prepare.append(_dress)
    app.cleanup_ctx.append(admin.beating)
    app.on_shutdown.append(admin.stop)
    return app


def c_extensions() -> dict[str, bool]:
    """Which C halves of aiohttp are in use; several advisories are about the Python ones only."""
    return {
        "request_parser": http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy,
        "response_parser": http_parser.HttpResponseParser is not http_parser.HttpResponseParserPy,
        "multidict": CIMultiDict.__module__ == "multidict._multidict",
    }


class _Admin:
    """The handlers, and the consoles that are open."""

    def __init__(self, rules: AdminRules, sources: AdminSources, clock: Clock) -> None:
        self._rules = rules
        self._sources = sources
        self._clock = clock
        self._picture = Picture(rules.version, sources.picture, clock)
        self._pulse = Pulse(self._picture, sources.observer, clock)
        self._allowed = {host.lower() for host in rules.allowed_hosts}
        self._token = _digest(rules.token)
        self._tell_again_s = 0.0

    async def beating(self, _app: web.Application) -> AsyncIterator[None]:
        """The consoles' pulse, for as long as the application lives."""
        pulse = asyncio.create_task(self._pulse.run())
        yield
        pulse.cancel()
        await asyncio.wait({pulse})

    async def stop(self, _app: web.Application) -> None:
        """End the consoles' streams, or they would hold up the listener's end."""
        self._pulse.stop()

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process lives: whoever reads this has been answered by its event loop."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether new streams are taken."""
        ready, why = self._sources.picture.ready()
        return web.Response(text=f"{why}\n", status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text or OpenMetrics."""
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
        body, content_type = self._sources.render(accept)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    def guarded(self, handler: Handler) -> Handler:
        """`handler` for allowed hosts only, and not for other sites' pages."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            # Not request.host, which makes one up where none came.
            if _without_port(request.headers.get(hdrs.HOST, "")) not in self._allowed:
                raise Refusal(
                    RefusalCode.FORBIDDEN, "This host isn't in the setting admin.allowed_hosts."
                )
            site = request.headers.get("Sec-Fetch-Site", "none")
            # A link to the console may be followed; a form may be sent by its own pages only.
            following = (
                request.method in {hdrs.METH_GET, hdrs.METH_HEAD}
                and request.headers.get("Sec-Fetch-Mode") == "navigate"
            )
            if site not in {"none", "same-origin"} and not following:
                raise Refusal(RefusalCode.FORBIDDEN, "Pages of other origins may not read this.")
            return await handler(request)

        return guarded

    async def status(self, _request: web.Request) -> web.Response:
        """Everything that operators may know, for programs."""
        about = {
            "python": platform.python_version(),
            "loop": type(asyncio.get_running_loop()).__module__,
            "c_extensions": c_extensions(),
        }
        return web.json_response(about | await self._picture.status())

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The console's own stream: a screen a second."""
        with self._pulse.seat():
            async with sse_response(request, send_timeout=_SEND_TIMEOUT_S) as response:
                # the console has gone, or takes nothing any more
                with suppress(OSError):
                    async with aclosing(self._pulse.watch()) as screens:
                        async for name, data in screens:
                            await response.send(data, event=name)
            return response

    async def explain(self, request: web.Request) -> web.Response:
        """Whom a hash or an event's id means, and how they stand here.

        The text comes in the body: people paste keys where they should not, and a URL would be kept
        by what stands in between.
        """
        match await _body(request, _FIND):
            case {"find": str(text), **more} if not more:
                text = text.strip()
            case _:
                raise Refusal(RefusalCode.BAD_REQUEST, _FIND)
        if not 0 < len(text) <= _MAX_TEXT:
            raise Refusal(RefusalCode.BAD_REQUEST, _FIND)
        return web.json_response(await self._picture.explain(text))

    async def end(self, request: web.Request) -> web.Response:
        """End the streams of one identity's hash, or all, with a reason for the log."""
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or not compare_digest(_digest(given.strip()), self._token):
            self._tell_wrong_token()
            raise Refusal(RefusalCode.INVALID_CREDENTIAL, "Send the operators' token as a bearer.")
        identity, reason = await _order(request)
        ended = self._sources.end(identity)
        self._sources.observer.note(
            "warning", "operator.end", identity=identity or "all", reason=reason, ended=ended
        )
        return web.json_response({"ended": ended})

    def _tell_wrong_token(self) -> None:
        """Beside the line of every refusal, a warning a minute: somebody may be guessing."""
        now_s = self._clock()
        if now_s >= self._tell_again_s:
            self._tell_again_s = now_s + _TELL_EVERY_S
            self._sources.observer.note("warning", "operator.refused", why="the token is wrong")


@web.middleware
async def _in_our_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What aiohttp's routing refuses, as it is meant here."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        raise Refusal(RefusalCode.NOT_FOUND, "There is nothing at this path.") from None
    except web.HTTPMethodNotAllowed as answer:
        allow = ", ".join(sorted(answer.allowed_methods))
        detail = f"Here is only: {allow}."
        raise Refusal(RefusalCode.METHOD_NOT_ALLOWED, detail, allow=allow) from None


async def _dress(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _asset(name: str, content_type: str) -> Handler:
    """A handler for one file of the console, read once: they are small, and the disk may go."""
    text = (files("lebureau_relay.edge") / "console" / name).read_text(encoding="utf-8")

    async def asset(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type)

    return asset


async def _body(request: web.Request, usage: str) -> Any:
    """The JSON that came. Raises Refusal, which tells the usage."""
    try:
        async with asyncio.timeout(_ORDER_TIMEOUT_S):
            return json.loads(await request.read())
    except (ValueError, RecursionError, TimeoutError):
        raise Refusal(RefusalCode.BAD_REQUEST, usage) from None


async def _order(request: web.Request) -> tuple[str | None, str]:
    """Whose streams to end (None: all), and why. Raises Refusal for what is no such order."""
    order = await _body(request, _USAGE)
    identity: str | None
    match order:
        case {"identity": str(name), "reason": str(reason)} if _HASH.fullmatch(name):
            identity = name
        case {"all": True, "reason": str(reason)}:
            identity = None
        case _:
            raise Refusal(RefusalCode.BAD_REQUEST, _USAGE)
    if len(order) > 2 or not 0 < len(reason) <= _MAX_REASON or not reason.isprintable():
        raise Refusal(RefusalCode.BAD_REQUEST, _USAGE)
    return identity, reason


def _without_port(host: str) -> str:
    """The name in a Host header, in lower case; an IPv6 address keeps its brackets."""
    return re.sub(r":[0-9]*\Z", "", host).lower()


def _digest(secret: str) -> bytes:
    """Equal lengths for the comparison, which would otherwise tell them."""
    return blake2b(secret.encode("utf-8", "surrogateescape")).digest()
