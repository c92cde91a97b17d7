"""Cross-origin rules: which pages may read a stream, and which may not even open one.

A browser enforces CORS on what a page may read; only the relay can refuse what a page may cause. It
stands apart so that both are decided in one place, from the same exact list of origins.
"""

from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web

from lebureau_relay.core.credential import CredentialKind
from lebureau_relay.errors import Refusal, RefusalCode

METHODS: Final = (hdrs.METH_GET, hdrs.METH_HEAD)
EXPOSED: Final = "Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset"
# Chromium caps it at two hours; a page asks once per URL, and a stream's URL doesn't change.
_MAX_AGE_S: Final = 7200
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Cors:
    """The origins that may use the relay from a page elsewhere, with credentials.

    `origins` are compared as they stand (`https://app.example`, without a path); `null`, which
    every sandboxed frame in the world sends, and `*`, which can't go with credentials, are never
    allowed.
    """

    def __init__(self, origins: Iterable[str] = (), api_key_header: str = "x-api-key") -> None:
        self._origins = frozenset(origins) - {"null", "*"}
        headers = (api_key_header.lower(), "authorization", "last-event-id", "cache-control")
        self.allowed_headers = ", ".join(dict.fromkeys(headers))

    def dress(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Add to an unsent response what lets an allowed origin read it, refusals included."""
        if not self._origins:
            return
        # Also where no origin was sent: a cache must not hand that answer to a page.
        headers = response.headers
        headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self._origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED

    def check(self, request: web.BaseRequest, kind: CredentialKind) -> None:
        """Let a request pass, or raise Refusal `origin_not_allowed`.

        A GET carries `Origin` only when a page elsewhere asks (Fetch standard, section 3.2), so a
        foreign one is refused whatever its credential: the page couldn't read the answer, and 403
        with a name tells its developer more than a stream that opens upstream and dies unread.
        Tools outside browsers send no `Origin`.

        A page elsewhere can also ask without one, by an image or a link. It reads nothing either,
        but with cookies the browser lends it its user's identity, and it could spend that user's
        streams. So then `Sec-Fetch-Site` decides. A key is lent by nobody: whoever wrote it into a
        URL has it, and a link that holds one may be followed from anywhere.
        """
        foreign = _comes_from_elsewhere(request)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self._origins or not foreign:
            return
        if origin is not None or kind is CredentialKind.COOKIE:
            raise _not_allowed()

    def preflight(self, request: web.BaseRequest) -> web.Response:
        """The answer to OPTIONS, which never carries a credential (Fetch standard, section 4.8).

        Raises Refusal `origin_not_allowed`: without CORS headers the browser would stop as well,
        but nobody would see why.
        """
        headers = {hdrs.ALLOW: ", ".join((*METHODS, hdrs.METH_OPTIONS))}
        if hdrs.ORIGIN in request.headers:
            if request.headers[hdrs.ORIGIN] not in self._origins and _comes_from_elsewhere(request):
                raise _not_allowed()
            headers |= {
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(METHODS),
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: self.allowed_headers,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_S),
            }
        return web.Response(status=204, headers=headers)


def _comes_from_elsewhere(request: web.BaseRequest) -> bool:
    """Whether a page of another origin asks, as far as the browser says."""
    # Pages can't set it, and it stays right behind a proxy that rewrites Host. `none` is the
    # address bar. A sibling under the same site is as foreign as any: origins are exact.
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    # Browsers leave it out on plain http, and old ones always. The scheme that the browser used is
    # unknown behind a proxy, so hosts are compared; cookies that matter are bound to https anyway.
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and not _same_host(origin, request.headers.get(hdrs.HOST, ""))


def _same_host(origin: str, host: str) -> bool:
    """Whether an origin names the host that was asked; browsers leave a default port out."""
    scheme, _, authority = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or not authority:
        return False
    return authority.removesuffix(port) == host.lower().removesuffix(port)


def _not_allowed() -> Refusal:
    return Refusal(
        RefusalCode.ORIGIN_NOT_ALLOWED,
        "Pages of this origin may not use the relay; its operator can list it in "
        "cors.allowed_origins.",
    )
