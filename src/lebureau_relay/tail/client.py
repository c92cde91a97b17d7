"""The client behind `tail`: one stream, read the way the client guide asks of every client.

It stands apart because it is the other side of the wire: a client, which shares nothing with the
relay but the decoder and the back-off. So it reads the relay, the simulator and Le Bureau alike.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import aiohttp
from aiohttp import hdrs
from yarl import URL

from lebureau_relay.core.backoff import MAX_HINT_S, Backoff
from lebureau_relay.core.event import Event
from lebureau_relay.core.sse import Decoder
from lebureau_relay.errors import ConfigError, RelayError
from lebureau_relay.tail.screen import RELAY, Screen, parse, printable
from lebureau_relay.tail.status import Link

KEY_PARAMETER: Final = "apiKey"
KEY_HEADER: Final = "x-api-key"
_STREAM: Final = "text/event-stream"
_PROBLEM: Final = "application/problem+json"
# Four heartbeats of the relay's default: whoever misses that many has no connection any more.
_SILENCE_S: Final = 60.0
_CONNECT_S: Final = 10.0
# Sixteen times what the relay lets through by default: a reader should not be the narrower one.
_MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
# Of an error's body one sentence is shown; what is longer than this is a page.
_MAX_PROBLEM_BYTES: Final = 16 * 1024

# The closed sets of the contract, sections 4 and 6, as people say them.
_GAPS: Final = {
    "evicted": "you were away for longer than the relay remembers",
    "unknown_id": "nobody knows the id that you came with",
    "upstream": "Le Bureau could not continue where it had stopped",
    "oversize": "an event was too big to be passed on",
    "slow": "this terminal read too slowly",
    "degraded": "the relay's replicas were cut off from each other",
}
_CLOSINGS: Final = {
    "slow": "this terminal read too slowly",
    "credential_revoked": "the key or session was revoked",
    "max_age": "the stream has reached its greatest age",
    "retired": "a newer stream of yours took its place",
    "rebalanced": "the relay spreads its load anew",
    "operator": "an operator ended it",
    "draining": "the relay is being stopped or replaced",
    "upstream_ended": "Le Bureau ended this stream",
    "internal_error": "something failed in the relay",
}
_PASSING: Final = frozenset({408, 425, 429})  # statuses below 500 that time alone can mend
# Where the answer says nothing itself.
_UNTOLD: Final = {429: ": too many tries, or streams open; close some"}
_FINAL: Final = {
    200: "answers, but not with an event stream; check the address",
    204: "this stream has ended for good",
    401: "a valid key is needed; set LEBUREAU_API_KEY",
    403: "this key may not read this stream; ask whoever gave it for one that may",
    404: "there is no such stream; check the address",
}


def run(
    url: str,
    *,
    api_key: str | None = None,
    as_json: bool = False,
    types: Sequence[str] = (),
    since: str | None = None,
    colour: bool | None = None,
) -> int:
    """Print a stream's events until Ctrl-C or SIGTERM, or until nobody reads stdout; then 0.

    `api_key` goes out as `x-api-key`; one in the URL as `apiKey` is moved there and wins. `types`
    are patterns (`task.*`), none for all. `since` is the id to read on from. `colour` None means:
    if stdout is a terminal. Raises ConfigError for arguments that can't be used, RelayError for
    an answer that no repetition would change.
    """
    target = _target(url, api_key, since or "")
    screen = Screen(sys.stdout, sys.stderr, as_json=as_json, types=tuple(types), colour=colour)
    # So SIGTERM, too, ends it where it waits for a full pipe, outside the event loop.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(Tail(target, screen).follow())
    except KeyboardInterrupt:
        screen.close()
        screen.tell("stopped")
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        screen.close()
    return 0


@dataclass(frozen=True, slots=True)
class Target:
    """What to read: an address that holds no key, the key, and the id to read on from."""

    url: URL
    key: str = field(repr=False)
    since: str

    @property
    def place(self) -> str:
        """The address as people may read it: without query, user and password."""
        return f"{self.url.origin()}{self.url.path}"


def _target(text: str, api_key: str | None, since: str) -> Target:
    """Raises ConfigError; its sentences repeat nothing of the URL, which may hold a key."""
    url = URL()
    with suppress(ValueError):
        url = URL(text)
    if url.scheme not in {"http", "https"} or not url.host:
        mend = "write it whole, like http://127.0.0.1:8080/api/desktops/stream"
        raise ConfigError([f"URL: isn't an http or https address; {mend}"])
    key = url.query.get(KEY_PARAMETER) or api_key or ""
    mistakes = []
    if not (key.isascii() and key.isprintable()):
        mistakes.append("API key: holds characters that no key has; copy it again")
    if not since.isprintable():
        mistakes.append("--since: holds control characters; give the id of an event")
    if mistakes:
        raise ConfigError(mistakes)
    return Target(url.without_query_params(KEY_PARAMETER), key, since)


class Tail:
    """One stream, read for as long as it takes, reconnecting where it left off."""

    def __init__(self, target: Target, screen: Screen, backoff: Backoff | None = None) -> None:
        self._target = target
        self._screen = screen
        self._backoff = backoff or Backoff()
        self._cursor = target.since
        self._attempt = 0
        self._retry_s = 0.0  # the server's last `retry:`
        self._wait_s = 0.0  # what the last answer asked us to wait

    async def follow(self) -> NoReturn:
        """Read for ever. Raises RelayError for an answer that is final, and BrokenPipeError."""
        parts = [asyncio.ensure_future(part) for part in (self._follow(), self._screen.tick())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                await part
            raise AssertionError("neither ends but by an error")
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _follow(self) -> NoReturn:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            while True:
                self._wait_s = 0.0
                try:
                    why = await self._read(session)
                except (aiohttp.ClientError, TimeoutError) as error:
                    why = _failure(error)
                hint_s = max(self._retry_s, self._wait_s)
                delay_s = self._backoff.delay_s(self._attempt, hint_s, random.random)
                self._attempt += 1
                self._screen.tell(f"{why}; trying again in {delay_s:.1f} s")
                self._screen.stand(Link.WAITING, "trying again in", delay_s)
                await asyncio.sleep(delay_s)

    async def _read(self, session: aiohttp.ClientSession) -> str:
        """Ask once and show what comes; returns why it ended."""
        target, screen = self._target, self._screen
        mine = {KEY_HEADER: target.key, "Last-Event-ID": self._cursor}
        headers = {name: value for name, value in mine.items() if value}
        headers |= {"Accept": _STREAM, "Accept-Encoding": "identity"}
        screen.stand(Link.CONNECTING, "connecting")
        # A redirect would carry the key to wherever it points.
        async with session.get(target.url, headers=headers, allow_redirects=False) as response:
            if refusal := await self._refusal(response):
                return refusal
            where = f", reading on after {self._cursor}" if self._cursor else ""
            screen.tell(f"connected to {target.place}{where}")
            screen.stand(Link.CONNECTED, "connected")
            reader = Decoder(_MAX_EVENT_BYTES, self._cursor.encode())
            async for chunk in response.content.iter_any():
                for event in reader.feed(chunk):
                    self._take(event)
                # Not the last event's own id: a derived one means something to the relay only.
                self._cursor = reader.last_id.decode()
                self._retry_s = (reader.retry_ms or 0) / 1000
        return "the stream ended"

    async def _refusal(self, response: aiohttp.ClientResponse) -> str:
        """Why there is no stream now, empty if there is. Raises RelayError if there never will."""
        status = response.status
        if status == 200 and response.content_type == _STREAM:
            return ""
        detail = await _detail(response) or _UNTOLD.get(status, "")
        if status in _PASSING or status >= 500:
            retry_after = response.headers.get(hdrs.RETRY_AFTER, "")
            self._wait_s = float(retry_after) if retry_after.isdecimal() else 0.0
            return f"refused for now ({status}{detail})"
        sentence = _FINAL.get(status, "this request can't be served")
        if 300 <= status < 400:
            sentence = "sends us elsewhere; give that address, if it may have the key"
        raise RelayError(printable(f"{self._target.place}: {sentence} ({status}{detail})"))

    def _take(self, event: Event) -> None:
        if event.data is None:
            self._screen.tell(f"an event of over {_MAX_EVENT_BYTES} bytes was left out")
            return
        if event.type.startswith(RELAY):
            self._screen.tell(self._heard(event.type.decode(), parse(event.data.decode())))
        else:
            self._attempt = 0
        self._screen.show(event)

    def _heard(self, kind: str, body: Any) -> str:
        """What the relay says for itself (contract, section 4), in words."""
        payload = body.get("payload") if isinstance(body, dict) else None
        said = payload if isinstance(payload, dict) else {}
        match kind:
            case "relay.gap":
                cause = _GAPS.get(str(said.get("cause")), "the relay doesn't say why")
                return f"events may be missing here: {cause}"
            case "relay.closing":
                reason = _CLOSINGS.get(str(said.get("reason")), "the relay doesn't say why")
                return f"the relay closes the stream: {reason}"
            case "relay.refused":
                wait_s = said.get("retryAfter")
                # No float yet: JSON's integers may be larger than any.
                self._wait_s = min(wait_s, MAX_HINT_S) if isinstance(wait_s, int | float) else 0.0
                return f"the relay refuses for now ({said.get('code')})"
        return f"the relay says {kind}"


def _failure(error: Exception) -> str:
    """What went wrong on the way. Raises RelayError where it is no use to try again."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause = getattr(error.certificate_error, "verify_message", "") or "unknown reason"
            mend = "if it should be, name its authority in SSL_CERT_FILE"
            raise RelayError(
                printable(f"{error.host}: its certificate isn't trusted ({cause}); {mend}")
            ) from None
        case aiohttp.ClientConnectorSSLError():
            mend = "if it speaks plain HTTP there, write http:// in place of https://"
            raise RelayError(
                f"{error.host}:{error.port}: no TLS can be agreed on; {mend}"
            ) from None
        case aiohttp.ClientConnectorDNSError():
            return f"no address is known for the name {error.host}; check it, or the network"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return f"nothing listens at {error.host}:{error.port}; check the port, or start it"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno or 0
            reason = os.strerror(number) if number > 0 else error.os_error.strerror
            return f"can't connect to {error.host}:{error.port} ({reason})"
        case aiohttp.InvalidURL():
            raise RelayError("The address can't be asked for; check it.") from None
        case aiohttp.ConnectionTimeoutError():
            return f"can't connect: no answer within {_CONNECT_S:.0f} s"
        case TimeoutError():
            return f"nothing heard for {_SILENCE_S:.0f} s"
    return "the connection broke"


async def _detail(response: aiohttp.ClientResponse) -> str:
    """What a problem document says (RFC 9457), as the end of a sentence; empty without one."""
    if response.content_type != _PROBLEM:
        return ""
    with suppress(aiohttp.ClientError, TimeoutError):
        text = (await response.content.read(_MAX_PROBLEM_BYTES)).decode(errors="replace")
        body = parse(text)
        if isinstance(body, dict) and isinstance(body.get("detail"), str):
            return f": {body['detail']}"
    return ""
