"""What stands beside a peer that can't read an API, so that it has what the API says.

    python -m bench.chaos.peer aiohttp-sse UPSTREAM_URL KEY PATIENCE_S PORT PING_S
    python -m bench.chaos.peer nchan       UPSTREAM_URL KEY PATIENCE_S PUBLISH_URL CURSOR_FILE

Written as well as one reasonably would, and the same for both: one connection for a feed, read by
the letter of the standard; it resumes by Last-Event-ID, gives up what is silent for PATIENCE_S,
backs off, heeds Retry-After, and reads no faster than what it has is taken.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import aiohttp
import uvloop

from bench.chaos.crowd import Parser
from bench.peers import aiohttp_sse_relay

# As this relay has it on the kit's stage.
_RETRY_MIN_S, _RETRY_MAX_S = 0.1, 1.0
_PUBLISH_S = 10.0
_AGAIN_S = 0.05
Take = Callable[[str, str, str], Awaitable[None]]  # id, type, data


class Follower:
    """One API's stream, followed for ever. `cursor` is where it begins; "" is now."""

    def __init__(self, url: str, key: str, patience_s: float, cursor: str = "") -> None:
        self._url = url
        self._headers = {"Accept": "text/event-stream", "x-api-key": key}
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=patience_s, sock_read=patience_s
        )
        self._cursor = cursor
        self._wait_s = _RETRY_MIN_S

    async def follow(self, take: Take) -> NoReturn:
        """Hand over each event, one after the other."""
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            while True:
                least_s = 0.0
                with suppress(aiohttp.ClientError, TimeoutError):
                    least_s = await self._read(session, take)
                await asyncio.sleep(max(least_s, self._wait_s * random.uniform(0.5, 1)))
                self._wait_s = min(2 * self._wait_s, _RETRY_MAX_S)

    async def _read(self, session: aiohttp.ClientSession, take: Take) -> float:
        """Until it ends; how long the API wants to be left alone."""
        cursor = {"Last-Event-ID": self._cursor} if self._cursor else {}
        async with session.get(self._url, headers=self._headers | cursor) as answer:
            if answer.status != 200 or answer.content_type != "text/event-stream":
                asked = answer.headers.get("Retry-After", "")
                return float(asked) if asked.isdecimal() else 0.0
            parser = Parser()
            parser.last_id = self._cursor
            async for data in answer.content.iter_any():
                for event_id, kind, text in parser.feed(data):
                    await take(event_id, kind, text)
                    self._cursor, self._wait_s = event_id, _RETRY_MIN_S
        return 0.0


class Publisher:
    """Posts to nchan, each until it is taken, and keeps the place in a file: killed and started
    again it goes on there. An id can't be given: nchan makes its own, of time and number.
    """

    def __init__(self, url: str, place: Path, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._place = place
        self._session = session

    @property
    def cursor(self) -> str:
        return self._place.read_text() if self._place.exists() else ""

    async def take(self, event_id: str, kind: str, text: str) -> None:
        headers = {"Content-Type": "text/plain"}
        if kind != "message":
            headers["X-EventSource-Event"] = kind
        while not await self._posted(text.encode(), headers):  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(_AGAIN_S)
        new = self._place.with_suffix(".new")
        new.write_text(event_id)
        new.replace(self._place)  # whole or not at all

    async def _posted(self, body: bytes, headers: dict[str, str]) -> bool:
        """Whether there is nothing more to be done about it."""
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.post(self._url, data=body, headers=headers) as answer:
                if 400 <= answer.status < 500:  # nor will it ever be taken
                    print(f"{answer.status} for {len(body)} bytes", file=sys.stderr, flush=True)
                return answer.status < 500
        return False


async def _nchan(url: str, key: str, patience_s: float, publish_url: str, place: str) -> None:
    timeout = aiohttp.ClientTimeout(total=_PUBLISH_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        publisher = Publisher(publish_url, Path(place), session)
        await Follower(url, key, patience_s, publisher.cursor).follow(publisher.take)


async def _aiohttp_sse(url: str, key: str, patience_s: float, port: str, ping_s: str) -> None:
    queues: set[asyncio.Queue[aiohttp_sse_relay.Event]] = set()

    async def take(event_id: str, _kind: str, text: str) -> None:
        for queue in list(queues):
            await queue.put((event_id, text))

    await aiohttp_sse_relay.serve(int(port), queues, int(ping_s))
    await Follower(url, key, patience_s).follow(take)


if __name__ == "__main__":
    what, its_url, its_key, its_patience_s, *more = sys.argv[1:]
    run = {"nchan": _nchan, "aiohttp-sse": _aiohttp_sse}[what]
    uvloop.run(run(its_url, its_key, float(its_patience_s), *more))
