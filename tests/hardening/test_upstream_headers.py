"""What goes upstream is written by the relay: an exact list of fields, and no byte between them.

The API here is a raw socket that keeps every head it was sent, so nothing that a library would tidy
away can hide.
"""

import pytest
from tests.e2e.clients import DESKTOPS, SseClient, ask, eventually, head

KEY = "lb_k_0123456789abcdef"
COOKIE = "__Host-session=0123456789abcdef"
# Sixty fields that browsers, proxies and attackers send; each value tells whether it got through.
HOP_BY_HOP = [
    ("Connection", "x-api-key, X-Odd-Hop, keep-alive"),
    ("Keep-Alive", "timeout=odd"),
    ("Proxy-Connection", "odd"),
    ("Proxy-Authorization", "Basic odd"),
    ("Proxy-Authenticate", "odd"),
    ("TE", "trailers, odd"),
    ("Trailer", "X-Odd-Trailer"),
    ("Upgrade", "h2c, websocket, odd"),
    ("HTTP2-Settings", "odd"),
    ("X-Odd-Hop", "odd"),
]
FORWARDED = [
    ("Forwarded", "for=odd;host=odd;proto=https"),
    ("Via", "1.1 odd"),
    ("X-Forwarded-For", "198.51.100.66, odd"),
    ("X-Forwarded-Host", "odd.example"),
    ("X-Forwarded-Proto", "odd"),
    ("X-Forwarded-Port", "odd"),
    ("X-Forwarded-Prefix", "/odd"),
    ("X-Forwarded-Server", "odd"),
    ("X-Real-IP", "198.51.100.66"),
    ("X-Client-IP", "198.51.100.66"),
    ("X-Cluster-Client-IP", "198.51.100.66"),
    ("True-Client-IP", "198.51.100.66"),
    ("CF-Connecting-IP", "198.51.100.66"),
    ("X-Original-URL", "/odd"),
    ("X-Rewrite-URL", "/odd"),
    ("X-Original-Host", "odd.example"),
    ("X-Host", "odd.example"),
    ("X-HTTP-Method-Override", "DELETE"),
]
END_TO_END = [
    ("Accept", "text/event-stream, odd/odd"),
    ("Accept-Encoding", "gzip, br, odd"),
    ("Accept-Language", "odd"),
    ("Cache-Control", "max-age=0, odd"),
    ("Pragma", "odd"),
    ("User-Agent", "odd/1.0"),
    ("Referer", f"https://odd.example/?apiKey={KEY}"),
    ("Authorization", "Digest odd"),
    ("Cookie", f"{COOKIE}; theme=odd; XSRF-TOKEN=odd"),
    ("Range", "bytes=0-odd"),
    ("If-None-Match", '"odd"'),
    ("If-Modified-Since", "odd"),
    ("Content-Type", "application/odd"),
    ("Content-Encoding", "odd"),
    ("DNT", "1-odd"),
    ("Date", "odd"),
    ("From", "odd@odd.example"),
    ("Max-Forwards", "0-odd"),
    ("Origin-Agent-Cluster", "odd"),
    ("Priority", "u=odd"),
    ("Save-Data", "odd"),
    ("Sec-CH-UA", "odd"),
    ("Sec-Fetch-Dest", "odd"),
    ("Sec-Fetch-Mode", "odd"),
    ("Sec-Fetch-Site", "none"),
    ("traceparent", "00-odd"),
    ("tracestate", "odd"),
    ("baggage", "odd"),
    ("X-Request-ID", "odd"),
    ("X-CSRF-Token", "odd"),
    ("X-Api-Key-Extra", "odd"),
    ("Last-Event-ID-Extra", "odd"),
]
ODD = [*HOP_BY_HOP, *FORWARDED, *END_TO_END]
assert len(ODD) == 60


def fields(raw_head: bytes) -> list[tuple[str, str]]:
    """A head's fields in the order in which they came; fails on whatever is not one per line."""
    lines = raw_head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    assert not any(bad in line for line in lines for bad in (b"\r", b"\n", b"\0"))
    return [tuple(line.decode().split(": ", 1)) for line in lines]


def common(url: str, accept: str = "text/event-stream") -> dict[str, str]:
    return {
        "Host": url.removeprefix("http://"),
        "Accept": accept,
        "Accept-Encoding": "identity",
        "User-Agent": "lebureau-relay",
    }


def assert_question(raw: bytes, url: str) -> None:
    """Nothing is asked but who a key is; a cache on the way may be told to keep out of it."""
    asked = dict(fields(raw))
    assert asked.pop("Cache-Control", "no-cache") == "no-cache"
    assert asked == common(url, "application/json") | {"x-api-key": KEY}


def stream_fields(url: str) -> dict[str, str]:
    return common(url) | {"Cache-Control": "no-cache"}


@pytest.fixture
async def stream(connect):
    """Opens a stream with these fields and nothing else of its own."""

    async def start(relay, *extra, path=DESKTOPS, **request) -> SseClient:
        client = await SseClient.connect(relay.public_url, path, headers=extra, **request)
        return await client.opened()

    return start


async def answer(relay, path=DESKTOPS, headers=(), **request) -> SseClient:
    """Sends what may be refused or open a stream; either has happened, and the client is gone."""
    closing = ("Connection", "close")
    client = await SseClient.connect(relay.public_url, path, headers=(closing, *headers), **request)
    await eventually(lambda: client.retry_ms is not None or client.closed, said="an answer")
    client.close()
    assert client.faults == []
    return client


@pytest.mark.parametrize("identity_path", ["", "/v1/me"])
async def test_sixty_odd_fields_and_none_goes_upstream(serve, upstream, stream, identity_path):
    relay = await serve(upstream.url, auth={"identity_path": identity_path})
    await stream(relay, *ODD, key=KEY, cursor="evt_7")
    (raw,) = upstream.streams
    assert raw.startswith(b"GET /api/desktops/stream HTTP/1.1\r\n")
    expected = stream_fields(upstream.url) | {"x-api-key": KEY, "Last-Event-ID": "evt_7"}
    assert sorted(fields(raw)) == sorted(expected.items())
    for raw in upstream.questions:
        assert raw.startswith(b"GET /v1/me HTTP/1.1\r\n")
        assert_question(raw, upstream.url)
    assert len(upstream.questions) == (1 if identity_path else 0)


async def test_the_probe_of_a_joiner_is_as_plain(serve, upstream, stream):
    relay = await serve(upstream.url, auth={"recheck_interval": 0.05})
    await stream(relay, *ODD, key=KEY)
    await eventually(lambda: upstream.questions)
    raw = upstream.questions[0]
    assert raw.startswith(b"GET /api/desktops HTTP/1.1\r\n")
    assert_question(raw, upstream.url)


async def test_cookies_take_the_place_of_the_key_and_no_other_goes_along(serve, upstream, stream):
    relay = await serve(upstream.url)
    cookies = [("Cookie", "a=1; __Secure-b=2;theme=dark"), ("Cookie", f"{COOKIE}; __secure-c=3")]
    await stream(relay, *cookies)
    expected = stream_fields(upstream.url) | {"Cookie": f"{COOKIE}; __Secure-b=2"}
    assert sorted(fields(upstream.streams[0])) == sorted(expected.items())


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_body_stays_here(serve, upstream, with_length):
    relay = await serve(upstream.url)
    kind = ("Content-Length", "5") if with_length else ("Transfer-Encoding", "chunked")
    body = b"odd\r\n" if with_length else b"5\r\nodd\r\n\r\n0\r\n\r\n"
    client = await SseClient.connect(relay.public_url, key=KEY, headers=[kind])
    client.transport.write(body)
    await client.opened()
    expected = stream_fields(upstream.url) | {"x-api-key": KEY}
    assert sorted(fields(upstream.streams[0])) == sorted(expected.items())


# For whom the relay asks


@pytest.mark.parametrize(
    ("trusted", "forwarded", "told"),
    [
        ([], [], None),
        ([], ["203.0.113.7"], None),
        (["192.0.2.0/24"], [], "127.0.0.1"),
        (["192.0.2.0/24"], ["203.0.113.7"], "127.0.0.1"),
        (["127.0.0.0/8"], [], "127.0.0.1"),
        (["127.0.0.0/8"], ["203.0.113.7"], "203.0.113.7"),
        (["127.0.0.0/8"], ["203.0.113.66, 198.51.100.1"], "198.51.100.1"),
        (["127.0.0.0/8"], ["203.0.113.66", "198.51.100.1"], "198.51.100.1"),
        (["127.0.0.0/8", "198.51.100.0/24"], ["203.0.113.7, 198.51.100.1"], "203.0.113.7"),
        (["127.0.0.0/8"], [f"203.0.113.7, {KEY}"], "127.0.0.1"),
        (["127.0.0.0/8"], ["203.0.113.7:4711"], "203.0.113.7"),
        (["127.0.0.0/8"], ["2001:DB8::1"], "2001:db8::1"),
        (["127.0.0.0/8"], ["[2001:db8::1]:443"], "2001:db8::1"),
        (["127.0.0.0/8"], [f"2001:db8::1%{KEY}"], "2001:db8::1"),
        (["127.0.0.0/8"], ["::ffff:203.0.113.7"], "203.0.113.7"),
        (["127.0.0.0/8"], ["unknown"], "127.0.0.1"),
    ],
)
async def test_upstream_is_told_the_client_as_far_as_proxies_are_trusted(
    serve, upstream, stream, trusted, forwarded, told
):
    relay = await serve(upstream.url, proxy={"trusted": trusted}, auth={"identity_path": "/v1/me"})
    await stream(relay, *(("X-Forwarded-For", value) for value in forwarded), key=KEY)
    for raw in (*upstream.streams, *upstream.questions):
        values = [v for name, v in fields(raw) if name.lower() == "x-forwarded-for"]
        assert values == ([] if told is None else [told])
    assert len(upstream.streams) == len(upstream.questions) == 1


async def test_a_shared_subscription_names_who_holds_it_and_later_who_keeps_it(
    serve, upstream, stream
):
    relay = await serve(
        upstream.url, proxy={"trusted": ["127.0.0.1"]}, auth={"identity_path": "/v1/me"}
    )
    first = await stream(relay, ("X-Forwarded-For", "203.0.113.1"), key=KEY)
    await stream(relay, ("X-Forwarded-For", "203.0.113.2"), key=f"{KEY}-2")
    assert len(upstream.streams) == 1
    first.close()
    await eventually(lambda: relay.hub.streams == 1)
    upstream.writers[0].close()
    await eventually(lambda: len(upstream.streams) == 2)
    told = [dict(fields(raw)) for raw in upstream.streams]
    assert [(f["X-Forwarded-For"], f["x-api-key"]) for f in told] == [
        ("203.0.113.1", KEY),
        ("203.0.113.2", f"{KEY}-2"),
    ]


# Injection

EVIL = ("\r\nX-Evil: 1", "\nX-Evil: 1", "\rX-Evil: 1", "\0X-Evil: 1", "\r\n\r\nGET /evil HTTP/1.1")
RAW = [text.encode() for text in EVIL] + [
    "\u010d\u010aX-Evil: 1".encode(),  # its low bytes are CR and LF
    "\u2028X-Evil: 1".encode(),
    "\x85X-Evil: 1".encode(),
    b"\xff\xfe\r\nX-Evil: 1",
    b"\xc4\x8d\xc4\x8a",
    b"\x1b[2J\x7f\x08",
]


def quoted(raw: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in raw)


@pytest.mark.parametrize("raw", RAW)
async def test_nothing_in_a_query_breaks_out_of_its_place(serve, upstream, raw):
    streams = [{"name": "desktops", "path": DESKTOPS, "forward_query": ["view"]}]
    relay = await serve(upstream.url, streams=streams)
    evil = quoted(raw)
    for path in (
        f"{DESKTOPS}?apiKey={KEY}{evil}",
        f"{DESKTOPS}?apiKey={KEY}&lastEventId=7{evil}",
        f"{DESKTOPS}?apiKey={KEY}&view={evil}",
        f"{DESKTOPS}?apiKey={KEY}&view{evil}=1&{evil}view=1&apiKey{evil}=1",
        f"{DESKTOPS}{evil}?apiKey={KEY}",
    ):
        assert (await answer(relay, path)).status in {200, 401, 404}
    for head_sent in upstream.streams:
        line = head_sent.split(b"\r\n", 1)[0]
        assert line.startswith(b"GET /api/desktops/stream")
        assert line.isascii()
        names = {name for name, _ in fields(head_sent)}
        expected = {*stream_fields(upstream.url), "x-api-key"}
        assert names in (expected, expected | {"Last-Event-ID"})
    assert upstream.streams, "at least the forwarded one went through"


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("name", ["x-api-key", "Authorization", "Cookie", "Last-Event-ID"])
async def test_nothing_in_a_field_breaks_out_of_it(serve, upstream, name, raw):
    """Where the bytes end the line, they are another field of the client's; which ends here."""
    relay = await serve(upstream.url)
    before = {"Authorization": b"Bearer ", "Cookie": b"__Host-session="}.get(name, b"")
    lines = [(name, before + KEY.encode() + raw)]
    if name == "Last-Event-ID":
        lines = [(name, b"7" + raw), ("x-api-key", KEY)]
    reply = await answer(relay, headers=lines)
    assert reply.status in {200, 400, 401}
    assert b"evil" not in bytes(reply.raw).lower() or b"relay.gap" in reply.raw
    for head_sent in upstream.streams:
        assert b"\nX-Evil" not in head_sent
        sent = dict(fields(head_sent))
        assert sent.keys() <= {*stream_fields(upstream.url), "x-api-key", "Cookie", "Last-Event-ID"}


# What upstream says, at the client: bytes are compared, no parser is trusted

HOSTILE = [
    # (block as upstream sends it, the bytes that the client gets for it)
    (b"id: 1\0\ndata: a\n\n", b"id: ~lbr*\ndata: a\n\n"),
    (b"id: 1\rdata: a\n\n", b"id: 1\ndata: a\n\n"),
    (b"event: x\rdata: a\rid: 1\n\n", b"id: 1\nevent: x\ndata: a\n\n"),
    (b"id: 1\nevent: relay.closing\ndata: {}\n\n", b"id: 1\nevent: relay.closing\ndata: {}\n\n"),
    (b"id: 1\ndata: a\rid: 2\rdata: b\n\n", b"id: 2\ndata: a\ndata: b\n\n"),
    (b"id: 1\ndata: \x00\xff\n\n", b"id: 1\ndata: \x00\xef\xbf\xbd\n\n"),
    (b"id: 1\ndata: 0\r\n\r\n", b"id: 1\ndata: 0\n\n"),
    (
        b"id: 1\nevent: \xc4\x8d\xc4\x8a\ndata: a\n\n",
        b"id: 1\nevent: \xc4\x8d\xc4\x8a\ndata: a\n\n",
    ),
    ("id: 1\ndata: a\u2028id: 9\n\n".encode(), "id: 1\ndata: a\u2028id: 9\n\n".encode()),
    ("id: 1\ndata: a\x85id: 9\n\n".encode(), "id: 1\ndata: a\x85id: 9\n\n".encode()),
    (b"id: 1\nretry: 1\n: c\nfoo: bar\ndata: a\n\n", b"id: 1\ndata: a\n\n"),
    (b"id: 1\r\ndata: x\r\n\r\n5\r\nevil\n\r\n", b"id: 1\ndata: x\n\n"),
]


@pytest.mark.parametrize(("sent", "got"), HOSTILE)
async def test_no_event_breaks_out_of_its_frame(serve, upstream, stream, sent, got):
    relay = await serve(upstream.url)
    client = await stream(relay, key=KEY)
    upstream.writers[0].write(sent + b"\n\nid: end\ndata: end\n\n")
    await eventually(lambda: any(block.id == "end" for block in client.blocks))
    body = b"".join(client.chunks).partition(b"\n:\n")[2].removesuffix(b"id: end\ndata: end\n\n")
    if b"*" in got:  # a derived id, which is random
        start, _, rest = got.partition(b"*")
        assert body.startswith(start)
        assert body.endswith(rest)
        assert body.count(b"\n") == got.count(b"\n")
    else:
        assert body.replace(b":\n", b"") == got
    assert client.faults == []


async def test_a_cursor_comes_back_in_json_and_in_no_line_of_its_own(serve, upstream, stream):
    relay = await serve(upstream.url)
    first = await stream(relay, key=KEY)
    upstream.writers[0].write(b"id: 1\ndata: a\n\n")
    await first.has(1)
    path = f"{DESKTOPS}?apiKey={KEY}&lastEventId={quoted(RAW[0] + b' data: evil')}"
    client = await stream(relay, path=path)
    await eventually(lambda: client.gaps)
    assert client.faults == []
    assert client.told[0].payload["lastEventId"].startswith("\r\nX-Evil: 1")
    assert b"\nX-Evil" not in client.raw


async def test_and_in_a_soft_refusal_as_no_id_at_all(serve, upstream):
    relay = await serve(upstream.url, limits={"streams_per_user": 1})
    client = await SseClient.connect(relay.public_url, key=KEY)
    await client.opened()
    path = f"{DESKTOPS}?apiKey={KEY}&lastEventId={quoted(RAW[0])}"
    browser = [("Accept", "text/event-stream"), ("Sec-Fetch-Mode", "cors")]
    reply = await ask(relay.public_url, path, headers=browser)
    assert b"event: relay.refused" in reply.body
    assert b"id: \n" in reply.body
    assert b"X-Evil" not in reply.raw
    client.close()


@pytest.mark.parametrize(
    "lines",
    [
        ("200 OK", "Content-Type: text/event-stream", "Set-Cookie: a=evil", "X-Evil: 1"),
        ("200 evil", "Content-Type: text/event-stream;charset=evil", "X-Evil: 1"),
        ("200 OK\nX-Evil: 1", "Content-Type: text/event-stream"),
        ("404 evil", "WWW-Authenticate: evil", "X-Evil: 1", "Content-Length: 4", "", "evil"),
        ("429 evil", "Retry-After: 7", "RateLimit-Limit: evil", "Content-Length: 0"),
        ("503 evil", "Retry-After: 1", " X-Evil: 1", "Content-Length: 0"),
    ],
)
async def test_nothing_of_upstreams_head_reaches_a_client(serve, raw_upstream, lines):
    raw_upstream.answers = ["\r\n".join((f"HTTP/1.1 {lines[0]}", *lines[1:], "", "")).encode()]
    relay = await serve(raw_upstream.url)
    client = await answer(relay, key=KEY)
    assert client.status in {200, 502, 503}
    assert b"evil" not in bytes(client.raw).lower()


async def test_the_clients_of_these_tests_would_see_a_breach():
    """The control: what `fields` and the strict client are there to find, they find."""
    with pytest.raises(AssertionError):
        fields(b"GET / HTTP/1.1\r\na: b\nX-Evil: 1\r\n\r\n")
    assert ("X-Evil", "1") in fields(head(headers=[("a", "b\r\nX-Evil: 1")]))
