"""The operator console in a real Chromium: what it shows is so, and no page or event of strangers
gets more out of it than text.

Screenshots of every run are kept in `.screenshots/`.
"""

import asyncio
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright
from tests.e2e.clients import ACTIVITY, ask
from tests.e2e.conftest import CHROMIUM, pages

from lebureau_relay.edge import pulse

pytestmark = pytest.mark.browser

SHOTS = Path(__file__).parents[2] / ".screenshots"
LIGHT = {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}}
DARK = {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
HOSTILE = "<img src=x onerror=pwned=1>\u202e<script>pwned=1</script>"


@pytest.fixture
def complaints():
    """What any page has written to its console as an error, and requests that left the listener."""
    return []


@pytest.fixture
async def visit(browser, complaints):
    """Opens the console with the options of a browser context, and waits until it lives."""

    async def start(relay, path="/", **options):
        page = await (await browser.new_context(**options)).new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((relay.admin_url, "data:")) or complaints.append(request.url)
            ),
        )
        await page.goto(relay.admin_url + path)
        await page.wait_for_selector("#state[data-state=good]")
        return page

    return start


async def says(page, selector: str, words: str) -> None:
    """Wait until an element shows a text."""
    await page.wait_for_function(
        "([selector, words]) => document.querySelector(selector)?.innerText.includes(words)",
        arg=[selector, words],
    )


async def busy(relay, simulator, connect):
    """Two identities, both streams, a gap and a refusal."""
    clients = [await connect(relay) for _ in range(3)]
    clients += [await connect(relay, ACTIVITY)]
    clients += [await connect(relay, key=simulator.user(2).key)]
    simulator.emit(simulator.user(1).id, "desktops", 5)
    await connect(relay, cursor="~lbrnobody-7")
    await ask(relay.public_url, key="lb_k_wrong")
    return clients


async def test_what_it_shows_is_so(relay, simulator, connect, visit, complaints):
    page = await visit(relay)
    await says(page, "#feeds-title + .wrap + .empty", "No feed is open")
    clients = await busy(relay, simulator, connect)
    await says(page, "#subscribers", "6")
    await says(page, "#upstream", "3")
    await says(page, "#sharing", "2 ×")
    await says(page, "#identity-count", "2")
    await says(page, "#gaps", "nobody knows the id they came with")
    await says(page, "#refusals", "a bad credential")
    await says(page, "#closes", "No stream has ended")
    await says(page, "#streams", "2 solo")
    await says(page, "#replicas", "this one")
    assert await page.locator("#identities tr").count() == 2
    assert await page.locator("#feeds tr").count() == 3
    first = page.locator("#feeds tr").first
    assert [await first.locator("td").nth(n).inner_text() for n in (1, 2, 3, 4)] == [
        *("desktops", "solo", "open", "4"),
    ]
    drawn = "() => document.querySelector('#charts .first').getAttribute('d').length > 20"
    await page.wait_for_function(drawn)
    simulator.emit(simulator.user(1).id, "desktops", 400)
    await page.wait_for_function(
        "() => /[1-9]/.test(document.querySelector('#charts strong').innerText)"
    )
    clients[0].close()
    await says(page, "#closes", "the client left")
    assert complaints == []


async def test_an_identity_is_explained(relay, simulator, connect, visit, complaints):
    clients = await busy(relay, simulator, connect)
    seen = "evt_of_theirs"
    simulator.emit_event(simulator.user(2).id, "desktops", "x", {}, event_id=seen)
    await clients[-1].has(1)
    page = await visit(relay)
    button = page.locator("#identities button").first
    whole = await button.get_attribute("value")
    await button.click()
    await says(page, "#answer-title", whole)
    await says(page, "#found", "5 tabs on 2 feeds here")
    await says(page, "#details", "this replica")
    assert await page.locator("#details article").count() == 2
    assert await page.locator("#details article:first-child tbody tr").count() == 4
    assert page.url.endswith(f"#{whole}")
    await connect(relay)
    await says(page, "#found", "6 tabs")  # it is asked again by itself
    await page.keyboard.press("Escape")
    await page.wait_for_selector("#answer", state="hidden")
    assert await page.evaluate("document.activeElement.id") == "find"
    # By an event that the other one has seen, which stands in no address.
    await page.keyboard.type(seen)
    await page.keyboard.press("Enter")
    await says(page, "#found", "by an event that they have: 1 tab on 1 feed")
    assert "#" not in page.url
    await page.fill("#find", "ffff00")
    await page.keyboard.press("Enter")
    await says(page, "#found", "Nobody here")
    await page.go_back()
    await page.goto(f"{relay.admin_url}/#{whole[:6]}")
    await says(page, "#answer-title", whole)
    assert complaints == []


async def test_several_that_are_meant_are_offered(relay, simulator, connect, visit, complaints):
    for n in (1, 2):
        await connect(relay, key=simulator.user(n).key)
    shared = {simulator.emit_event(simulator.user(n).id, "desktops", "x", {}).id for n in (1, 2)}
    page = await visit(relay)
    (event,) = shared  # each account counts from one
    await page.fill("#find", event)
    await page.keyboard.press("Enter")
    await says(page, "#found", "2 identities found")
    await page.locator("#candidates button").nth(1).press("Enter")
    await says(page, "#found", "Found by the hash")
    assert await page.evaluate("document.activeElement.id") == "answer-title"
    assert complaints == []


@pytest.mark.parametrize("pasted", ["{}", "x-api-key: {}", "/api/desktops/stream?apiKey={}"])
async def test_a_key_that_is_pasted_is_not_sent(relay, simulator, visit, complaints, pasted):
    page = await visit(relay)
    sent = []
    page.on("request", lambda request: sent.append((request.url, request.post_data)))
    key = simulator.user(1).key
    await page.fill("#find", pasted.format(key))
    await page.keyboard.press("Enter")
    await says(page, "#found", "looks like a key")
    assert not [one for one in sent if key in repr(one)]
    assert await page.input_value("#find") == ""
    assert key not in page.url
    assert complaints == []


async def test_what_comes_from_strangers_is_text(raw_upstream, serve, connect, visit, complaints):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    body = f"id: {HOSTILE}\nevent: {HOSTILE}\ndata: {HOSTILE}\n\n".encode()
    raw_upstream.answers = [head + body]
    relay = await serve(raw_upstream.url)
    client = await connect(relay)
    await client.has(1)
    page = await visit(relay)
    await says(page, "#feeds", "<img src=x")
    await page.fill("#find", HOSTILE)
    await page.keyboard.press("Enter")
    await says(page, "#details .last", HOSTILE)
    await says(page, "#details td:last-child", HOSTILE)
    await page.fill("#find", f"{HOSTILE}!")
    await page.keyboard.press("Enter")
    await says(page, "#found", "Nobody here")
    assert await page.evaluate("typeof pwned") == "undefined"
    assert await page.locator("main img, #answer img, body script").count() == 0
    # Where a mistake would make markup of text, the policy stands behind it.
    refused = "() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } }"
    assert await page.evaluate(refused) == "TypeError"
    assert [one for one in complaints if "TrustedHTML" not in one and "rusted" not in one] == []


async def test_the_keyboard_is_enough(relay, connect, visit, complaints):
    await connect(relay)
    page = await visit(relay)
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("/")
    assert await page.evaluate("document.activeElement.id") == "find"
    await page.keyboard.type("p/")
    assert await page.input_value("#find") == "p/", "while one writes, letters are letters"
    await page.keyboard.press("Escape")
    await page.locator("#identities button").focus()
    ticks = await page.inner_text("#uptime")
    await page.wait_for_function(
        "before => document.querySelector('#uptime').innerText != before", arg=ticks
    )
    assert await page.evaluate("document.activeElement.className") == "hash", (
        "focus outlives a tick"
    )
    plot = page.locator("#charts .plot").first
    await page.wait_for_function(
        "() => document.querySelector('.plot').ariaValueText.startsWith('now')"
    )
    await plot.focus()
    for key in ("ArrowLeft", "ArrowLeft"):
        await page.keyboard.press(key)
    assert await plot.get_attribute("aria-valuenow") in {"-2", "-1"}, "as far back as there is"
    await says(page, "#moment", "seconds ago")
    await page.keyboard.press("End")
    await says(page, "#moment", "now")
    await page.locator("#pause").focus()
    await page.keyboard.press("Enter")
    assert await page.get_attribute("#pause", "aria-pressed") == "true"
    before = await page.inner_text("#uptime")
    await connect(relay)
    heard = await page.evaluate("""new Promise((done) => {
      const source = new EventSource('events');
      let n = 0;
      source.onmessage = () => { n += 1; if (n == 3) { source.close(); done(n); } };
    })""")
    assert heard == 3
    assert (await page.inner_text("#subscribers"), await page.inner_text("#uptime")) == (
        "1",
        before,
    )
    await page.locator("h1").click()
    await page.keyboard.press("p")
    await says(page, "#subscribers", "2")
    assert complaints == []


async def test_a_relay_that_goes_and_comes_back(simulator, serve, visit, complaints):
    relay = await serve(simulator.url)
    port = int(relay.admin_url.rpartition(":")[2])
    page = await visit(relay)
    await relay.stop()
    await page.wait_for_selector("#state[data-state=bad]")
    await says(page, "#words", "no answer")
    await serve(simulator.url, admin={"port": port})
    await page.wait_for_selector("#state[data-state=good]")
    assert [one for one in complaints if "ERR_" not in one] == [], "a browser tells of its network"


async def test_a_console_too_many_says_so(relay, visit, browser, monkeypatch):
    monkeypatch.setattr(pulse, "MAX_CONSOLES", 1)
    await visit(relay)
    second = await browser.new_page()
    await second.goto(relay.admin_url)
    await says(second, "#words", "1 consoles are open already.")


@pytest.mark.parametrize(
    ("name", "options"), {"light": LIGHT, "dark": DARK, "phone": PHONE}.items()
)
async def test_everybody_can_read_it(
    relay, simulator, connect, visit, complaints, monkeypatch, name, options
):
    monkeypatch.setattr(pulse, "PERIOD_S", 0.02)  # minutes of charts in seconds
    await busy(relay, simulator, connect)
    for n in range(60):
        simulator.emit(simulator.user(1).id, "desktops", n % 7)
        await asyncio.sleep(0.02)
    monkeypatch.setattr(pulse, "PERIOD_S", 1.0)
    page = await visit(relay, **options, reduced_motion="reduce")
    await page.locator("#identities button").first.click()
    await says(page, "#details", "this replica")
    await page.wait_for_function(
        "() => document.querySelector('#charts .first').getAttribute('d').length > 20"
    )
    SHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SHOTS / f"console-{name}.png", full_page=True)
    wide, seen = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen, "nothing sticks out"
    moving = """() => [...document.querySelectorAll('*')].map((one) => getComputedStyle(one))
      .filter((style) => style.animationName != 'none' || style.transitionDuration != '0s').length
    """
    assert await page.evaluate(moving) == 0
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert complaints == []


TRIES = """async (admin) => {
  const results = {};
  const attempt = async (name, path, options) => {
    results[name] = await fetch(admin + path, options).then(() => 'read', () => 'refused');
  };
  await attempt('read', '/status');
  await attempt('search', '/explain', { method: 'POST', body: '{"find":"0"}' });
  const headers = { authorization: 'Bearer x' };
  await attempt('order', '/operator/end', { method: 'POST', headers, body: '{}' });
  results.stream = await new Promise((done) => {
    const source = new EventSource(admin + '/events');
    source.onmessage = () => done('read');
    source.onerror = () => done('refused');
  });
  results.script = await new Promise((done) => {
    const script = document.createElement('script');
    script.src = admin + '/console.js';
    script.onload = () => done('loaded');
    script.onerror = () => done('refused');
    document.head.append(script);
  });
  return results;
}"""


async def test_pages_of_other_origins_get_nothing(simulator, serve, browser, counts):
    relay = await serve(simulator.url, pages({"/evil": ("text/html", "<title>evil</title>")}))
    page = await browser.new_page()
    await page.goto(f"{relay.public_url}/evil")
    assert await page.evaluate(TRIES, relay.admin_url) == dict.fromkeys(
        ("read", "search", "order", "stream", "script"), "refused"
    )
    # Not even what needs no leave of the other side comes back, or does anything.
    blind = """async (admin) => {
      const options = { method: 'POST', mode: 'no-cors', body: '{}' };
      return fetch(`${admin}/explain`, options).then(() => 'read', () => 'refused');
    }"""
    assert await page.evaluate(blind, relay.admin_url) == "refused"
    await counts(relay, 5, "refusals_total", code="forbidden")
    frame = """(admin) => new Promise((done) => {
      const frame = document.createElement('iframe');
      frame.src = admin;
      frame.onload = done;
      document.body.append(frame);
    })"""
    await page.evaluate(frame, relay.admin_url)
    assert [one.url for one in page.frames[1:] if one.url.startswith(relay.admin_url)] == []


async def test_a_name_that_was_bound_to_this_address_gets_no_console(relay):
    port = relay.admin_url.rpartition(":")[2]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*CHROMIUM, "--host-resolver-rules=MAP evil.example 127.0.0.1"],
        )
        page = await browser.new_page()
        answer = await page.goto(f"http://evil.example:{port}/")
        assert answer.status == 403
        tried = """Promise.all(
          ['/status', '/events', '/'].map((path) => fetch(path).then((answer) => answer.status))
        )"""
        assert await page.evaluate(tried) == [403, 403, 403]
        assert (await page.goto(f"http://evil.example:{port}/healthz")).status == 200
        await browser.close()


@pytest.mark.server
async def test_replicas_and_owners_are_seen_through_redis(
    simulator, serve, valkey, connect, visit, complaints
):
    shared = {"redis": {"url": valkey.url, "hash_secret": "s" * 16, "lease_ttl": 1.5}}
    first, second = [await serve(simulator.url, **shared) for _ in range(2)]
    await connect(first)
    await connect(second)
    page = await visit(second)
    await says(page, "#replicas-shown", "2 seen through Redis")
    names = {
        await page.locator(f"#replicas tr:nth-child({n}) td").first.inner_text() for n in (1, 2)
    }
    own = first._deployment.name
    assert names == {own, second._deployment.name}
    await page.locator("#feeds button").first.click()
    await says(page, "#details .role", "follower")
    await says(page, "#details .owner", own)
    assert complaints == []
