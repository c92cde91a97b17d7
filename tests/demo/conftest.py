"""The demo in the test's own loop, and a real browser that looks at it."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
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
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture
async def stage(free_port: int) -> AsyncIterator[Stage]:
    stage, stop = Stage(make_relay, free_port), asyncio.Event()
    await stage.open(DemoPage(stage).install)
    playing = asyncio.create_task(stage.play(stop))
    yield stage
    stop.set()
    await playing
    await stage.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        program = shutil.which("chromium")
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield browser
        await browser.close()


@pytest.fixture
async def visit(
    browser: Browser, stage: Stage, complaints: list[str]
) -> Callable[..., Awaitable[Page]]:
    """Opens the page with the options of a browser context, and waits until it is live."""

    async def open_page(**options) -> Page:
        context = await browser.new_context(**options)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        await page.goto(stage.url)
        await page.wait_for_selector("#connection[data-state=live]")
        return page

    return open_page


@pytest.fixture
def complaints() -> list[str]:
    """What any page has written to its console as an error."""
    return []


@pytest.fixture
def simulator(stage: Stage):
    return stage._simulator
