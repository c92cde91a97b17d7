"""The demo in the test's own loop, and a real browser that looks at it."""

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from lebureau_relay.config import Settings
from lebureau_relay.demo.page import Page as DemoPage
from lebureau_relay.demo.stage import HOST, Stage
from lebureau_relay.main import Relay

# As root there is no sandbox, and a browser under test has nobody to report to.
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def make_relay(settings, extra) -> Relay:
    return Relay(Settings.model_validate(settings), extra)


@pytest.fixture
def stream_settings() -> dict[str, object]:
    """What a test wants other than the demo has it; to be given by `parametrize`."""
    return {}


def free_port_now() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    return free_port_now()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(free_port: int, stream_settings: dict[str, object]) -> AsyncIterator[Stage]:
    def make(settings, extra) -> Relay:
        return make_relay({**settings, "stream": settings["stream"] | stream_settings}, extra)

    stage, stop = Stage(make, free_port), asyncio.Event()
    await stage.open(DemoPage(stage).install)
    playing = asyncio.create_task(stage.play(stop))
    yield stage
    stop.set()
    await playing
    await stage.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        program = shutil.which("chromium")
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def visit(
    browser: Browser, stage: Stage, complaints: list[str]
) -> AsyncIterator[Callable[..., Awaitable[Page]]]:
    """Opens the page with the options of a browser context, and waits until it is live."""

    contexts = []

    async def open_page(**options) -> Page:
        context = await browser.new_context(**options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        await page.goto(stage.url)
        await page.wait_for_selector("#connection[data-state=live]")
        return page

    yield open_page
    for context in contexts:
        await context.close()


@pytest.fixture
def complaints() -> list[str]:
    """What any page has written to its console as an error."""
    return []


@pytest.fixture
def simulator(stage: Stage):
    return stage._simulator


async def number(page: Page, name: str) -> int:
    """One of the page's numbers, by its id."""
    return int(re.sub(r"\D", "", await page.inner_text(f"#{name}")))


async def gaps(stage: Stage) -> int:
    """What the relay has told; the page's own number may be a second old."""
    return (await stage.state())["relay"]["totals"]["gaps"]


async def logged(page: Page, words: str) -> None:
    """Wait until the page has told this."""
    await page.wait_for_selector(f"#log li:has-text('{words}')")


async def tabs_open(page: Page, count: int) -> None:
    """Wait until the relay serves so many tabs."""
    await page.wait_for_selector(f"#headline:has-text('{count} tab')")


async def next_event(page: Page) -> None:
    """Wait until Mission Control has something new."""
    await page.evaluate("document.querySelector('#feed').firstElementChild.id = 'seen'")
    await page.wait_for_selector("#feed li:first-child:not(#seen)")


async def more_events(simulator, page: Page) -> None:
    """Let something happen on both streams, and see it arrive."""
    for stream in ("desktops", "activity"):
        simulator.emit(simulator.user().id, stream, 10)
    await next_event(page)


async def until(true: Callable[[], object]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
