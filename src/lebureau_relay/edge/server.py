"""The server of both listeners: aiohttp's connection, server and runner, bounded, and without words
of their own.

It stands apart from the routes because it is about bytes that are no request yet, or never will be:
how long a head may be and take, and who makes room. What is then answered, the guard says.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from aiohttp import web

from lebureau_relay.edge.app import Guard, Handle
from lebureau_relay.edge.listener import BACKLOG
from lebureau_relay.edge.lobby import MAX_WAITING, Lobby
from lebureau_relay.errors import RefusalCode

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
_MALFORMED: Final = (
    f"This is no valid HTTP request, or its head has a line over {_MAX_LINE_BYTES} bytes "
    f"or more than {_MAX_FIELDS} fields."
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
        if status == 400:
            return self._guard.malformed(exc, _MALFORMED)
        return self._guard.failed(exc)

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


def _answering(lobby: Lobby, handle: Handle) -> Handle:
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
