"""A real Chromium behind real proxies: many tabs on one origin need HTTP/2."""

import shutil
import time

import pytest
from playwright.async_api import async_playwright
from tests.e2e.clients import DESKTOPS
from tests.e2e.conftest import CHROMIUM, pages

pytestmark = pytest.mark.browser

TABS = 20
PER_ORIGIN = 6  # what a browser opens over HTTP/1.1
# As in test_fronts.py, and a browser with twenty tabs takes its time.
AT_ONCE_S = 1.0

OPEN = """url => {
  window.seen = [];
  window.source = new EventSource(url);
  source.onmessage = (event) => seen.push([event.lastEventId, Date.now() / 1000]);
}"""
OPENED = "source.readyState === 1"


@pytest.fixture
async def context():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM
        )
        yield await browser.new_context(ignore_https_errors=True)
        await browser.close()


async def test_twenty_tabs_over_http_2_share_one_subscription(
    simulator, user, relay, front, context
):
    site = await front(relay)
    tabs = []
    for _ in range(TABS):
        tab = await context.new_page()
        await tab.goto(f"{site.url}/tab")
        await tab.evaluate(OPEN, f"{DESKTOPS}?apiKey={user.key}")
        tabs.append(tab)
    for tab in tabs:
        await tab.wait_for_function(OPENED)
    navigation = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
    assert await tabs[-1].evaluate(navigation) == "h2"
    said_s = time.time()
    (record,) = simulator.emit(user.id, "desktops")
    for tab in tabs:
        await tab.wait_for_function("seen.length")
        ((got, at_s),) = await tab.evaluate("seen")
        assert got == record.id
        assert at_s - said_s < AT_ONCE_S
    assert simulator.open_subscriptions(user.id, "desktops") == 1
    assert simulator.subscriptions_opened() == 1
    assert relay.hub.streams == TABS


async def test_over_http_1_the_seventh_stream_of_an_origin_hangs(simulator, user, serve, context):
    """What the documents warn of: it waits until another one ends."""
    relay = await serve(simulator.url, pages({"/tab": ("text/html", "<!doctype html>")}))
    tab = await context.new_page()
    await tab.goto(f"{relay.public_url}/tab")
    await tab.evaluate(
        """url => {
          window.sources = [];
          for (let n = 0; n < 7; n += 1) sources.push(new EventSource(url));
        }""",
        f"{DESKTOPS}?apiKey={user.key}",
    )
    count = "sources.filter((one) => one.readyState === 1).length"
    await tab.wait_for_function(f"{count} === {PER_ORIGIN}")
    await tab.evaluate("sources[5].onmessage = () => { window.heard = true; }")
    simulator.emit(user.id, "desktops")
    await tab.wait_for_function("window.heard")
    assert await tab.evaluate("sources[6].readyState") == 0
    assert relay.hub.streams == PER_ORIGIN
    await tab.evaluate("sources[0].close()")
    await tab.wait_for_function("sources[6].readyState === 1")
