"""The public server: routes, and the guard through which every answer leaves.

aiohttp parses and routes; what it would say on its own, to malformed heads, unknown paths or
failures inside, is replaced here, because some of its answers repeat the request and its log lines
may too.
"""

import asyncio
import random
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from aiohttp import hdrs, web

from lebureau_relay.edge import refusals
from lebureau_relay.edge.cors import Cors
from lebureau_relay.edge.credentials import CredentialRules, is_browser, read_cursor
from lebureau_relay.edge.listener import BACKLOG
from lebureau_relay.edge.lobby import MAX_WAITING, Lobby
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.ports import Observer, StreamSpec

StreamHandler = Callable[[web.Request, StreamSpec], Awaitable[web.StreamResponse]]
_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# From the connection to the end of its first request head, and between requests. A head comes in
# one piece; whoever holds one back, holds a descriptor that a client could have.
HEAD_TIMEOUT_S: Final = 15.0
# libuv accepts one connection per turn of the loop and listening descriptor. In a herd a turn takes
# milliseconds, so that alone made ten thousand tabs wait for ten seconds (`make bench
# SCENARIO=storm`); so the socket is listened to by so many descriptors. More would make the turns
# longer that established streams wait for: a connection costs some 0.25 ms until it streams.
ACCEPTS_PER_TURN: Final = 16
# For a body that nobody reads, so that the answer isn't lost in a reset.
_LINGER_S: Final = 2.0
# A request line and each header line: what proxies commonly pass, and a 4 KiB key in the query
# fits.
_MAX_LINE_BYTES: Final = 8190
# Browsers send some 20 header fields, proxies add some 10.
_MAX_FIELDS: Final = 100
# Both of the above together, for heads that come in pieces, would be 800 KiB a connection, and many
# connections. The longest honest head has a request line, a cookie, a key and a cursor near their
# limits, and little else.
_MAX_HEAD_BYTES: Final = 49_152
# aiohttp waits for it twice; streams have ended by themselves before anybody shuts the server down.
_SHUTDOWN_TIMEOUT_S: Final = 1.0
_SERVER: Final = "lebureau-relay"


def build_app(
    streams: Sequence[StreamSpec],
    handler: StreamHandler,
    *,
    cors: Cors,
) -> web.Application:
    """The routes: GET and HEAD of every stream go to `handler`, OPTIONS to `cors`.

    `handler` raises Refusal for whoever gets no stream. More routes may be added before it is given
    to `build_runner`, which is what answers refusals, unknown paths and failures.
    """
    app = web.Application()
    for stream in streams:

        async def serve(request: web.Request, stream: StreamSpec = stream) -> web.StreamResponse:
            return await handler(request, stream)

        async def preflight(request: web.Request) -> web.StreamResponse:
            return cors.preflight(request)

        app.router.add_get(stream.path, serve)
        app.router.add_options(stream.path, preflight)

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

    def around(self, handle: _Handle) -> _Handle:
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

    def malformed(self, error: BaseException | None) -> web.Response:
        """The answer to what is no HTTP request. Only the kind of the error is told to the log."""
        self.tell(RefusalCode.BAD_REQUEST, error=type(error).__name__)
        return _closing(
            RefusalCode.BAD_REQUEST,
            f"This is no valid HTTP request, or its head has a line over {_MAX_LINE_BYTES} bytes "
            f"or more than {_MAX_FIELDS} fields.",
        )

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


class _Connection(web.RequestHandler):
    """aiohttp's connection, with its own words taken away: they quote what the client sent."""

    __slots__ = ("_guard", "_head_bytes", "_lobby")

    def __init__(self, server: web.Server, guard: Guard, lobby: Lobby, **options: Any) -> None:
        super().__init__(server, **options)
        self._guard = guard
        self._lobby = lobby
        self._head_bytes = 0  # of a head that isn't whole yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait in the lobby; called by the loop."""
        super().connection_made(transport)
        self._lobby.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the loop, and by the handoff of what becomes a stream."""
        self._lobby.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        super().data_received(data)
        # What can't be parsed is queued last, as an error whose traceback holds the very frame that
        # made it, and so all that was read, up to 256 KiB: a ring that only the collector finds.
        error = getattr(self._messages[-1][0], "exc", None) if self._messages else None
        if error is not None:
            error.__traceback__ = None
        # Without a waiter what comes is a body, or another request before the answer.
        unfinished = self._waiter is not None and not self._messages
        self._head_bytes = self._head_bytes + len(data) if unfinished else 0
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse_unanswered("HeadTooBig")
        self._check_answers()

    def pause_writing(self) -> None:
        """Called by the loop when 64 KiB are unsent."""
        super().pause_writing()
        self._check_answers()

    def _check_answers(self) -> None:
        """Nobody needs to ask again and again without reading what is answered."""
        if self.writing_paused and self._messages:
            self._refuse_unanswered("AnswersUnread")

    def _refuse_unanswered(self, error: str) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self._guard.tell(RefusalCode.BAD_REQUEST, error=error)
            self.drop()

    def drop(self) -> None:
        """Make room at once."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        """Answer a malformed request (400) or a handler that failed; called by aiohttp."""
        exc = exc or sys.exception()  # aiohttp keeps a handler's TimeoutError to itself
        transport = request.transport
        if isinstance(exc, ConnectionError) and (transport is None or transport.is_closing()):
            raise exc  # the client has gone; aiohttp ends the connection without a word
        if request.writer.output_size > 0:
            self._guard.tell_failure(exc)
            raise ConnectionError("the response has begun, so it can only be cut")
        return self._guard.malformed(exc) if status == 400 else self._guard.failed(exc)

    def log_exception(self, *_args: Any, **facts: Any) -> None:
        """Tell a failure outside of handlers; called by aiohttp."""
        self._guard.tell_failure(facts.get("exc_info"))


class _Server(web.Server):
    """aiohttp's server, making our connections."""

    def __init__(self, inner: web.Server, guard: Guard, lobby: Lobby, **options: Any) -> None:
        super().__init__(
            _answering(lobby, guard.around(inner.request_handler)),
            request_factory=inner.request_factory,
            # A stream takes its socket away from aiohttp, which would cancel the very handler that
            # does so. Handlers therefore carry their own time-outs.
            handler_cancellation=False,
        )
        self._guard = guard
        self._lobby = lobby
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._guard, self._lobby, loop=self._loop, **self._options)


def _answering(lobby: Lobby, handle: _Handle) -> _Handle:
    """`handle`, while its connection is none of the silent ones."""

    async def answering(request: web.BaseRequest) -> web.StreamResponse:
        guest = cast("_Connection", request.protocol)  # _Server makes no others
        lobby.begin(guest)
        try:
            return await handle(request)
        finally:
            lobby.end(guest)

    return answering


class _Runner(web.AppRunner):
    """aiohttp's runner, with the guard around the application."""

    def __init__(self, app: web.Application, guard: Guard, lobby: Lobby, **options: Any) -> None:
        super().__init__(app, handle_signals=False, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)
        self._guard = guard
        self._lobby = lobby
        self._options = options

    async def _make_server(self) -> web.Server:
        inner = await super()._make_server()
        return _Server(inner, self._guard, self._lobby, **self._options)


def build_runner(
    app: web.Application,
    guard: Guard,
    *,
    head_timeout_s: float = HEAD_TIMEOUT_S,
    most_waiting: Callable[[], int] = lambda: MAX_WAITING,
) -> web.AppRunner:
    """Whoever serves `app`; the caller owes `setup`, a `SockSite` per socket, and `cleanup`.

    `most_waiting` says how many connections that are no streams there may be at this moment.
    """
    return _Runner(
        app,
        guard,
        Lobby(most_waiting, guard.shed, time.monotonic),
        keepalive_timeout=head_timeout_s,
        lingering_time=_LINGER_S,
        auto_decompress=False,  # bodies are passed over; unpacking them would be work for nothing
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_LINE_BYTES,
        max_headers=_MAX_FIELDS,
        access_log=None,  # it would write URLs, and keys travel in them
    )


async def serve_on(runner: web.AppRunner, sockets: Sequence[socket.socket]) -> None:
    """Begin to serve on sockets made by `listen`; they then belong to the runner."""
    await runner.setup()
    for sock in sockets:
        for again in (sock, *(sock.dup() for _ in range(ACCEPTS_PER_TURN - 1))):
            await web.SockSite(runner, again, backlog=BACKLOG).start()


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
