"""Upstream by aiohttp's client: one subscription at a time, from connect to its end, as events.

Defaults of the client that bite a stream are all set here: no total time-out, no connection limit,
no cookie jar, no redirects followed blindly, no compression, small read buffers, keepalive on the
socket. What an answer means is decided here too; what to do about it is the owner's business.
"""

import asyncio
import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
from aiohttp.abc import AbstractCookieJar
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Event
from lebureau_relay.core.outbound import request_headers
from lebureau_relay.core.sse import Decoder
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.relay.observer import Observer, StreamMeter
from lebureau_relay.relay.ports import FeedKey, Subscription

# A redirect within the API's own origin is followed so often; a longer chain is a loop.
_MAX_REDIRECTS = 5
# Until upstream has been seen to send comments, silence may be normal: wait this much longer before
# giving up.
_PATIENCE = 10
# What aiohttp holds of an upstream that is faster than us; its default is eight times that, for
# each feed.
_READ_BUFFER_BYTES = 64 * 1024
# Dead peers on a path that drops packets: probe after a minute of silence, give up after three
# unanswered probes.
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 60, 10, 3
_HEADERS = {
    "Accept": "text/event-stream",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class UpstreamRules:
    """Where upstream is and how long to wait for it. Durations in seconds."""

    base_url: str
    api_key_header: str = "x-api-key"
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    max_event_bytes: int = 1_048_576


def make_session() -> aiohttp.ClientSession:
    """The client session for everything that goes upstream. The caller closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, socket_factory=_client_socket),
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


class Upstream:
    """`relay.ports.Source` over HTTP."""

    def __init__(
        self, session: aiohttp.ClientSession, rules: UpstreamRules, observer: Observer
    ) -> None:
        self._session = session
        self._rules = rules
        self._observer = observer
        self._origin = URL(rules.base_url)
        # whether this upstream has ever been seen to keep a stream alive by comments
        self.sends_comments = False

    async def open(self, key: FeedKey, credential: Credential, cursor: bytes) -> Subscription:
        """Ask for what follows `cursor`. Raises SourceFailure with what the answer means."""
        headers = _HEADERS | request_headers(credential, self._rules.api_key_header)
        if cursor:
            headers["Last-Event-ID"] = cursor.decode()
        try:
            async with asyncio.timeout(self._rules.connect_timeout_s):
                response = await self._get(self._url(key), headers, credential)
        except TimeoutError:
            detail = f"no answer within {self._rules.connect_timeout_s:g} s"
            raise SourceFailure(SourceProblem.UNAVAILABLE, detail) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The text of a client error may hold the URL or a header; its type is enough.
            raise SourceFailure(SourceProblem.UNAVAILABLE, type(error).__name__) from None
        failure = _failure(response, asked_with_cursor=bool(cursor)) or _compressed(response)
        if failure is not None:
            response.close()
            raise failure
        _shed(response)
        return _HttpSubscription(
            self,
            response,
            Decoder(self._rules.max_event_bytes, cursor),
            self._rules.idle_timeout_s,
            self._observer.stream(key.stream.name),
        )

    def _url(self, key: FeedKey) -> URL:
        url = self._origin.with_path(self._origin.path.rstrip("/") + key.stream.path)
        return url.with_query(key.query) if key.query else url

    async def _get(
        self, url: URL, headers: dict[str, str], credential: Credential
    ) -> aiohttp.ClientResponse:
        """GET, following redirects that stay in the origin: the credential goes nowhere else, and
        into no URL.
        """
        response = await self._session.get(url, headers=headers, allow_redirects=False)
        for _ in range(_MAX_REDIRECTS):
            target = self._target(url, response)
            if target is None or credential.stands_in(str(target)):
                break
            url = target
            response.close()
            response = await self._session.get(url, headers=headers, allow_redirects=False)
        return response

    def _target(self, url: URL, response: aiohttp.ClientResponse) -> URL | None:
        """Where a redirect leads within the origin; None where it leads elsewhere, or is none."""
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return None
        try:
            target = url.join(URL(location))
            here = target.origin() == self._origin.origin()
        except ValueError:  # no URL, or one without an origin
            return None
        # A user in it would become a second credential.
        return target.with_user(None) if here else None


_REDIRECTS = {301, 302, 303, 307, 308}


class _HttpSubscription:
    """`relay.ports.Subscription`: one response that is being read."""

    __slots__ = ("_decoder", "_ended_by", "_idle_timeout_s", "_meter", "_response", "_upstream")

    def __init__(
        self,
        upstream: Upstream,
        response: aiohttp.ClientResponse,
        decoder: Decoder,
        idle_timeout_s: float,
        meter: StreamMeter,
    ) -> None:
        self._upstream = upstream
        self._meter = meter
        self._response = response
        self._decoder = decoder
        self._idle_timeout_s = idle_timeout_s
        self._ended_by: SourceProblem | None = None
        # aiohttp hangs up on a malformed chunk without a word to who reads; the connection tells.
        protocol = response.connection.protocol if response.connection is not None else None
        if protocol is not None and (closed := protocol.closed) is not None:
            closed.add_done_callback(self._disconnected)

    def _disconnected(self, closed: asyncio.Future[None]) -> None:
        """The connection is gone. Whoever reads is told, if nobody has done it."""
        if not closed.cancelled():
            closed.exception()  # looked at, or asyncio complains
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError())

    @property
    def retry_s(self) -> float | None:
        retry_ms = self._decoder.retry_ms
        return None if retry_ms is None else retry_ms / 1000

    @property
    def idle_timeout_s(self) -> float:
        return self._idle_timeout_s * (1 if self._upstream.sends_comments else _PATIENCE)

    async def read(self) -> Sequence[Event]:
        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise SourceFailure(self._ended_by or SourceProblem.CUT, type(error).__name__) from None
        if not chunk:
            raise SourceFailure(self._ended_by or SourceProblem.CUT, "the API closed the stream")
        events = self._decoder.feed(chunk)
        self._meter.received(len(events), len(chunk))
        if self._decoder.comments:
            self._upstream.sends_comments = True
        return events

    def close(self, problem: SourceProblem = SourceProblem.REPLACED) -> None:
        if self._ended_by is None:
            self._ended_by = problem
        self._response.close()


def _shed(response: aiohttp.ClientResponse) -> None:
    """Let go of the headers of both sides, which would live as long as the feed: 2 KB, and more
    with a talkative API.

    Nothing reads them once a response has begun. That they are let go by three private attributes
    is pinned (`aiohttp<4`) and held by tests/test_upstream.py for each release in the lock.
    """
    response._headers = _NO_HEADERS  # noqa: SLF001
    response._raw_headers = ()  # noqa: SLF001
    response._request_info = _NO_REQUEST  # noqa: SLF001


_NO_HEADERS = CIMultiDictProxy(CIMultiDict[str]())
_NO_REQUEST = aiohttp.RequestInfo(URL(), "", _NO_HEADERS)


def _failure(response: aiohttp.ClientResponse, *, asked_with_cursor: bool) -> SourceFailure | None:
    """What an answer means; None for an event stream."""
    status = response.status
    if status == HTTPStatus.OK:
        content_type = _media_type(response)
        if content_type == "text/event-stream":
            return None
        # Not in upstream's words, which may hold anything.
        kind = content_type if content_type in _KINDS else "something"
        detail = f"answered {kind}, not text/event-stream"
        return SourceFailure(SourceProblem.UNUSABLE, detail, status=status)
    problem = _PROBLEMS.get(status)
    if problem is None:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            problem = SourceProblem.UNAVAILABLE
        elif asked_with_cursor and status >= HTTPStatus.BAD_REQUEST:
            problem = SourceProblem.CURSOR_REJECTED
        else:
            problem = SourceProblem.UNUSABLE
    retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
    return SourceFailure(problem, f"answered {status}", status=status, retry_after_s=retry_after_s)


def _media_type(response: aiohttp.ClientResponse) -> str:
    """The answer's type without parameters. aiohttp's own `content_type` keeps a dictionary of some
    1.5 KB with the response, which here lives as long as the feed.
    """
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


_KINDS = {"text/html", "text/plain", "application/json", "application/octet-stream"}
_PROBLEMS: dict[int, SourceProblem] = {
    HTTPStatus.NO_CONTENT: SourceProblem.ENDED,
    HTTPStatus.UNAUTHORIZED: SourceProblem.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN: SourceProblem.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS: SourceProblem.THROTTLED,
    HTTPStatus.REQUEST_TIMEOUT: SourceProblem.UNAVAILABLE,
}


def _compressed(response: aiohttp.ClientResponse) -> SourceFailure | None:
    """Why an event stream can't be read: it is in a coding that nobody asked for."""
    if response.headers.get("Content-Encoding", "").strip().lower() in {"", "identity"}:
        return None
    return SourceFailure(SourceProblem.UNUSABLE, "answered a compressed event stream", status=200)


def _retry_after_s(value: str | None) -> float | None:
    """`Retry-After` in seconds, from either of its forms (RFC 9110, section 10.2.3); None for
    nonsense.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), math.inf)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
