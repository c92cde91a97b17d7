"""An API that says a case byte by byte, and the readers that hear it through the relay.

Every reader has a key of its own for each case, so that each is the first of its feed and hears
what is said at once. A case's connection ends after its bytes, which makes an unfinished block
nothing; the next one says the last word.
"""

import asyncio
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import httpx
import requests
from aiohttp import web
from httpx_sse import aconnect_sse
from sseclient import SSEClient
from tests.conformance.cases import ODD, STANDARD
from tests.e2e.clients import DESKTOPS

ROOT = Path(__file__).parents[2]
# Where bench/chaos/tools.sh puts what npm has.
NODE = ROOT / "bench" / ".cache" / "chaos"
CASES = STANDARD + ODD
TYPES = sorted({kind for _, _, said, _ in CASES for _, kind, _ in said} | {"message"})
LAST_WORD = "the last word"
_ANSWER_S = 60.0


class Heard(NamedTuple):
    """One event as an application gets it."""

    type: str
    data: str
    last_event_id: str


Hearing = dict[int, list[Heard]]


class Api:
    """Le Bureau's API, as far as it takes: good keys are `READER-NUMBER`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/desktops", self._good)
        app.router.add_get(DESKTOPS, self._stream)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _good(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        key = request.headers["x-api-key"]
        self.asked[key] += 1
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        if self.asked[key] == 1:
            _, stream, *_ = CASES[int(key.rpartition("-")[2])]
            for at in range(len(stream)):
                await answer.write(stream[at : at + 1])
                await asyncio.sleep(0)
            return answer
        await answer.write(f"id: end\ndata: {LAST_WORD}\n\n".encode())
        with suppress(asyncio.CancelledError, ConnectionError):
            await asyncio.Event().wait()
        return answer


class Ear:
    """What one reader has heard of one case: events of the relay's own are left out."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.done = False

    def take(self, kind: str | None, data: str, event_id: str | None) -> bool:
        """Note an event; whether it was the last."""
        if data == LAST_WORD:
            self.done = True
        elif not (kind or "").startswith("relay."):
            self.heard.append(Heard(kind or "message", data, event_id or ""))
        return self.done


def url_of(relay_url: str, reader: str, number: int) -> str:
    return f"{relay_url}{DESKTOPS}?apiKey={reader}-{number}"


async def by_httpx_sse(relay_url: str) -> Hearing:
    async def read(client: httpx.AsyncClient, number: int) -> list[Heard]:
        ear = Ear()
        async with aconnect_sse(client, "GET", url_of(relay_url, "httpx-sse", number)) as source:
            async for event in source.aiter_sse():
                if ear.take(event.event, event.data, event.id):
                    break
        return ear.heard

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=_ANSWER_S) as client:
        heard = await asyncio.gather(*(read(client, n) for n in range(len(CASES))))
    return dict(enumerate(heard))


async def by_sseclient(relay_url: str) -> Hearing:
    def read(number: int) -> list[Heard]:
        ear = Ear()
        with requests.get(
            url_of(relay_url, "sseclient-py", number), stream=True, timeout=_ANSWER_S
        ) as answer:
            for event in SSEClient(answer).events():
                if ear.take(event.event, event.data, event.id):
                    break
        return ear.heard

    numbers = range(len(CASES))
    heard = await asyncio.gather(*(asyncio.to_thread(read, number) for number in numbers))
    return dict(zip(numbers, heard, strict=True))


class Lines:
    """The relay's canonical form by lines, as a script reads it whose client has no parser."""

    def __init__(self) -> None:
        self._ear = Ear()
        self._fields: dict[bytes, list[bytes]] = {}

    @property
    def heard(self) -> list[Heard]:
        return self._ear.heard

    def take(self, line: bytes) -> bool:
        """Note a line, without its end; whether the last event is whole."""
        name, _, value = line.partition(b": ")
        if line:
            self._fields.setdefault(name, []).append(value)
            return False
        fields, self._fields = self._fields, {}
        return self._ear.take(
            b"".join(fields.get(b"event", [])).decode(),
            b"\n".join(fields[b"data"]).decode(),
            b"".join(fields[b"id"]).decode(),
        )


async def by_requests(relay_url: str) -> Hearing:
    def read(number: int) -> list[Heard]:
        lines = Lines()
        with requests.get(
            url_of(relay_url, "requests", number), stream=True, timeout=_ANSWER_S
        ) as answer:
            any(lines.take(line) for line in answer.iter_lines(chunk_size=1))
        return lines.heard

    numbers = range(len(CASES))
    heard = await asyncio.gather(*(asyncio.to_thread(read, number) for number in numbers))
    return dict(zip(numbers, heard, strict=True))


async def by_aiohttp(relay_url: str) -> Hearing:
    async def read(session: aiohttp.ClientSession, number: int) -> list[Heard]:
        lines = Lines()
        async with session.get(url_of(relay_url, "aiohttp", number)) as answer:
            async for line in answer.content:
                if lines.take(line.removesuffix(b"\n")):
                    break
        return lines.heard

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        heard = await asyncio.gather(*(read(session, n) for n in range(len(CASES))))
    return dict(enumerate(heard))


async def by_curl(relay_url: str) -> Hearing:
    async def read(number: int) -> list[Heard]:
        lines = Lines()
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sN", "--fail", url_of(relay_url, "curl", number)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert curl.stdout is not None
        async with asyncio.timeout(_ANSWER_S):
            while not lines.take((await curl.stdout.readuntil()).removesuffix(b"\n")):
                pass
        curl.kill()
        await curl.communicate()
        return lines.heard

    return dict(enumerate(await asyncio.gather(*(read(n) for n in range(len(CASES))))))


def by_node(library: str) -> Callable[[str], "asyncio.Future[Hearing]"]:
    async def run(relay_url: str) -> Hearing:
        process = await asyncio.create_subprocess_exec(
            *("node", Path(__file__).with_name("reader.mjs"), library),
            *(relay_url + DESKTOPS, library, str(len(CASES)), LAST_WORD, json.dumps(TYPES)),
            env=os.environ | {"CHAOS_NODE": str(NODE)},
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_ANSWER_S):
            said, _ = await process.communicate()
        assert process.returncode == 0, f"{library} ended with {process.returncode}"
        return collect(json.loads(line) for line in said.splitlines())

    return run  # type: ignore[return-value]


def collect(lines) -> Hearing:
    """Lines of {case, type, data, id}, in order."""
    ears = {number: Ear() for number in range(len(CASES))}
    for line in lines:
        ears[line["case"]].take(line["type"], line["data"], line["id"])
    unheard = [number for number, ear in ears.items() if not ear.done]
    assert not unheard, f"the last word was not heard in cases {unheard}"
    return {number: ear.heard for number, ear in ears.items()}


PAGE = """<!doctype html><title>reader</title><link rel="icon" href="data:,"><script>
const lines = [];
let done = 0;
function read(number, path, types, lastWord) {
  const source = new EventSource(path);
  const take = (event) => {
    lines.push({ case: number, type: event.type, data: event.data, id: event.lastEventId });
    if (event.data === lastWord) { source.close(); done += 1; }
  };
  for (const type of types) source.addEventListener(type, take);
}
</script>"""


async def by_chromium(relay_url: str, browser) -> Hearing:
    """Six at a time, which is what HTTP/1.1 allows."""
    page = await browser.new_page()
    await page.goto(f"{relay_url}/reader")
    for start in range(0, len(CASES), 5):
        some = range(start, min(start + 5, len(CASES)))
        for number in some:
            path = url_of("", "chromium", number)
            await page.evaluate(
                "([n, p, t, w]) => read(n, p, t, w)", [number, path, TYPES, LAST_WORD]
            )
        await page.wait_for_function(f"done >= {some.stop}", timeout=_ANSWER_S * 1000)
    lines: Sequence[dict] = await page.evaluate("lines")
    await page.close()
    return collect(lines)


NODE_LIBRARIES = ("eventsource", "undici", "fetch-event-source")


def why_no_node() -> str:
    """Why npm's libraries can't be tried here; empty where they can."""
    if not shutil.which("node"):
        return "Node.js is not installed"
    if not (NODE / "node_modules").is_dir():
        return "npm's libraries are not installed: bench/chaos/tools.sh"
    return ""
