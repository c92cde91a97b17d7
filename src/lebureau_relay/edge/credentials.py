"""Reading a request: who asks, from where on, for what, and whether a browser's EventSource does.

It stands apart because nothing that a stranger wrote goes further into the relay than this record.
Nothing here logs, and no sentence of a refusal holds any part of the request: under whatever
spelling a credential comes in, known here or not, it ends here.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from aiohttp import hdrs, web

from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.core.event import trim
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.ports import StreamSpec

# Le Bureau's keys are some 40 characters; a signed token with many claims has 2 to 3 KiB.
MAX_KEY_BYTES: Final = 4096
# What the listener takes in one header line; only several Cookie headers can pile up to more.
MAX_COOKIE_BYTES: Final = 8190

# How the API's keys begin, as its documentation shows them.
_ANY_KEY: Final = "lb_k_"
# Shorter secrets guard nothing, and might stand in an honest cursor by chance.
_MIN_SECRET_CHARS: Final = 8
# A place in a numbering that never was: a random epoch has eight digits.
NO_CURSOR: Final = b"~lbr0-0"

CURSOR_PARAMETERS: Final = ("lastEventId", "last_event_id", "Last-Event-ID")

# Visible ASCII: what every server takes in a header field, and no blank that a proxy might trim.
_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_BYTES}}}")
# Control characters, and the surrogates that stand for bytes which are no UTF-8.
_UNSENDABLE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_BLANKS: Final = " \t"


@dataclass(frozen=True, slots=True)
class CredentialRules:
    """Where a credential may stand: the `auth` settings of the contract, section 2."""

    api_key_header: str = "x-api-key"
    query_parameter: str = "apiKey"
    cookie_pattern: re.Pattern[str] = re.compile("^__(Host|Secure)-")


@dataclass(frozen=True, slots=True)
class ClientAsk:
    """What one request asks for.

    `cursor` is as it came, without blanks at its ends; None for a client that has none. `query` is
    the forwarded part of the query, in one canonical form. `browser` says that the request is an
    EventSource's, which only a status 200 keeps alive (contract, section 5).
    """

    credential: Credential
    cursor: bytes | None
    query: str
    browser: bool


def read_ask(
    request: web.BaseRequest, rules: CredentialRules, stream: StreamSpec, client: str = ""
) -> ClientAsk:
    """The request as a record. `client` is its address as upstream is told it.

    Raises Refusal: `conflicting_credentials`, `missing_credential`, `invalid_credential`, or
    `bad_request` for cookies past all measure.
    """
    pairs = _query(request)
    credential = _credential(request, pairs, rules, client)
    cursor = _cursor(request, pairs, rules)
    if cursor is not None and credential.stands_in(cursor.decode("latin-1")):
        cursor = NO_CURSOR
    harmless = [(name, value) for name, value in pairs if not credential.stands_in(value)]
    return ClientAsk(
        credential=credential,
        cursor=cursor,
        query=_forwarded(request, harmless, rules, stream.forward_query),
        browser=is_browser(request, rules),
    )


def read_cursor(request: web.BaseRequest, rules: CredentialRules) -> bytes | None:
    """The cursor alone, for answering a request that is refused; never raises."""
    return _cursor(request, _query(request), rules)


def is_browser(request: web.BaseRequest, rules: CredentialRules) -> bool:
    """Whether an EventSource asks: it can't set a header, and `fetch` clients do for the key."""
    headers = request.headers
    return (
        "text/event-stream" in headers.get(hdrs.ACCEPT, "").lower()
        and "Sec-Fetch-Mode" in headers
        and rules.api_key_header not in headers
        and hdrs.AUTHORIZATION not in headers
    )


def _query(request: web.BaseRequest) -> Sequence[tuple[str, str]]:
    """The query as names and values; bytes that are no UTF-8 survive as surrogates."""
    # The raw string, because a parsed URL has already replaced what isn't UTF-8.
    raw = request.rel_url.raw_query_string
    return parse_qsl(raw, keep_blank_values=True, errors="surrogateescape")


def _bytes(text: str) -> bytes:
    """Text from a request as the bytes that came."""
    return text.encode("utf-8", "surrogateescape")


def _credential(
    request: web.BaseRequest,
    pairs: Sequence[tuple[str, str]],
    rules: CredentialRules,
    client: str,
) -> Credential:
    """The one credential of the request: an explicit key, otherwise its session cookies."""
    keys = set(_keys(request, pairs, rules))
    if len(keys) > 1:
        raise Refusal(
            RefusalCode.CONFLICTING_CREDENTIALS,
            "The request carries two different keys; send the one that is meant.",
        )
    if keys:
        return Credential(CredentialKind.KEY, _well_formed(keys.pop()), client)
    cookie = _session_cookies(request.headers.getall(hdrs.COOKIE, ()), rules.cookie_pattern)
    if not cookie:
        raise Refusal(
            RefusalCode.MISSING_CREDENTIAL,
            f"Send an API key in the header {rules.api_key_header}, as a bearer token or in the "
            f"query parameter {rules.query_parameter}, or log in so that a session cookie comes.",
        )
    if len(_bytes(cookie)) > MAX_COOKIE_BYTES:
        raise Refusal(
            RefusalCode.BAD_REQUEST,
            f"The session cookies are longer than {MAX_COOKIE_BYTES} bytes; log in anew.",
        )
    return Credential(CredentialKind.COOKIE, cookie, client)


def _keys(
    request: web.BaseRequest, pairs: Sequence[tuple[str, str]], rules: CredentialRules
) -> Iterator[str]:
    """Every key in the request.

    An empty one is no key: it is what a variable that was never set looks like, so it is answered
    as missing and takes no precedence over cookies. An Authorization of another scheme is no key
    either: behind a proxy with a password of its own, browsers send `Basic` with every request.
    """
    found = [value for name, value in pairs if name == rules.query_parameter]
    # The header may be set to be Authorization itself, where a bare scheme must not become a key.
    if rules.api_key_header.lower() != "authorization":
        found += request.headers.getall(rules.api_key_header, ())
    for field in request.headers.getall(hdrs.AUTHORIZATION, ()):
        scheme, _, token = field.strip(_BLANKS).partition(" ")
        if scheme.lower() == "bearer":
            found.append(token)
    return (key for value in found if (key := value.strip(_BLANKS)))


def _well_formed(key: str) -> str:
    """The key, if it can be one; else 401, as for any wrong key, without asking upstream."""
    if _KEY.fullmatch(key):
        return key
    raise Refusal(
        RefusalCode.INVALID_CREDENTIAL,
        f"The key isn't one: keys are visible ASCII without blanks, {MAX_KEY_BYTES} bytes at most.",
    )


def _session_cookies(headers: Iterable[str], pattern: re.Pattern[str]) -> str:
    """The cookies that are credentials, in order of name, as one `Cookie` value; empty for none.

    Values stay as they came: `http.cookies` unquotes some and drops what follows a character that
    it dislikes, and a session that is rewritten is a session that is logged out. Cookies of one
    name keep their order, since the first is the one with the longest path (RFC 6265, section 5.4).
    """
    found = []
    for pair in ";".join(headers).split(";"):
        name, equals, value = pair.strip(_BLANKS).partition("=")
        # No browser keeps a cookie with control characters (RFC 6265bis, section 5.6), and a cookie
        # without a name must not pass for one that has it.
        if equals and pattern.search(name) and not _UNSENDABLE.search(pair):
            found.append((name, value))
    found.sort(key=lambda cookie: cookie[0])
    return "; ".join(f"{name}={value}" for name, value in found)


def _cursor(
    request: web.BaseRequest, pairs: Sequence[tuple[str, str]], rules: CredentialRules
) -> bytes | None:
    """The header's cursor, which moves with the stream; else the query's, which starts it.

    One that holds a secret would stand in the feed's log and go to others who read it. In its place
    comes one that no feed ever gave out, so the client is told by `relay.gap`, as always.
    """
    # An empty one says that there is none, as the HTML standard has it (section 9.2.2).
    named = [request.headers.get("Last-Event-ID", "")]
    named += [value for spelling in CURSOR_PARAMETERS for name, value in pairs if name == spelling]
    cursor = next((cursor for text in named if (cursor := trim(_bytes(text)))), None)
    if cursor is not None and any(
        _bytes(each) in cursor for each in _secrets(request, pairs, rules)
    ):
        return NO_CURSOR
    return cursor


def _forwarded(
    request: web.BaseRequest,
    pairs: Sequence[tuple[str, str]],
    rules: CredentialRules,
    names: Sequence[str],
) -> str:
    """The forwarded part of the query: by name, equal names in their order, encoded in one way."""
    # A key never goes upstream in a URL, not even where someone lists its parameter or a client
    # puts it into another one.
    secret = rules.query_parameter.lower()
    kept = [pair for pair in pairs if pair[0] in names and pair[0].lower() != secret]
    if kept:
        secrets = _secrets(request, pairs, rules)
        kept = [pair for pair in kept if not any(each in pair[1] for each in secrets)]
    kept.sort(key=lambda pair: pair[0])
    return urlencode(kept, errors="surrogateescape")


def _secrets(
    request: web.BaseRequest, pairs: Sequence[tuple[str, str]], rules: CredentialRules
) -> list[str]:
    """What must not stand where text goes on as it came: this request's secrets, and any key."""
    cookies = _session_cookies(request.headers.getall(hdrs.COOKIE, ()), rules.cookie_pattern)
    own = (*_keys(request, pairs, rules), *cookies.split("; "))
    return [_ANY_KEY, *(each for each in own if len(each) >= _MIN_SECRET_CHARS)]
