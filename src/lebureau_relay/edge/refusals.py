"""Refusals as responses: the problem document for programs, and the soft form for EventSource.

The closed set of codes stands with the errors; this is how each leaves by HTTP (contract, section
5). Bodies hold the relay's own sentences and the code, never a part of the request. The one
exception is the cursor in the soft form: to a browser it is the position that it must keep.
"""

import json
import math
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from lebureau_relay.core import sse
from lebureau_relay.errors import Refusal

# What the API's documentation tells clients to wait before they connect again.
DEFAULT_RETRY_AFTER_S: Final = 5.0

SOFT_STATUSES: Final = frozenset({429, 503})
_RETRY_STATUSES: Final = frozenset({429, 502, 503})
# A herd that was refused together must not come back together: up to half as long again, never
# earlier, since coming early is being refused once more.
_JITTER: Final = 0.5
# Of all cursors, those that an event stream can carry as an id (HTML standard, section 9.2.6).
_NO_ID: Final = re.compile(rb"[\r\n\0]")


def problem(refusal: Refusal) -> web.Response:
    """The refusal as an `application/problem+json` document (RFC 9457), or a bare 204."""
    status = HTTPStatus(refusal.code.status)
    headers = {hdrs.CACHE_CONTROL: "no-store", **_headers(refusal)}
    if status is HTTPStatus.NO_CONTENT:
        return web.Response(status=status, headers=headers)
    document = {
        "type": "about:blank",  # so the title has to be the status's own (section 4.2.1)
        "title": status.phrase,
        "status": status.value,
        "detail": refusal.detail,
        "code": refusal.code.value,
    }
    response = web.Response(
        status=status,
        body=json.dumps(document).encode(),
        content_type="application/problem+json",
        headers=headers,
    )
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        # Another replica may have what this one lacks; by a kept connection a client asks this one.
        response.force_close()
    return response


def soft(
    refusal: Refusal, cursor: bytes | None, base_retry_s: float, random: Callable[[], float]
) -> web.Response:
    """The refusal as a stream of one event and an end, after which EventSource comes back.

    For codes whose status is in `SOFT_STATUSES` only: a final refusal has to keep its status, which
    is what stops an EventSource. `cursor` is the one that came; `random` is uniform in [0, 1).
    """
    wait_s = refusal.retry_after_s or base_retry_s
    event = sse.relay_event(
        "relay.refused",
        {
            "code": refusal.code.value,
            "status": refusal.code.status,
            "retryAfter": _whole_seconds(wait_s),
        },
        _as_id(cursor),
        retry_ms=round(1000 * wait_s * (1 + _JITTER * random())),
    )
    response = web.Response(
        body=event,
        content_type="text/event-stream",
        headers={hdrs.CACHE_CONTROL: "no-store, no-transform", "X-Accel-Buffering": "no"},
    )
    response.force_close()
    return response


def _headers(refusal: Refusal) -> dict[str, str]:
    """What goes with the status, so that a program can act without reading the body."""
    status = refusal.code.status
    headers: dict[str, str] = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="lebureau"'
    if refusal.allow is not None:
        headers[hdrs.ALLOW] = refusal.allow
    if status in _RETRY_STATUSES:
        headers[hdrs.RETRY_AFTER] = str(_whole_seconds(refusal.retry_after_s))
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        # Nothing remains, or it wouldn't be refused. The reset names the same moment as
        # Retry-After, as the draft of these fields wants it (draft-ietf-httpapi-ratelimit-headers).
        headers["RateLimit-Limit"] = str(refusal.limit or 0)
        headers["RateLimit-Remaining"] = "0"
        headers["RateLimit-Reset"] = headers[hdrs.RETRY_AFTER]
    return headers


def _whole_seconds(wait_s: float | None) -> int:
    """A wait for a header: rounded up, because who comes back a moment early is refused again."""
    return max(1, math.ceil(DEFAULT_RETRY_AFTER_S if wait_s is None else wait_s))


def _as_id(cursor: bytes | None) -> bytes:
    """The cursor, if a stream can carry it; otherwise the empty id, which is no position."""
    if cursor is None or _NO_ID.search(cursor):
        return b""
    try:
        cursor.decode()
    except UnicodeDecodeError:
        return b""
    return cursor
