"""README.md's picture: the demo page at work, after some faults. `make screenshots` takes it."""

import asyncio
import shutil
from pathlib import Path

import uvloop
from playwright.async_api import Page, async_playwright
from tests.demo.conftest import CHROMIUM, free_port_now, logged, make_relay, next_event, tabs_open

from lebureau_relay.demo.page import Page as DemoPage
from lebureau_relay.demo.stage import Stage

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "demo.png"
MOST_BYTES = 300_000  # a README is read over telephones, too


async def play(page: Page) -> None:
    """Some tabs, some faults, and time for the charts to fill."""
    for _ in range(12):
        await next_event(page)
    await page.click("#more")
    await tabs_open(page, 6)
    await page.click("[data-order=cut]")
    await logged(page, "asked anew")
    await page.click("[data-order=offline]")
    await page.wait_for_selector("#connection[data-state=offline]")
    await page.click("[data-order=online]")
    await logged(page, "Mission Control: back")
    await page.click("[data-order=slow]")
    for _ in range(10):
        await next_event(page)
    await page.click("[data-order=read-on]")
    await logged(page, "The other 5 tabs had everything")
    for _ in range(20):
        await next_event(page)
    # The newest has come in, and the lights are on their way.
    await page.wait_for_timeout(500)


async def main() -> None:
    stage, stop = Stage(make_relay, free_port_now()), asyncio.Event()
    await stage.open(DemoPage(stage).install)
    playing = asyncio.create_task(stage.play(stop))
    stage._simulator.emit(stage._simulator.user().id, "desktops", 40)  # all three are up
    async with async_playwright() as playwright:
        program = shutil.which("chromium")
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        page = await browser.new_page(viewport={"width": 1280, "height": 1390})
        await page.goto(stage.url)
        await page.wait_for_selector("#connection[data-state=live]")
        stage._simulator.emit(stage._simulator.user().id, "desktops", 90)  # fills the charts
        await play(page)
        await page.mouse.move(0, 0)
        # A row that is just coming in would be half there.
        await page.eval_on_selector_all("#feed .new", "all => all.forEach((e) => e.className = '')")
        await page.screenshot(path=PICTURE)
        await browser.close()
    stop.set()
    await playing
    await stage.close()
    size = PICTURE.stat().st_size
    assert size < MOST_BYTES, f"{PICTURE} has {size} bytes"


if __name__ == "__main__":
    uvloop.run(main())
