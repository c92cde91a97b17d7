"""Asking upstream for a stream, by redirects within its origin only, and without compression.

What an answer means is decided here; what to do about it is the owner's business.
"""

import asyncio
import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
from yarl import URL

from lebureau_relay.core.credential import Credential
from lebureau_relay.core.outbound import request_headers
from lebureau_relay.core.sse import Decoder
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import FeedKey, Subscription
from lebureau_relay.upstream.subscription import HttpSubscription, shed

# A redirect within the API's own origin is followed so often; a longer chain is a loop.
_MAX_REDIRECTS = 5
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
        try:
            _check(response, asked_with_cursor=bool(cursor))
        except SourceFailure:
            response.close()
            raise
        shed(response)
        return HttpSubscription(
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


def _check(response: aiohttp.ClientResponse, *, asked_with_cursor: bool) -> None:
    """Raises SourceFailure for what is no event stream that can be read."""
    status = response.status
    if status == HTTPStatus.OK:
        content_type = _media_type(response)
        if content_type != "text/event-stream":
            # Not in upstream's words, which may hold anything.
            kind = content_type if content_type in _KINDS else "something"
            detail = f"answered {kind}, not text/event-stream"
            raise SourceFailure(SourceProblem.UNUSABLE, detail, status=status)
        if response.headers.get("Content-Encoding", "").strip().lower() not in {"", "identity"}:
            detail = "answered a compressed event stream"  # in a coding that nobody asked for
            raise SourceFailure(SourceProblem.UNUSABLE, detail, status=status)
        return
    problem = _PROBLEMS.get(status)
    if problem is None:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            problem = SourceProblem.UNAVAILABLE
        elif asked_with_cursor and status >= HTTPStatus.BAD_REQUEST:
            problem = SourceProblem.CURSOR_REJECTED
        else:
            problem = SourceProblem.UNUSABLE
    retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
    raise SourceFailure(problem, f"answered {status}", status=status, retry_after_s=retry_after_s)


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
