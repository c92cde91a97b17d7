"""What is fuzzed: everything that reads bytes of others. Each target is one call with one
invariant; none needs a socket, so that thousands of inputs a second can be tried.
"""

import asyncio
import json
import re
from collections.abc import Hashable
from ipaddress import ip_network
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from multidict import CIMultiDict
from tests.fuzz.mutate import Target

from lebureau_relay.broker.redis import RedisRules
from lebureau_relay.broker.redis.broker import RedisBroker
from lebureau_relay.core import sse
from lebureau_relay.core.event import (
    MAX_ID_BYTES,
    Entry,
    Event,
    parse_place,
    split_derived,
    trim,
    upstream_cursor,
)
from lebureau_relay.core.history import History, HistoryLimits, Standing
from lebureau_relay.core.outbound import request_headers
from lebureau_relay.core.sse import Decoder
from lebureau_relay.edge import admin
from lebureau_relay.edge.admission import ClientAddresses
from lebureau_relay.edge.cors import Cors
from lebureau_relay.edge.credentials import CredentialRules, read_ask, read_cursor
from lebureau_relay.edge.server import _MAX_FIELDS, _MAX_LINE_BYTES
from lebureau_relay.errors import Refusal
from lebureau_relay.relay.ports import StreamSpec

# A word that no sentence of the relay's holds by chance.
CANARY = "lb_k_cAnArY7"
SPEC = StreamSpec(
    "desktops", "/api/desktops/stream", forward_query=("view", "apiKey", "lastEventId")
)
LOOP = asyncio.new_event_loop()
LOOP.close()  # the parser wants one to hold, and nothing here runs

# -- the decoder

_LIMIT_BYTES = 300
_FRAME = re.compile(
    rb"id: [^\r\n\0]*\n(?:event: [^\r\n]+\n)?(?:data: [^\r\n]*\n)+\n"
)  # as clients may see it: the contract, section 3


def decoder(data: bytes) -> Hashable:
    """Cut anywhere it says the same and holds no more than its limit; its frames have one form."""
    whole = _decode([data])
    start = data[:1500]
    assert _decode([start]) == _decode([start[at : at + 1] for at in range(len(start))]), "by byte"
    middle = len(data) // 2
    assert whole == _decode([data[:middle], b"", data[middle:]]), "in halves"
    events, last_id, retry_ms = whole
    frames = b""
    for event in events:
        assert b"\r" not in event.id + event.type
        assert b"\n" not in event.id + event.type
        assert len(event.id) <= MAX_ID_BYTES + 32
        if event.data is not None:
            frame = sse.block(event.id, event.type, event.data)
            assert _FRAME.fullmatch(frame), frame
            assert sse.unchunk(sse.chunk(frame)) == frame
            frames += frame
    again = Decoder(len(frames) + 1)
    kept = [event for event in events if event.data is not None]
    assert [(e.type, e.data) for e in again.feed(frames)] == [(e.type, e.data) for e in kept]
    return (
        len(events),
        len(kept),
        bool(last_id),
        retry_ms is None,
        {e.type for e in events} != {b""},
    )


def _decode(pieces: list[bytes]) -> tuple[list[Event], bytes, int | None]:
    one = Decoder(_LIMIT_BYTES)
    events = []
    for count, piece in enumerate(pieces):
        events += one.feed(piece)
        held = 0 if count % 64 else sum(map(len, one._parts))
        assert held <= _LIMIT_BYTES + MAX_ID_BYTES + 64, f"it holds {held} bytes"
    return events, one.last_id, one.retry_ms


# -- cursors


def _history() -> History:
    history = History(HistoryLimits(max_events=4), "e1", b"floor")
    for offset, event_id in enumerate((b"a", b"b", b"b", b"b~lbr1", b"~lbre1-5"), 1):
        history.append(Entry(offset, event_id, b"x", 0.0))
    return history


_HISTORY = _history()
_SENDABLE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def cursor(data: bytes) -> Hashable:
    """No cursor raises, and what goes upstream fits one header line and never names our places."""
    sent = upstream_cursor(data)
    assert _SENDABLE.fullmatch(sent)
    assert len(sent) <= MAX_ID_BYTES
    assert sent == trim(sent) or split_derived(trim(data))[1], "an id may end in a blank"
    sent.decode()
    assert parse_place(sent) is None
    base, passed_over = split_derived(data)
    assert data.startswith(base)
    assert passed_over >= 0
    place = parse_place(data)
    assert place is None or place.id == data
    standing, offset = _HISTORY.find(data)
    held = standing is Standing.HELD
    assert not held or _HISTORY.first - 1 <= offset <= _HISTORY.top
    return standing, offset, bool(sent), passed_over > 0, place is None


# -- requests

_RULES = CredentialRules()
_CORS = Cors(["https://app.example"])


def _request(head: bytes, pieces: list[bytes]) -> web.BaseRequest | None:
    """The first request in it, through the parser of production; None for what is none."""
    protocol = Mock(transport=None, peername=("127.0.0.1", 1), ssl_context=None)
    parser = HttpRequestParser(
        protocol, LOOP, 65536, max_line_size=_MAX_LINE_BYTES, max_field_size=_MAX_LINE_BYTES,
        max_headers=_MAX_FIELDS, auto_decompress=False,
    )  # fmt: skip
    try:
        for piece in pieces:
            messages, _, _ = parser.feed_data(piece)
            if messages:
                message, payload = messages[0]
                return web.BaseRequest(message, payload, protocol, Mock(), Mock(), LOOP)
    except HttpProcessingError:
        return None
    return None


def request(data: bytes) -> Hashable:
    """A head is read or refused in words of our own; what is read fits a header and is no echo."""
    one = _request(data, [data])
    other = _request(data, [data[at : at + 1] for at in range(len(data))])
    said, again = _read(one), _read(other)
    if one is not None and other is not None:
        assert said == again, "byte by byte"
    return said[0] if said else None


def _without_canary(text: str) -> str:
    assert CANARY not in text
    return text


def _read(one: web.BaseRequest | None) -> tuple[Hashable, ...] | None:
    if one is None:
        return None
    try:
        read_cursor(one, _RULES)
        ask = read_ask(one, _RULES, SPEC)
    except Refusal as refusal:
        return (refusal.code, _without_canary(str(refusal) + repr(refusal)))
    (value,) = request_headers(ask.credential, "x-api-key").values()
    sent = value.encode("utf-8")  # raises where it could not be sent
    assert _SENDABLE.fullmatch(sent)
    assert sent
    assert CANARY not in repr(ask.credential)
    assert re.fullmatch(r"[A-Za-z0-9%_.~=&+*-]*", ask.query)
    assert "apikey" not in {name.lower() for name, _ in parse_qsl(ask.query)}
    assert ask.cursor is None or (ask.cursor and ask.cursor.strip(b" \t") == ask.cursor)
    upstream_cursor(ask.cursor or b"")
    try:
        _CORS.check(one, ask.credential.kind)
        passed = True
    except Refusal:
        passed = False
    kinds = (ask.credential.kind, ask.browser, passed, ask.cursor is None, bool(ask.query))
    return (kinds, ask.credential.digest, ask.cursor, ask.query)


def query(data: bytes) -> Hashable:
    """As a request; a query can hold any byte that a request line can."""
    target = re.sub(rb"[\0-\x20\x7f]", b"", data)
    return request(b"GET /api/desktops/stream?" + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")


# -- who it comes from

_TRUSTED = ["10.0.0.0/8", "fd00::/8"]


def forwarded(data: bytes) -> Hashable:
    """Any X-Forwarded-For names one address or network, which no stranger chose over a proxy's."""
    told: list[str] = []
    addresses = ClientAddresses(_TRUSTED, Mock(note=lambda *_, **facts: told.append(str(facts))))
    values = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\n")]
    headers = CIMultiDict([("X-Forwarded-For", value) for value in values])
    trusted = str(addresses.of(Mock(headers=headers, remote="10.0.0.1")))
    network = ip_network(trusted)
    assert network.num_addresses in (1, 2**64)
    stranger = str(addresses.of(Mock(headers=headers, remote="203.0.113.9")))
    assert stranger == "203.0.113.9", "who isn't trusted is not believed"
    more = CIMultiDict([("X-Forwarded-For", "198.51.100.7"), *headers.items()])
    left = str(addresses.of(Mock(headers=more, remote="10.0.0.1")))
    assert left in (trusted, "198.51.100.7"), "what stands left of a stranger changes nothing"
    if left != trusted:
        inside = [ip_network(one) for one in _TRUSTED]
        assert any(network.version == one.version and network.subnet_of(one) for one in inside)
    return trusted == "10.0.0.1", network.version, left == trusted, len(told)


# -- operators, and the server between replicas


def order(data: bytes) -> Hashable:
    """An operator's order is one of two forms or refused; nothing else is done or raised."""

    async def read() -> bytes:
        return data

    running = admin._order(SimpleNamespace(read=read))
    try:
        identity, reason = _run(running)
    except Refusal as refusal:
        return refusal.code
    assert identity is None or re.fullmatch(r"[0-9a-f]{32}", identity)
    assert 0 < len(reason) <= 200
    assert reason.isprintable()
    json.dumps(reason).encode()
    return identity is None


def _run(coroutine):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def word(data: bytes) -> Hashable:
    """Whatever is said on a channel moves a log forward, frees a lease, or is passed over."""
    said: list[tuple[object, ...]] = []
    member = Mock(
        log_moved=lambda *what: said.append(what), lease_free=lambda: said.append(("free",))
    )
    _BROKER._members["feed"] = member
    _BROKER._channels["said"] = "feed"
    _BROKER._heard("said", data.decode("utf-8", "replace"))
    _BROKER._heard(data.decode("utf-8", "replace"), "free")
    for what in said[:1]:
        assert what == ("free",) or (what[0] and isinstance(what[1], int) and what[1] >= 0)
    return len(said), bool(said) and len(said[0])


_BROKER = RedisBroker(
    Mock(clustered=False, tags=lambda: ["a"]),
    RedisRules("lbr", 6.0, HistoryLimits()),
    lambda: 0.0,
    lambda _up: None,
    lambda *_: None,
)

# -- seeds

_HEADS = [
    b"GET /api/desktops/stream HTTP/1.1\r\nHost: a\r\nx-api-key: lb_k_cAnArY7\r\n\r\n",
    b"GET /api/desktops/stream?apiKey=lb_k_cAnArY7&view=a HTTP/1.1\r\nHost: a\r\n\r\n",
    (
        b"GET /api/desktops/stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer lb_k_cAnArY7\r\n"
        b"Last-Event-ID: 17~lbr2\r\nSec-Fetch-Mode: cors\r\nAccept: text/event-stream\r\n\r\n"
    ),
    (
        b"GET /api/desktops/stream?lastEventId=%ff%00 HTTP/1.1\r\nHost: a\r\nOrigin: null\r\n"
        b"Cookie: a=1; __Host-session=lb_k_cAnArY7; __Secure-b=\xff\r\n"
        b"Sec-Fetch-Site: none\r\n\r\n"
    ),
    b"GET /x HTTP/1.0\r\nx-api-key: a\r\nx-api-key: lb_k_cAnArY7\r\nContent-Length: 3\r\n\r\nabc",
]
_HEAD_WORDS = [
    *(
        b"x-api-key: lb_k_cAnArY7\r\n",
        b"Cookie: ",
        b"__Host-",
        b"; ",
        b"Last-Event-ID: ",
        b"Host: ",
    ),
    *(b"Authorization: bearer ", b"apiKey=", b"lastEventId=", b"Last-Event-ID=", b"%00", b"%0d%0a"),
    *(b"%", b"&", b"=", b"+", b"?", b"#", b"//", b"http://[", b"Transfer-Encoding: chunked\r\n"),
    *(b"Origin: https://app.example\r\n", b"Sec-Fetch-Site: cross-site\r\n", b"HTTP/1.1\r\n"),
    *(b"lb_k_cAnArY7", b"%ed%a0%80", b"%c3%28", b"\r\n ", b"k" * 4097, b"view=a&", b"HEAD ", b"* "),
]
_STREAM_WORDS = [
    *(b"data: ", b"data:\n\n", b"id: ", b"id\n", b"event: e\n", b"retry: 9\n", b": c\n", b"\n\n"),
    *(b"\r\r", b"\r\n\r\n", b"data: x\n\n", b"id: 7\n", b"\xef\xbb\xbf", b"message\n", b"x" * 299),
    *(b"id: " + b"i" * 6145 + b"\n", b"~lbr1", b"retry: 999999999999999\n", b"id: \0\n"),
]
_CURSORS = [b"a", b"b~lbr1", b"~lbre1-5", b"17", b"floor", "é".encode(), b"x~lbr1~lbr2", b" a "]
_CURSOR_WORDS = [b"~lbr", b"~lbre1-", b"-", b"0", b"9" * 18, b"9" * 19, b" ", b"b", b"i" * 6144]

TARGETS = [
    Target(one.__name__, str(one.__doc__).strip(), one, seeds, words)
    for one, seeds, words in (
        (
            decoder,
            [
                b"id: 1\nevent: desktop.created\ndata: {}\n\n: beat\n\ndata: a\r\ndata: b\r\n\r\n",
                b"\xef\xbb\xbfretry: 3000\r\rdata\r\rid\ndata: y\n\n",
                b"id: 2\ndata: " + b"z" * 400 + b"\n\ndata: after\n\n",
            ],
            _STREAM_WORDS,
        ),
        (cursor, _CURSORS, _CURSOR_WORDS),
        (request, _HEADS, _HEAD_WORDS),
        (
            query,
            [b"apiKey=lb_k_cAnArY7&view=a&view=%41", b"%61piKey=x&lastEventId=9", b"a;b=c&&=&=="],
            _HEAD_WORDS,
        ),
        (
            forwarded,
            [b"203.0.113.1", b"198.51.100.1, 10.0.0.2", b"[2001:db8::1]:80,fd00::1", b"1.2.3.4:5"],
            [b",", b"10.0.0.1", b"::ffff:10.0.0.1", b"[", b"]", b":", b"fe80::1%eth0", b"unknown"],
        ),
        (
            order,
            [
                b'{"all": true, "reason": "x"}',
                b'{"identity": "%b", "reason": "y"}' % (b"0a" * 16),
            ],
            [
                b"true",
                b"null",
                b"[" * 2000,
                b'{"',
                b'":',
                b"1e999",
                b"NaN",
                b'"\\ud800"',
                b'"reason"',
            ],
        ),
        (
            word,
            [b"free", b"e1.x:17", b"e1:0", b"a:b:3"],
            [b":", b"free", b"9" * 5000, "٣²".encode(), b"-1", b"+1", b"1_0", b" 1"],
        ),
    )
]
