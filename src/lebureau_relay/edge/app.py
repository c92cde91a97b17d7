"""The public routes, and the guard through which every refusal leaves.

aiohttp parses and routes; what it would say on its own, to malformed heads, unknown paths or
failures inside, is replaced here, because some of its answers repeat the request and its log lines
may too. The admin listener has its own routes, and a guard as well.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import hdrs, web

from lebureau_relay.edge import client, refusals
from lebureau_relay.edge.cors import Cors
from lebureau_relay.edge.credentials import CredentialRules, is_browser, read_cursor
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import StreamSpec

StreamHandler = Callable[[web.Request, StreamSpec], Awaitable[web.StreamResponse]]
Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_SERVER: Final = "lebureau-relay"


def build_app(
    streams: Sequence[StreamSpec],
    handler: StreamHandler,
    *,
    cors: Cors,
) -> web.Application:
    """The routes: GET and HEAD of every stream go to `handler`, OPTIONS to `cors`; and the browser
    module's.

    `handler` raises Refusal for whoever gets no stream. More routes may be added before it is given
    to `server.build_runner`, whose guard answers refusals, unknown paths and failures.
    """
    app = web.Application()
    for stream in streams:

        async def serve(request: web.Request, stream: StreamSpec = stream) -> web.StreamResponse:
            return await handler(request, stream)

        async def preflight(request: web.Request) -> web.StreamResponse:
            return cors.preflight(request)

        app.router.add_get(stream.path, serve)
        app.router.add_options(stream.path, preflight)
    app.router.add_get(client.PATH, client.serve_module())

    async def dress(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[hdrs.SERVER] = _SERVER  # aiohttp would tell its version and Python's
        cors.dress(request, response)

    app.on_response_prepare.append(dress)
    return app


class Guard:
    """What turns a refusal into an answer, and gives it its name in metrics and log.

    `streams` are those whose GET may come from an EventSource. With `soft` such a request is
    refused in a way that EventSource survives, and comes back after `retry_s`, jittered, or what
    the refusal says. `listener` stands in the log lines of one that isn't the public one.
    """

    def __init__(
        self,
        streams: Sequence[StreamSpec],
        rules: CredentialRules,
        observer: Observer,
        *,
        soft: bool = True,
        retry_s: float = 3.0,
        listener: str = "",
    ) -> None:
        self._names = {stream.path: stream.name for stream in streams}
        self._rules = rules
        self._observer = observer
        self._soft = soft
        self._retry_s = retry_s
        self._where = {"listener": listener} if listener else {}

    def around(self, handle: Handle) -> Handle:
        """`handle`, with refusals answered.

        It is put around the whole application and not into it as a middleware: aiohttp answers an
        `Expect` that it doesn't know before any middleware, repeating its value.
        """

        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await handle(request)
            except Refusal as refusal:
                return self._answer(request, refusal)
            except web.HTTPException as answer:
                if answer.status < 400:
                    raise
                return self._answer(request, _as_refusal(answer))

        return guarded

    def _answer(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        stream = self._names.get(request.path)
        self.tell(refusal.code, stream=stream)
        if stream is not None:
            self._observer.stream(stream).connect(refusal.code.value)
        if stream is not None and self._softens(request, refusal):
            cursor = read_cursor(request, self._rules)
            return refusals.soft(refusal, cursor, self._retry_s, random.random)
        return refusals.problem(refusal)

    def _softens(self, request: web.BaseRequest, refusal: Refusal) -> bool:
        return (
            self._soft
            and refusal.code.status in refusals.SOFT_STATUSES
            and request.method == hdrs.METH_GET
            and is_browser(request, self._rules)
        )

    def malformed(self, error: BaseException | None, detail: str) -> web.Response:
        """The answer to what is no HTTP request, or breaks the server's bounds, which `detail`
        tells. Only the kind of the error is told to the log.
        """
        self.tell(RefusalCode.BAD_REQUEST, error=type(error).__name__)
        return _closing(RefusalCode.BAD_REQUEST, detail)

    def failed(self, error: BaseException | None) -> web.Response:
        """The answer to a failure inside, which is a fault of the relay; the log tells where."""
        self._observer.refused(RefusalCode.INTERNAL_ERROR)
        self.tell_failure(error)
        return _closing(RefusalCode.INTERNAL_ERROR, "The relay failed at this request.")

    def shed(self, first: bool, most: int) -> None:  # noqa: FBT001 - the lobby's callback
        """A connection was dropped for want of room; the first of a minute gets a line."""
        self._observer.refused(RefusalCode.AT_CAPACITY)
        if first:
            mend = "more than these hold a connection without a request; see docs/operations.md"
            self._observer.note("warning", "connections.full", most=most, mend=mend)

    def tell(self, code: RefusalCode, **facts: object) -> None:
        """Count a refusal, and give it its line in the log."""
        self._observer.refused(code)
        self._observer.note("info", "request.refused", code=code.value, **self._where, **facts)

    def tell_failure(self, error: BaseException | None) -> None:
        """One line for a failure: its kind and place, not its text, which may quote a header."""
        self._observer.note(
            "error", "request.failed", error=type(error).__name__, place=_place(error)
        )


def _closing(code: RefusalCode, detail: str) -> web.Response:
    """A problem after which the connection is of no use."""
    response = refusals.problem(Refusal(code, detail))
    response.headers[hdrs.SERVER] = _SERVER  # a malformed request never reaches `dress`
    response.force_close()
    return response


def _as_refusal(answer: web.HTTPException) -> Refusal:
    """What aiohttp's routing says, in the words of the contract."""
    match answer:
        case web.HTTPNotFound():
            return Refusal(RefusalCode.NOT_FOUND, "There is no stream at this path.")
        case web.HTTPMethodNotAllowed():
            allow = ", ".join(sorted(answer.allowed_methods))
            return Refusal(
                RefusalCode.METHOD_NOT_ALLOWED, "A stream is read with GET.", allow=allow
            )
        case _:
            return Refusal(RefusalCode.BAD_REQUEST, "The request asks for what isn't offered here.")


def _place(error: BaseException | None) -> str:
    """Where an error was raised, as file and line."""
    trace = error.__traceback__ if error is not None else None
    if trace is None:
        return "unknown"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
