"""aiohttp's client as streams need it.

Defaults that bite a stream are set here: no total time-out, no connection limit, no cookie jar,
small read buffers, keepalive on the socket. And its connection tells of what comes at once.
"""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import aiohttp
from aiohttp.abc import AbstractCookieJar
from aiohttp.client_proto import ResponseHandler

# What aiohttp holds of an upstream that is faster than us; its default is eight times that, for
# each feed.
_READ_BUFFER_BYTES = 64 * 1024
# Dead peers on a path that drops packets: probe after a minute of silence, give up after three
# unanswered probes.
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 60, 10, 3


def make_session() -> aiohttp.ClientSession:
    """The client session for everything that goes upstream. The caller closes it."""
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, socket_factory=_client_socket),
        cookie_jar=_no_cookies(),
        auto_decompress=False,
        headers={"User-Agent": "lebureau-relay"},  # aiohttp would tell its version and Python's
        read_bufsize=_READ_BUFFER_BYTES,
        timeout=aiohttp.ClientTimeout(total=None),
    )


def _no_cookies() -> AbstractCookieJar:
    return aiohttp.DummyCookieJar()


def _client_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    return sock


class Reader(Protocol):
    """Who wants to know at once."""

    def look(self) -> None:
        """Something has come, or the connection has ended. Must not raise."""


class Connection(ResponseHandler):
    """aiohttp's client connection, which tells its reader of what comes in the same turn of the
    loop: a future, three coroutines and a way back through the parser for each event cost more
    than all that is done with it (docs/decisions/0009).
    """

    reader: Reader | None = None  # of the stream that comes by it now

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        super().data_received(data)
        if self.reader is not None:
            self.reader.look()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the loop."""
        super().connection_lost(exc)
        if self.reader is not None:
            self.reader.look()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        """Called by whoever has read something: mostly there is nothing to resume. What was held
        off comes in a turn of its own, so that a flood is read in slices.
        """
        if self._reading_paused:
            self._loop.call_soon(self._resume, resume_parser)

    def _resume(self, resume_parser: bool) -> None:  # noqa: FBT001
        if self._reading_paused:
            super().resume_reading(resume_parser)


class _Connector(aiohttp.TCPConnector):
    """aiohttp's connector, making our connections. That it makes them by this private attribute is
    pinned (`aiohttp<4`) and held by tests/test_upstream.py.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make: Callable[..., ResponseHandler] = Connection
        self._factory = partial(make, loop=self._loop)
