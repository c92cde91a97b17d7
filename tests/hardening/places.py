"""Every place in which a client can put a credential, each as the bytes of one request.

Each place gets a canary of its own, so that a finding says where the relay let one through. Unless
a place is about the shape of keys, canaries look like nothing at all: what keeps them out must be
that nobody writes them, not that somebody recognises them.
"""

import base64
import secrets
from collections.abc import Callable, Iterator

from tests.e2e.clients import DESKTOPS

Places = dict[str, tuple[str, bytes]]  # by name: the canary, the request


def canary(shape: str = "") -> str:
    """A secret that stands nowhere by chance."""
    return shape + "".join(
        secrets.choice("BCDFGHJKLMNPQRSTVWXZbcdfghjkmnpqrstvwxz") for _ in range(28)
    )


def places() -> Places:
    """All of them, with fresh canaries."""
    made: Places = {}
    for group in (_queries, _targets, _fields, _cookies, _cursors, _malformed, _bodies):
        for number, (build, shape) in enumerate(group()):
            secret = canary(shape)
            request = build(secret)
            made[f"{group.__name__.strip('_')} {number}: {request[:60]!r}"] = (secret, request)
    return made


Build = Callable[[str], bytes]
Shaped = tuple[Build, str]


def request(target: str = DESKTOPS, *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    """One request after which the connection closes."""
    head = (f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", "")
    return "\r\n".join(head).encode("utf-8", "surrogateescape") + body


def _quoted(text: str, form: str = "%{:02x}") -> str:
    return "".join(form.format(ord(char)) for char in text)


def _queries() -> Iterator[Shaped]:
    for query in (
        "apiKey={}",
        "%61piKey={}",
        "%61%70%69%4b%65%79={}",
        "ApiKey={}",
        "APIKEY={}",
        "apikey={}",
        "api_key={}",
        "api-key={}",
        "api%254Bey={}",
        "apiKey%3D{}",
        "apiKey%253D{}",
        "apiKey={}&apiKey={}",
        "apiKey={}&apiKey={}x",
        "a=1;apiKey={}",
        "apiKey={};b=1",
        "a=1&amp;apiKey={}",
        "apiKey={}%23fragment",
        "apiKey={}#fragment",
        "a=1#apiKey={}",
        "a=1%23apiKey={}",
        "apiKey[]={}",
        "apiKey=={}",
        "apiKey={}%0d%0aX-Evil:1",
        "apiKey=%00{}",
        "apiKey%00={}",
        "apiKey=%20{}%09",
        "apiKey=user:{}@host",
        "apiKey=%FF%FE{}",
        "apiKey=é{}",
        "access_token={}",
        "token={}",
        "key={}",
        "={}",
        "{}",
        "{}=1",
        "?apiKey={}",
        "view={}&apiKey={}",
        "view=1&view=x{}x&apiKey={}",
    ):
        yield (lambda c, q=query: request(f"{DESKTOPS}?{q.replace('{}', c)}")), ""
    for form in ("%{:02x}", "%{:02X}", "%25{:02x}", "%2525{:02X}"):
        yield (lambda c, f=form: request(f"{DESKTOPS}?apiKey={_quoted(c, f)}")), ""
    yield (lambda c: request(f"{DESKTOPS}?apiKey={base64.b64encode(c.encode()).decode()}")), ""
    yield (lambda c: request(f"{DESKTOPS}?view={c}", "x-api-key: another-key-of-no-use")), "lb_k_"
    yield (lambda c: request(f"{DESKTOPS}?apiKey={c}", "Accept: text/event-stream")), "lb_k_"


def _targets() -> Iterator[Shaped]:
    for target in (
        "/{}",
        "/api/{}/stream",
        DESKTOPS + "/{}",
        DESKTOPS + ";apiKey={}",
        DESKTOPS + "%3FapiKey={}",
        DESKTOPS + "/?apiKey={}",
        DESKTOPS + "/../{}",
        "//user:{}@localhost" + DESKTOPS,
        "/user:{}@localhost",
        "http://user:{}@localhost" + DESKTOPS,
        "http://localhost" + DESKTOPS + "?apiKey={}",
        "http://{}.example" + DESKTOPS,
        "/moved?apiKey={}",
        "*?apiKey={}",
        "{}",
    ):
        yield (lambda c, t=target: request(t.replace("{}", c))), ""
    for method in ("HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE", "PATCH", "BREW", "PRI"):
        yield (lambda c, m=method: request(f"{DESKTOPS}?apiKey={c}", method=m)), ""
    yield (lambda c: request(f"user:{c}@localhost:443", method="CONNECT")), ""
    yield (lambda c: request(method=c)), ""


def _fields() -> Iterator[Shaped]:
    for lines in (
        ("x-api-key: {}",),
        ("X-API-KEY:\t{}\t",),
        ("x-api-key: {}", "x-api-key: {}"),
        ("x-api-key: {}", "x-api-key: {}x"),
        ("x-api-key: a", " {}"),
        ("x-api-key: a {}",),
        ("x-api-key: é{}",),
        ("x_api_key: {}",),
        ("X-Api-Key-Old: {}",),
        ("Authorization: Bearer {}",),
        ("Authorization: bEARER \t {}",),
        ("Authorization: Bearer {}, Bearer {}x",),
        ("Authorization: Bearer {}", "Authorization: Bearer {}x"),
        ("Authorization: {}",),
        ("Authorization: Token {}",),
        ("Authorization: ApiKey {}",),
        ("Authorization: Negotiate {}",),
        ('Authorization: Digest username="{}", response="{}"',),
        ("Proxy-Authorization: Bearer {}",),
        ("WWW-Authenticate: {}",),
        ("Referer: https://app.example/?apiKey={}",),
        ("Referer: {}", "x-api-key: of-no-use-at-all"),
        ("Origin: https://{}.example", "x-api-key: of-no-use-at-all"),
        ("Origin: https://user:{}@app.example", "Cookie: __Host-a=of-no-use-at-all"),
        ("Origin: {}", "x-api-key: of-no-use-at-all"),
        ("Sec-Fetch-Site: {}", "Cookie: __Host-a=of-no-use-at-all"),
        ("X-Forwarded-For: {}", "x-api-key: of-no-use-at-all"),
        ("X-Forwarded-For: 203.0.113.9, fe80::1%{}", "x-api-key: of-no-use-at-all"),
        ("X-Forwarded-Host: {}", "X-Forwarded-Proto: {}", "x-api-key: of-no-use-at-all"),
        ("Forwarded: for={};host={}", "X-Real-IP: {}", "x-api-key: of-no-use-at-all"),
        ("User-Agent: {}", "x-api-key: of-no-use-at-all"),
        ("Accept: text/event-stream, {}", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: {}"),
        ("Accept-Language: {}", "Accept-Encoding: {}", "x-api-key: of-no-use-at-all"),
        ("Range: bytes={}", 'If-None-Match: "{}"', "x-api-key: of-no-use-at-all"),
        ("traceparent: 00-{}-01", "X-Request-ID: {}", "x-api-key: of-no-use-at-all"),
        ("Connection: {}", "Upgrade: {}", "TE: {}", "x-api-key: of-no-use-at-all"),
        ("Expect: {}",),
        ("Expect: 100-continue", "x-api-key: {}"),
        ("Host: {}",),
        ("Access-Control-Request-Headers: {}", "Access-Control-Request-Method: {}"),
    ):
        yield (lambda c, ls=lines: request(DESKTOPS, *(one.replace("{}", c) for one in ls))), ""

    def basic(c: str) -> bytes:
        return request(
            DESKTOPS, f"Authorization: Basic {base64.b64encode(f'me:{c}'.encode()).decode()}"
        )

    yield basic, ""
    yield (lambda c: basic(c).replace(b"Authorization", b"Proxy-Authorization")), ""
    yield (
        (lambda c: request(DESKTOPS, f"x-api-key: {c * 180}")),
        "",
    )  # 5040 bytes: too long for a key
    yield (lambda c: request(DESKTOPS, f"x-api-key: {c * 500}")), ""  # too long for a line
    yield (lambda c: request(f"{DESKTOPS}?apiKey={c * 500}")), ""
    yield (lambda c: request(DESKTOPS, *(f"X-{n}: {c}" for n in range(200)))), ""


def _cookies() -> Iterator[Shaped]:
    for lines in (
        ("Cookie: __Host-session={}",),
        ("Cookie: __Secure-a={}; __Host-b={}x; theme=dark",),
        ("Cookie: __Host-a={}", "Cookie: __Host-b={}", "Cookie: c={}"),
        ("Cookie: session={}; JSESSIONID={}",),
        ('Cookie: __Host-session="{}"',),
        ('Cookie: __Host-session="a\\054{}',),
        ("Cookie: __Host-session=a{}\x7f",),
        ("Cookie: __Host-{}=1",),
        ("Cookie: ={}; __Host-session; {}",),
        ("Cookie: $Version=1; __Host-session={}; $Path=/",),
        ("Cookie: __host-session={}",),
        ("Cookie2: {}", "Set-Cookie: __Host-session={}"),
        ("Cookie: __Host-session={}", "Sec-Fetch-Site: cross-site"),
    ):
        yield (lambda c, ls=lines: request(DESKTOPS, *(one.replace("{}", c) for one in ls))), ""
    huge = "Cookie: __Host-{}={}"
    yield (lambda c: request(DESKTOPS, *(huge.format(n, c * 150) for n in range(4)))), ""
    yield (lambda c: request(DESKTOPS, huge.format("session", c * 400))), ""


def _cursors() -> Iterator[Shaped]:
    """A key where a cursor belongs: the request's own, or one that can be told by its shape."""
    for target, lines in (
        (DESKTOPS, ("x-api-key: {}", "Last-Event-ID: {}")),
        (DESKTOPS, ("Cookie: __Host-a={}", "Last-Event-ID: x __Host-a={}")),
        (DESKTOPS + "?apiKey={}&lastEventId={}", ()),
        (DESKTOPS + "?apiKey={}&last_event_id={}~lbr1", ()),
        (DESKTOPS + "?Last-Event-ID=~lbr{}-1", ("Authorization: Bearer {}",)),
    ):
        yield (
            (
                lambda c, t=target, ls=lines: request(
                    t.replace("{}", c), *(one.replace("{}", c) for one in ls)
                )
            ),
            "",
        )
    yield (
        (lambda c: request(DESKTOPS, "x-api-key: of-no-use-at-all", f"Last-Event-ID: {c}")),
        "lb_k_",
    )


def _malformed() -> Iterator[Shaped]:
    for text in (
        "{}\r\n\r\n",
        "GET {}\r\n\r\n",
        "GET / HTTP/{}\r\n\r\n",
        "GET /?apiKey={} HTTP/9.9\r\n\r\n",
        "GET /?apiKey={} HTTP/1.1 {}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: {}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx-api-key : {}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx-{}\x01: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx-api-key: {}\0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx-api-key: {}\x0b\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\nx-api-key: {}\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: {}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: {}\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /{} HTTP/1.{}\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{}",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc{}",
        "GET /?apiKey={} HTTP/1.0\r\nx-api-key: {}",
        "GET /?apiKey={}",
    ):
        yield (lambda c, t=text: t.replace("{}", c).encode("latin-1")), ""


def _bodies() -> Iterator[Shaped]:
    json_type = "Content-Type: application/json"
    for method in ("GET", "POST"):
        yield (
            (
                lambda c, m=method: request(
                    DESKTOPS,
                    json_type,
                    f"Content-Length: {len(c) + 13}",
                    method=m,
                    body=b'{"apiKey":"%b"}' % c.encode(),
                )
            ),
            "",
        )
        yield (
            (
                lambda c, m=method: request(
                    DESKTOPS,
                    "Transfer-Encoding: chunked",
                    f"Trailer: {c}",
                    method=m,
                    body=b"1;%b=%b\r\na\r\n0\r\nx-api-key: %b\r\n\r\n" % ((c.encode(),) * 3),
                )
            ),
            "",
        )


def admin_places() -> Places:
    """The same for the admin listener."""
    made: Places = {}
    order = '{{"all": true, "apiKey": "{0}", "identity": "{0}", "reason": "x"}}'
    for number, lines in enumerate(
        (
            ("GET /status?apiKey={}",),
            ("GET /metrics?name[]={}&apiKey={}", "Accept: application/openmetrics-text; {}"),
            ("GET /metrics", "Accept: text/plain; version={}; escaping={}"),
            ("GET /{}",),
            ("GET /healthz?{}", "Authorization: Bearer {}"),
            ("GET /", "Host: {}"),
            ("GET /console.js?{}", "Referer: http://localhost/?apiKey={}"),
            ("GET /status", "Sec-Fetch-Site: {}", "Cookie: {}={}"),
            ("POST /status", "x-api-key: {}"),
            ("POST /operator/end", "Authorization: Bearer {}", "Content-Length: 0"),
            ("POST /operator/end", "Authorization: {}", "Content-Length: 0"),
        )
    ):
        secret = canary()
        first, *rest = (line.replace("{}", secret) for line in lines)
        method, target = first.split(" ", 1)
        made[f"admin {number}: {lines[0]}"] = (secret, request(target, *rest, method=method))
    secret = canary()
    body = order.format(secret).encode()
    made["admin order"] = (
        secret,
        request("/operator/end", f"Content-Length: {len(body)}", method="POST", body=body),
    )
    return made
