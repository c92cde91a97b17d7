"""Real clients beside the crowd: programs around the libraries that people use, and a browser.

Each goes by a road of its own, which also sees whether it named a cursor when it came back: what a
library can't say no relay can answer.
"""

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos.crowd import Number, number_of, write_down
from bench.chaos.judge import Diary, judge_one
from bench.chaos.road import Road
from bench.chaos.story import Story

# Every loop and every library that comes back asks again sooner.
_GIVEN_UP_S = 8.0
# A line is an event as JSON: a relay lets 1 MiB through, and of that each byte may be escaped.
_LINE_BYTES = 8 << 20
_HERE = Path(__file__).parent / "programs"
_NODE = Path(__file__).parents[1] / ".cache" / "chaos"
# Chromium as root, in a container, and with nothing on its mind.
_CHROMIUM = (
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage"),
)
_PAGE = """<!doctype html><title>chaos</title><link rel="icon" href="data:,"><script>
let lastId = '', source;
function open([url, kinds]) {
  const place = new URL(url, location);
  if (lastId) place.searchParams.set('lastEventId', lastId);
  source = new EventSource(place);
  for (const kind of kinds) source.addEventListener(kind, (event) => {
    lastId = event.lastEventId || lastId;
    take(kind, lastId, event.data, Date.now());
  });
  source.onerror = () => {
    if (source.readyState === 2) setTimeout(() => open([url, kinds]), 300);
  };
}
</script>"""


@dataclass(frozen=True, slots=True)
class Target:
    """Which stream: a path, and a credential as headers and, for who can't send any, a query; the
    `kinds` of events that an EventSource must ask for by name, and what number each event has.
    """

    feed: int
    path: str
    headers: dict[str, str] = field(repr=False)
    query: str = field(repr=False)
    kinds: tuple[str, ...] = ("message",)
    silence_s: float = 5.0  # after which loops that have a time-out come back
    number: Number = number_of

    @property
    def path_with_key(self) -> str:
        return (
            f"{self.path}{'&' if '?' in self.path else '?'}{self.query}"
            if self.query
            else self.path
        )


@dataclass(frozen=True, slots=True)
class Library:
    """A client: how it is run (`browser`, or a program of programs/), what its author does on a
    reconnect, and what it lacks here: a sentence, empty where it can run. `by_name`: it hands out
    only events of the types that it was told.
    """

    name: str
    run_by: str
    by_query: bool
    comes_back: str
    missing: Callable[[], str]
    by_name: bool = False


def _needs_program(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name) else f"the program {name} is not installed"


def _needs_module(name: str) -> Callable[[], str]:
    return lambda: (
        "" if importlib.util.find_spec(name) else f"the package {name} is not installed (make dev)"
    )


def _needs_node() -> str:
    if (_NODE / ".done").exists():
        return ""
    why = _NODE / "why"
    return (
        why.read_text().strip() if why.exists() else "bench/chaos/tools.sh has not run (make needs)"
    )


def _needs_browser() -> str:
    return _needs_program("chromium")() or _needs_module("playwright")()


_SELF = "by itself, with Last-Event-ID; after a status other than 200 never"
_LOOP = "not by itself; here in a loop that sends Last-Event-ID"
LIBRARIES = (
    Library("Chromium EventSource", "browser", True, _SELF, _needs_browser, True),
    Library("eventsource", "node", False, _SELF, _needs_node, by_name=True),
    Library("undici", "node", True, _SELF, _needs_node, by_name=True),
    Library(
        "fetch-event-source",
        "node",
        False,
        "by itself, with Last-Event-ID; after an end in good order only if `onclose` throws",
        _needs_node,
    ),
    Library("requests", "python", False, _LOOP, _needs_module("requests")),
    Library("httpx-sse", "python", False, _LOOP, _needs_module("httpx_sse")),
    Library("sseclient-py", "python", False, _LOOP, _needs_module("sseclient")),
    Library("aiohttp", "python", False, _LOOP, _needs_module("aiohttp")),
    Library("curl", "python", False, _LOOP, _needs_program("curl")),
)


class Reader:
    """One real client that runs until `end`."""

    def __init__(self, library: Library, target: Target, road: Road, log: Path) -> None:
        self.diary = Diary(target.feed, library.name)
        self._library = library
        self._target = target
        self._road = road
        self._log = log
        self.totals: Counter[str] = Counter()  # of all pages that nobody has asked for yet
        self._seen_s = time.monotonic()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def _url(self) -> str:
        target = self._target
        path = target.path_with_key if self._library.by_query else target.path
        return f"http://127.0.0.1:{self._road.port}{path}"

    async def start(self) -> "Reader":
        headers = {} if self._library.by_query else self._target.headers
        argv = (
            ("node", str(_HERE / "node.mjs"))
            if self._library.run_by == "node"
            else (sys.executable, str(_HERE / "python.py"))
        )
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                self._library.name,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "CHAOS_NODE": str(_NODE),
                    # Not as arguments: everybody may read those.
                    "CHAOS_URL": self._url,
                    "CHAOS_HEADERS": json.dumps(headers),
                    "CHAOS_SILENCE_S": str(self._target.silence_s),
                    "CHAOS_KINDS": json.dumps(self._kinds),
                },
                stdout=subprocess.PIPE,
                stderr=log,
                limit=_LINE_BYTES,
                start_new_session=True,  # Ctrl-C is for who judges them
            )
        self._reading = asyncio.ensure_future(self._read())
        self._seen_s = time.monotonic()
        return self

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            self.take(said["kind"], said["id"], said["data"], said["t"])

    def take(self, kind: str, event_id: str, text: str, at_ms: float) -> None:
        write_down(self.diary, self._target.number, event_id, kind, text, at_ms / 1000)

    @property
    def _kinds(self) -> list[str]:
        return [*self._target.kinds, "relay.gap"]

    @property
    def given_up(self) -> bool:
        """Whether it has no connection and has not asked for one for long."""
        if self._road.open:
            self._seen_s = time.monotonic()
        return time.monotonic() - self._seen_s > _GIVEN_UP_S

    def close_page(self, story: Story) -> None:
        """What its road has seen goes into the diary, which is about to be judged."""
        arrivals, self._road.arrivals = self._road.arrivals, []
        diary = self.diary
        diary.connections = len(arrivals)
        diary.claims = [(at_s, story.number(diary.feed, cursor)) for at_s, cursor in arrivals]
        diary.gone = self.given_up
        self.totals.update(judge_one(diary, len(story.said[diary.feed])))

    async def begin_again(self) -> None:
        """Run it anew, as its user would."""
        await self.end()
        self.totals["gave_up"] += 1
        self.diary = Diary(self.diary.feed, self.diary.name)
        await self.start()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading


class BrowserReader(Reader):
    """A page of Chromium with an EventSource, served as if the relay itself had it."""

    async def start(self) -> "Reader":
        from playwright.async_api import async_playwright  # noqa: PLC0415 - takes its time

        self._playwright = await async_playwright().start()
        self._browser = await self._playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(_CHROMIUM), handle_sigint=False
        )
        page = await self._browser.new_page()
        await page.expose_function("take", self.take)
        home = f"http://127.0.0.1:{self._road.port}/chaos.html"
        await page.route(home, lambda route: route.fulfill(body=_PAGE, content_type="text/html"))
        await page.goto(home)
        await page.evaluate("(asked) => open(asked)", [self._url, self._kinds])
        return self

    async def end(self) -> None:
        # A page that calls back while it closes may keep Playwright waiting; its driver ends both.
        for close in (self._browser.close, self._playwright.stop):
            with suppress(TimeoutError):
                await asyncio.wait_for(close(), _GIVEN_UP_S)


def reader(library: Library, target: Target, road: Road, log: Path) -> Reader:
    """A client that may be started; `log` is for what its program complains of."""
    made = BrowserReader if library.run_by == "browser" else Reader
    return made(library, target, road, log)


def absent() -> dict[str, str]:
    """Those that can't run here, and why."""
    return {one.name: why for one in LIBRARIES if (why := one.missing())}
