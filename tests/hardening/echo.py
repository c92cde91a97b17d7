"""An upstream without manners: whatever it answers, it says the credential out loud in it."""

import asyncio
import re
from collections import defaultdict, deque
from contextlib import suppress

_SECRET = re.compile(rb"\r\n(?:x-api-key: |cookie: __Host-session=)([^\r\n]+)", re.IGNORECASE)
STATUSES = (204, 401, 403, 404, 405, 410, 429, 500, 502, 503, 599)
# Where a redirect leads that stays here, and one that doesn't.
HERE, AWAY = "/moved?apiKey={c}", "http://127.0.0.1:9/{c}?apiKey={c}"

_FORMS = {
    "stream": "HTTP/1.1 200 {c}\r\nContent-Type: text/event-stream\r\nX-Echo: {c}\r\n\r\n: {c}\n\n",
    "html": "HTTP/1.1 200 {c}\r\nContent-Type: text/html\r\n\r\n<p>{c}",
    "odd type": "HTTP/1.1 200 OK\r\nContent-Type: text/{c}\r\n\r\n{c}",
    "broken type": "HTTP/1.1 200 OK\r\nContent-Type: {c}\r\n\r\n{c}",
    "no type": "HTTP/1.1 200 OK\r\n\r\n{c}",
    "garbage": "{c}\r\n\r\n{c}",
    "broken status": "HTTP/1.1 {c}\r\n\r\n",
    "broken field": "HTTP/1.1 200 OK\r\nX {c}\r\n\r\n",
    "broken chunk": (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        "{c}\r\n{c}"
    ),
    "broken length": "HTTP/1.1 200 OK\r\nContent-Length: {c}\r\n\r\n{c}",
    "retry after": "HTTP/1.1 503 {c}\r\nRetry-After: {c}\r\nContent-Length: 0\r\n\r\n",
    "redirect here": f"HTTP/1.1 307 {{c}}\r\nLocation: {HERE}\r\nContent-Length: 0\r\n\r\n",
    "redirect away": f"HTTP/1.1 307 {{c}}\r\nLocation: {AWAY}\r\nContent-Length: 0\r\n\r\n",
    "redirect nowhere": "HTTP/1.1 302 {c}\r\nLocation: http://[{c}\r\nContent-Length: 0\r\n\r\n",
    "me": (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        '{{"id": "{c}", "capabilities": []}}'
    ),
    "me without": (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        '{{"{c}": "{c}"}}'
    ),
    "me no json": (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{{{c}"
    ),
}
_STATUS = (
    "HTTP/1.1 {status} {c}\r\nWWW-Authenticate: Bearer realm={c}\r\nX-Echo: {c}\r\n"
    "Content-Type: application/json\r\nConnection: close\r\n\r\n{body}"
)
FORMS = (*_FORMS, *map(str, STATUSES))
_ENDLESS = ("stream", "broken chunk")


class Echo:
    """`answers[secret]` is what comes, one form after the other, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, deque[str]] = defaultdict(lambda: deque(["stream"]))
        self.identities: dict[str, deque[str]] = defaultdict(lambda: deque(["me"]))
        self.heads: list[bytes] = []
        self.open: dict[str, list[asyncio.StreamWriter]] = defaultdict(list)
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writers in self.open.values():
            for writer in writers:
                writer.transport.abort()
        await self._server.wait_closed()

    def cut(self, secret: str) -> None:
        """Break what is open for a secret; the relay will ask again."""
        for writer in self.open.pop(secret, ()):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            found = _SECRET.search(head)
            secret = found[1].decode() if found else "nobody"
            asked = self.answers if b"/stream" in head.split(b"\r\n", 1)[0] else self.identities
            forms = asked[secret]
            form = forms.popleft() if len(forms) > 1 else forms[0]
            writer.write(_answer(form, secret))
            if form in _ENDLESS:
                self.open[secret].append(writer)
                await reader.read()
        writer.close()


def _answer(form: str, secret: str) -> bytes:
    if form in _FORMS:
        return _FORMS[form].format(c=secret).encode()
    body = "" if form == "204" else f'{{"error": "{secret} is unknown", "headers": ["{secret}"]}}'
    return _STATUS.format(status=form, c=secret, body=body).encode()
