"""Which pages may read, which may not even open a stream, and what preflights are told."""

import pytest
from aiohttp import web

from lebureau_relay.core.credential import CredentialKind
from lebureau_relay.edge.cors import Cors
from lebureau_relay.errors import Refusal, RefusalCode

PATH = "/api/desktops/stream"
PAGE = "https://app.example"
ALLOWED = [PAGE, "http://localhost:3000"]
CORS_FIELDS = {
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
}


def refusing(code):
    async def handler(request, stream):
        raise Refusal(code, "…")

    return handler


@pytest.mark.parametrize("origin", ALLOWED)
async def test_an_allowed_origin_may_read_the_answer(serve, origin):
    edge = await serve(origins=ALLOWED)
    headers = (await edge.get(PATH, f"Origin: {origin}")).headers
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["vary"] == "Origin"
    exposed = set(headers["access-control-expose-headers"].split(", "))
    limits = {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
    assert exposed == {"Retry-After"} | limits


@pytest.mark.parametrize("code", list(RefusalCode))
@pytest.mark.parametrize("fields", [[], ["Accept: text/event-stream", "Sec-Fetch-Mode: cors"]])
async def test_an_allowed_origin_may_read_refusals_of_both_kinds(serve, code, fields):
    edge = await serve(refusing(code), origins=ALLOWED)
    headers = (await edge.get(PATH, f"Origin: {PAGE}", *fields)).headers
    assert headers["access-control-allow-origin"] == PAGE
    assert headers.keys() >= CORS_FIELDS


@pytest.mark.parametrize(("target", "method"), [("/nowhere", "GET"), (PATH, "POST")])
async def test_and_what_no_handler_answers(serve, target, method):
    edge = await serve(origins=ALLOWED)
    reply = await edge.get(target, f"Origin: {PAGE}", method=method)
    assert reply.status in {404, 405}
    assert reply.headers["access-control-allow-origin"] == PAGE


async def test_and_what_fails(serve):
    async def failing(request, stream):
        raise LookupError

    edge = await serve(failing, origins=ALLOWED)
    reply = await edge.get(PATH, f"Origin: {PAGE}")
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (500, PAGE)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "*",
        "",
        "https://APP.example",
        "https://app.example.evil.com",
        "https://app.example/",
        "https://app.example:8443",
        "http://app.example",
        "app.example",
    ],
)
async def test_another_origin_may_read_nothing(serve, origin):
    edge = await serve(origins=[*ALLOWED, "null", "*"])
    headers = (await edge.get(PATH, f"Origin: {origin}")).headers
    assert not headers.keys() & CORS_FIELDS
    assert headers["vary"] == "Origin"


async def test_a_cache_is_warned_also_where_no_origin_was_sent(serve):
    edge = await serve(origins=ALLOWED)
    assert (await edge.get()).headers["vary"] == "Origin"


async def test_without_origins_nothing_is_said(serve):
    edge = await serve()
    headers = (await edge.get(PATH, f"Origin: {PAGE}")).headers
    assert not headers.keys() & (CORS_FIELDS | {"vary"})


@pytest.fixture
async def checked(serve):
    """A server that answers 200 to whom the check lets pass."""

    async def start(origins=()):
        cors = Cors(origins)

        async def handler(request, stream):
            keyed = "x-api-key" in request.headers
            cors.check(request, CredentialKind.KEY if keyed else CredentialKind.COOKIE)
            return web.Response()

        edge = await serve(handler, origins=origins)

        async def status(*fields):
            reply = await edge.get(PATH, *fields)
            assert reply.status == 200 or reply.problem["code"] == "origin_not_allowed"
            return reply.status

        return status

    return start


KEY = "x-api-key: k"
COOKIE = "Cookie: __Host-session=s"


@pytest.mark.parametrize("credential", [KEY, COOKIE])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], 200),
        (["Sec-Fetch-Site: same-origin"], 200),
        (["Sec-Fetch-Site: none"], 200),
        ([f"Origin: {PAGE}"], 200),
        ([f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site"], 200),
        (["Origin: https://relay.test"], 200),
        (["Origin: http://relay.test"], 200),
        (["Origin: http://other.test", "Sec-Fetch-Site: same-origin"], 200),
        (["Origin: https://evil.example"], 403),
        (["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"], 403),
        (["Origin: https://sibling.example", "Sec-Fetch-Site: same-site"], 403),
        (["Origin: https://relay.test", "Sec-Fetch-Site: same-site"], 403),
        (["Origin: https://relay.test:8443"], 403),
        (["Origin: null"], 403),
        (["Origin: null", "Sec-Fetch-Site: cross-site"], 403),
        (["Origin:"], 403),
        (["Origin: http://"], 403),
        (["Origin: chrome-extension://relay.test"], 403),
    ],
)
async def test_a_foreign_page_opens_no_stream(checked, credential, fields, expected):
    status = await checked(ALLOWED)
    assert await status(credential, *fields) == expected


async def test_no_host_is_nobodys_origin(serve):
    async def handler(request, stream):
        Cors(ALLOWED).check(request, CredentialKind.KEY)
        return web.Response()

    edge = await serve(handler)
    reply = await edge.send(f"GET {PATH} HTTP/1.0\r\nOrigin: http://\r\n\r\n".encode())
    assert (reply.status, reply.problem["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
async def test_without_an_origin_only_cookies_are_lent(checked, site):
    """An image or a link from elsewhere: the browser adds the cookie, nobody adds a key."""
    status = await checked(ALLOWED)
    assert await status(COOKIE, f"Sec-Fetch-Site: {site}") == 403
    assert await status(KEY, f"Sec-Fetch-Site: {site}") == 200


async def test_without_allowed_origins_the_own_one_still_passes(checked):
    status = await checked()
    assert await status(COOKIE, "Origin: https://relay.test") == 200
    assert await status(COOKIE, f"Origin: {PAGE}") == 403


async def test_a_preflight_is_answered_without_a_credential(serve):
    edge = await serve(refusing(RefusalCode.MISSING_CREDENTIAL), origins=ALLOWED)
    fields = [f"Origin: {PAGE}", "Access-Control-Request-Method: GET"]
    fields += ["Access-Control-Request-Headers: x-api-key", "Sec-Fetch-Site: cross-site"]
    reply = await edge.get(PATH, *fields, method="OPTIONS")
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert reply.headers["access-control-allow-credentials"] == "true"
    assert reply.headers["access-control-allow-methods"] == "GET, HEAD"
    allowed = reply.headers["access-control-allow-headers"]
    assert allowed == "x-api-key, authorization, last-event-id, cache-control"
    assert int(reply.headers["access-control-max-age"]) > 0
    assert edge.observer.codes == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_preflight_from_elsewhere_is_refused(serve, origin):
    edge = await serve(origins=ALLOWED)
    reply = await edge.get(PATH, f"Origin: {origin}", method="OPTIONS")
    assert (reply.status, reply.problem["code"]) == (403, "origin_not_allowed")
    assert not reply.headers.keys() & CORS_FIELDS


async def test_options_without_an_origin_tells_the_methods(serve):
    edge = await serve(origins=ALLOWED)
    reply = await edge.get(method="OPTIONS")
    assert (reply.status, reply.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert "access-control-allow-methods" not in reply.headers


async def test_a_preflight_allows_the_header_that_is_set():
    cors = Cors(ALLOWED, api_key_header="X-Token")
    assert cors.allowed_headers == "x-token, authorization, last-event-id, cache-control"
    same = Cors(ALLOWED, api_key_header="Authorization")
    assert same.allowed_headers == "authorization, last-event-id, cache-control"
