"""The browser module in a real Chromium: one connection for all tabs, whatever becomes of them."""

import asyncio
import shutil
import subprocess
import time

import pytest
from aiohttp import web
from playwright.async_api import async_playwright
from tests.broker.proxy import Proxy
from tests.e2e.clients import ACTIVITY, DESKTOPS, eventually
from tests.e2e.conftest import CHROMIUM, pages

pytestmark = pytest.mark.browser

# `streams.NAME`: what an application would have heard.
PAGE = """<!doctype html><title>tab</title><link rel="icon" href="data:,"><script type="module">
import { connect } from '%s/relay/client.js';
const names = ['message', 'desktop.status', 'state', 'gap', 'refused'];
window.streams = {};
window.open_ = (name, url, options) => {
  const stream = connect(url, options);
  const tab = { stream, seen: [], states: [], gaps: [], refusals: [], own: 0 };
  window.streams[name] = tab;
  stream.addEventListener('message', (event) => tab.seen.push(event.lastEventId));
  stream.addEventListener('desktop.status', () => (tab.own += 1));
  stream.addEventListener('news', (event) => (tab.news = event.data));
  stream.addEventListener('state', ({ data }) => tab.states.push(data.state));
  stream.addEventListener('gap', ({ data }) => tab.gaps.push(data.cause));
  stream.addEventListener('refused', ({ data }) => tab.refusals.push(data));
};
window.ready = true;
</script>"""
WITHOUT_WORKER = "delete globalThis.SharedWorker"
# An address that no browser takes for this machine, so plain http to it is no secure context.
ELSEWHERE = "relay.example"
# What takes the module 16 s takes it 2 s.
HASTE = "const wait = setInterval; globalThis.setInterval = (call, ms) => wait(call, ms / 8)"
MODES = pytest.mark.parametrize("worker", [True, False], ids=["worker", "leader"])


class Tab:
    """One stream of the module's in one page."""

    def __init__(self, page, name: str) -> None:
        self.page = page
        self.name = name

    async def get(self, what: str):
        return await self.page.evaluate(f"streams.{self.name}.{what}")

    async def until(self, condition: str, timeout_ms: float = 20_000) -> None:
        name = self.name
        try:
            await self.page.wait_for_function(
                f"(() => {{ const tab = streams.{name}; return {condition}; }})()",
                timeout=timeout_ms,
            )
        except Exception as error:
            tab = await self.page.evaluate(
                f"JSON.stringify([streams.{name}, streams.{name}.stream.mode,"
                f" streams.{name}.stream.reason])"
            )
            raise AssertionError(f"not {condition}: {tab}") from error


class Tabs:
    """The tabs of one browser; what their consoles and failures said."""

    def __init__(self, context) -> None:
        self.context = context
        self.complaints: list[str] = []

    async def page(self, url: str):
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)
        await page.goto(f"{url}/tab")
        await page.wait_for_function("window.ready")
        return page

    async def open(self, url: str, path: str = DESKTOPS, name: str = "one", **options) -> Tab:
        page = await self.page(url)
        await page.evaluate("([n, u, o]) => open_(n, u, o)", [name, path, options])
        return Tab(page, name)

    def _heard(self, message) -> None:
        # A refusal or an outage is a line of the browser's own.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One Chromium for all tests here, since its start costs more than most of them: its address.

    Contexts share nothing, and each test has its own.
    """
    profile = tmp_path_factory.mktemp("profile")
    binary = shutil.which("chromium")
    assert binary is not None
    options = ["--headless", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    options += [f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"]
    process = subprocess.Popen(
        [binary, *CHROMIUM, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    told = profile / "DevToolsActivePort"
    until_s = time.monotonic() + 30
    while not (told.exists() and told.read_text().count("\n")):
        assert process.poll() is None
        assert time.monotonic() < until_s, "no Chromium"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{told.read_text().split()[0]}"
    process.terminate()
    process.wait(30)


@pytest.fixture
async def browser(chromium):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium)
        yield browser
        await browser.close()


@pytest.fixture
async def browse(browser):
    opened = []

    async def start(*, worker: bool = True) -> Tabs:
        context = await browser.new_context()
        if not worker:
            await context.add_init_script(f"{WITHOUT_WORKER}; {HASTE}")
        opened.append(Tabs(context))
        return opened[-1]

    yield start
    for tabs in opened:
        await tabs.context.close()
    assert [text for tabs in opened for text in tabs.complaints] == []


@pytest.fixture
async def served(serve, simulator):
    """Relays that serve the page: `served(port=…, section={…})`."""

    async def start(port: int = 0, module: str = "", **sections):
        show = pages({"/tab": ("text/html", PAGE % module)})
        return await serve(simulator.url, show, listen={"port": port}, **sections)

    return start


def port_of(relay) -> int:
    return int(relay.public_url.rpartition(":")[2])


def emitted(simulator, user, stream="desktops") -> list[str]:
    return [record.id for record in simulator.log(user.id, stream)]


async def all_have(tabs, simulator, user) -> None:
    """Every event once, in order, in every tab."""
    order = emitted(simulator, user)
    for tab in tabs:
        await tab.until(f"tab.seen.length >= {len(order)}")
    for tab in tabs:
        assert await tab.get("seen") == order


def subscribed(relay) -> dict[str, int]:
    """Open streams, by name, where there are any."""
    return {name: count for name, count in relay.hub.facts().streams.items() if count}


async def crash(browser, tab) -> None:
    """The process of a tab is no more."""
    session = await browser.context.new_cdp_session(tab.page)
    gone = asyncio.Event()
    tab.page.on("crash", lambda _page: gone.set())
    order = asyncio.ensure_future(session.send("Page.crash"))
    order.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait_for(gone.wait(), 20)


@MODES
@pytest.mark.timeout(120)
async def test_twenty_tabs_are_one_connection_also_over_a_restart(
    simulator, user, served, browse, worker
):
    relay = await served()
    browser = await browse(worker=worker)
    count = 20 if worker else 8  # of more, Chromium would be most of this test
    tabs = [await browser.open(relay.public_url, key=user.key) for _ in range(count)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    modes = [await tab.get("stream.mode") for tab in tabs]
    assert modes == (["worker"] * 20 if worker else ["leader"] + ["follower"] * 7)
    simulator.emit(user.id, "desktops", 5)
    await all_have(tabs, simulator, user)
    assert (relay.hub.streams, simulator.open_subscriptions()) == (1, 1)
    simulator.cut_all()
    simulator.emit(user.id, "desktops", 5)
    await relay.drain()
    await relay.stop()
    simulator.emit(user.id, "desktops", 5)
    again = await served(port_of(relay))
    await eventually(lambda: again.hub.streams == 1, 20)
    simulator.emit(user.id, "desktops", 5)
    await all_have(tabs, simulator, user)
    own = sum("desktop.status" in one.data for one in simulator.log(user.id, "desktops"))
    for tab in tabs:
        assert await tab.get("gaps") == []
        assert await tab.get("own") == own
    assert (again.hub.streams, simulator.open_subscriptions()) == (1, 1)


@MODES
async def test_tabs_come_and_go_and_the_last_one_ends_it(simulator, user, served, browse, worker):
    relay = await served()
    browser = await browse(worker=worker)
    first = await browser.open(relay.public_url, key=user.key)
    other = await browser.open(relay.public_url, ACTIVITY, key=user.key)  # so a worker lives on
    await eventually(lambda: relay.hub.streams == 2, 20)
    await first.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 2)
    await first.until("tab.seen.length == 2")
    late = await browser.open(relay.public_url, key=user.key)
    await late.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 2)
    order = emitted(simulator, user)
    await late.until("tab.seen.length == 2")
    assert await late.get("seen") == order[2:], "it joined after the first two"
    await first.page.close()
    await eventually(lambda: relay.hub.streams == 2, 20)
    simulator.emit(user.id, "desktops", 2)
    await late.until("tab.seen.length == 4")
    assert await late.get("seen") == emitted(simulator, user)[2:]
    await late.page.evaluate("streams.one.stream.close()")
    await eventually(lambda: relay.hub.streams == 1, 20)
    assert await late.get("stream.state") == "closed"
    await other.page.close()
    await eventually(lambda: relay.hub.streams == 0, 20)


async def test_a_tab_that_crashes_is_forgotten(simulator, user, served, browse):
    """No pagehide is heard of it. Its process may be the worker's, too, and then another worker
    takes over.
    """
    relay = await served()
    browser = await browse()
    other = await browser.open(relay.public_url, ACTIVITY, key=user.key)
    doomed = await browser.open(relay.public_url, key=user.key)
    for tab, stream in ((other, "activity"), (doomed, "desktops")):
        await tab.until("tab.stream.state === 'open'")
        simulator.emit(user.id, stream, 1)
        await tab.until("tab.seen.length == 1")
    await crash(browser, doomed)
    simulator.emit(user.id, "activity", 1)
    await eventually(lambda: subscribed(relay) == {"activity": 1}, 20)
    simulator.emit(user.id, "activity", 1)
    await other.until("tab.seen.length == 3")
    assert await other.get("seen") == emitted(simulator, user, "activity")
    assert await other.get("gaps") == []


async def test_a_worker_that_dies_is_replaced(simulator, user, served, browse, browser):
    """The tabs know where they were; the new one goes on from there."""
    relay = await served()
    mine = await browse()
    # Ticks would tell after 16 s, and not at all in a hidden tab; the worker's lock tells at once.
    await mine.context.add_init_script("globalThis.setInterval = () => 0")
    tabs = [await mine.open(relay.public_url, key=user.key) for _ in range(2)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 3)
    await all_have(tabs, simulator, user)
    session = await browser.new_browser_cdp_session()
    targets = (await session.send("Target.getTargets", {"filter": [{}]}))["targetInfos"]
    (worker,) = [each for each in targets if each["type"] == "shared_worker"]
    await session.send("Target.closeTarget", {"targetId": worker["targetId"]})
    simulator.emit(user.id, "desktops", 3)
    await eventually(lambda: relay.hub.streams == 1, 20)
    simulator.emit(user.id, "desktops", 3)
    await all_have(tabs, simulator, user)
    for tab in tabs:
        assert (await tab.get("gaps"), await tab.get("stream.mode")) == ([], "worker")


@pytest.mark.parametrize("farewell", ["close", "crash", "wedge"])
async def test_another_tab_takes_over_from_a_leader(simulator, user, served, browse, farewell):
    """Closed, crashed, or alive and doing nothing any more: nothing lost, nothing twice."""
    relay = await served()
    browser = await browse(worker=False)
    tabs = [await browser.open(relay.public_url, key=user.key) for _ in range(3)]
    leader, *rest = tabs
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    assert await leader.get("stream.mode") == "leader"
    simulator.emit(user.id, "desktops", 5)
    await all_have(tabs, simulator, user)
    if farewell == "close":
        await leader.page.close()
    elif farewell == "crash":
        await crash(browser, leader)
    else:
        session = await browser.context.new_cdp_session(leader.page)
        await session.send("Debugger.enable")
        await session.send("Debugger.pause")
        stuck = asyncio.ensure_future(leader.page.evaluate("1"))
    await rest[0].page.bring_to_front()
    for _ in range(10):
        simulator.emit(user.id, "desktops", 1)
        await asyncio.sleep(0.02)
    await all_have(rest, simulator, user)
    assert sorted([await tab.get("stream.mode") for tab in rest]) == ["follower", "leader"]
    if farewell == "wedge":
        await session.send("Debugger.resume")
        await stuck
        await leader.until("tab.stream.mode === 'follower'")
        simulator.emit(user.id, "desktops", 1)
        await all_have(tabs, simulator, user)
        assert await leader.get("gaps") == []
    for tab in rest:
        assert await tab.get("gaps") == []
    await eventually(lambda: relay.hub.streams == 1, 20)


@MODES
async def test_a_soft_refusal_is_waited_out(simulator, user, served, browse, connect, worker):
    """`onopen` fires for it, but the module never says that it is open; a late tab hears of it."""
    relay = await served(limits={"streams_per_user": 1})
    first = await connect(relay)
    browser = await browse(worker=worker)
    tabs = [await browser.open(relay.public_url, key=user.key)]
    await tabs[0].until("tab.refusals.length")
    tabs.append(await browser.open(relay.public_url, key=user.key))
    for tab in tabs:
        await tab.until("tab.refusals.length && tab.stream.state === 'waiting'")
        refusal = (await tab.get("refusals"))[0]
        assert (refusal["code"], refusal["status"]) == ("too_many_streams", 429)
        assert refusal["retryAfter"] >= 1
        assert "open" not in await tab.get("states")
    first.close()
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 2)
    await all_have(tabs, simulator, user)
    assert relay.hub.streams == 1


async def test_it_waits_longer_from_refusal_to_refusal(simulator, user, served, browse, log):
    relay = await served(limits={"streams_per_user": 1}, stream={"retry": 0.05})
    page = await (await browse()).page(relay.public_url)
    await page.evaluate("k => { open_('one', '/api/desktops/stream', {key: k}) }", user.key)
    one = Tab(page, "one")
    await one.until("tab.stream.state === 'open'")
    # another connection of the same identity: a user of its own
    path = f"{DESKTOPS}?apiKey={user.key}"
    await page.evaluate("u => { open_('two', u, {user: 'another'}) }", path)
    two = Tab(page, "two")
    await two.until("tab.refusals.length")
    await eventually(lambda: len([x for x in log if x["event"] == "request.refused"]) >= 3, 20)
    await asyncio.sleep(2)  # after the third try it waits for 4 s at least, and not for 1
    assert len([x for x in log if x["event"] == "request.refused"]) == 3


@MODES
async def test_a_final_refusal_ends_it_in_every_tab_with_its_reason(
    simulator, user, served, browse, worker
):
    relay = await served(auth={"recheck_interval": 0.3})
    browser = await browse(worker=worker)
    tabs = [await browser.open(relay.public_url, key=user.key) for _ in range(3)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    simulator.revoke(user.key)
    for tab in tabs:
        await tab.until("tab.stream.state === 'closed'")
        reason = await tab.get("stream.reason")
        assert (reason["status"], reason["code"]) == (401, "invalid_credential")
    asked = len(simulator.requests)
    # A page of somebody who has logged in again isn't told of the old end.
    await tabs[0].page.evaluate("k => open_('two', '/api/desktops/stream', {key: k})", user.keys[1])
    again = Tab(tabs[0].page, "two")
    await again.until("tab.stream.state === 'open'")
    assert relay.hub.streams == 1
    assert len(simulator.requests) - asked <= 2, "nobody comes back with what was revoked"


async def test_an_answer_that_an_eventsource_gives_up_at_is_asked_for_its_reason(
    simulator, user, served, browse
):
    """502 has no soft form: native code stops for ever, the module comes back."""
    simulator.fault("404")
    relay = await served()
    tab = await (await browse()).open(relay.public_url, key=user.key)
    await tab.until("tab.refusals.length")
    assert (await tab.get("refusals"))[0]["code"] == "upstream_error"
    simulator.clear_faults()
    await tab.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 1)
    await tab.until("tab.seen.length == 1")


@MODES
async def test_a_gap_is_told_in_every_tab_once(simulator, user, served, browse, worker):
    relay = await served()
    browser = await browse(worker=worker)
    tabs = [await browser.open(relay.public_url, key=user.key) for _ in range(3)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 2)
    await all_have(tabs, simulator, user)
    simulator.fault("cursor_ignored:live", times=1)
    opened = simulator.subscriptions_opened()
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() > opened, 20)
    simulator.emit_event(user.id, "desktops", "news", {"after": "the gap"})
    for tab in tabs:
        await tab.until("tab.news && tab.gaps.length")
        assert await tab.get("gaps") == ["upstream"]
        assert await tab.get("news") == {"after": "the gap"}
        assert len(await tab.get("seen")) == 3


@MODES
async def test_offline_and_back(simulator, user, served, browse, worker):
    """The road between browser and relay is closed, and what was on it is lost."""
    relay = await served()
    road = Proxy(port_of(relay))
    await road.start()
    url = road.url.replace("redis:", "http:")
    browser = await browse(worker=worker)
    tabs = [await browser.open(url, key=user.key) for _ in range(2)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 2)
    await all_have(tabs, simulator, user)
    road.mute_all = True
    road.cut()
    for tab in tabs:
        await tab.until("tab.stream.state === 'connecting'")
    simulator.emit(user.id, "desktops", 3)
    road.mute_all = False
    road.cut()
    await all_have(tabs, simulator, user)
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
        assert await tab.get("gaps") == []
    await browser.context.close()
    await road.close()


@MODES
async def test_a_page_out_of_the_browsers_memory_hears_what_it_missed(
    simulator, user, served, browse, worker
):
    """As the back button brings it: from the others' memory, or it is told that this was short."""
    relay = await served()
    browser = await browse(worker=worker)
    tabs = [await browser.open(relay.public_url, key=user.key) for _ in range(2)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 2)
    await all_have(tabs, simulator, user)
    other, frozen = tabs if worker else tabs[::-1]  # a leader that goes is followed by the other
    away = "dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))"
    back = "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
    await frozen.page.evaluate(away)
    if not worker:
        await other.until("tab.stream.mode === 'leader'")
    simulator.emit(user.id, "desktops", 200)
    await all_have([other], simulator, user)
    assert len(await frozen.get("seen")) == 2
    await frozen.page.evaluate(back)
    await all_have(tabs, simulator, user)
    assert await frozen.get("gaps") == []
    await frozen.page.evaluate(away)
    simulator.emit(user.id, "desktops", 300)
    await all_have([other], simulator, user)
    await frozen.page.evaluate(back)
    await frozen.until("tab.gaps.length")
    simulator.emit(user.id, "desktops", 1)
    await all_have([other], simulator, user)
    await frozen.until("tab.seen.length >= 203")
    seen, order = await frozen.get("seen"), emitted(simulator, user)
    assert seen == [*order[:202], order[-1]]
    assert await frozen.get("gaps") == ["away"]
    assert relay.hub.streams == 1


async def test_a_break_before_the_first_event_is_told(simulator, user, served, browse):
    """There is no id to come back with, so nobody can say that nothing was lost."""
    relay = await served()
    tab = await (await browse(worker=False)).open(relay.public_url, key=user.key)
    await tab.until("tab.stream.state === 'open'")
    await tab.page.evaluate("dispatchEvent(new Event('online'))")
    await tab.until("tab.gaps.length")
    assert await tab.get("gaps") == ["no_id"]
    assert await tab.get("states") == ["open", "connecting", "open"]


async def test_the_network_coming_back_is_heard(simulator, user, served, browse):
    """A browser that says `online` is not waited with until a timer ends."""
    relay = await served(limits={"streams_per_user": 1})
    browser = await browse(worker=False)
    tab = await browser.open(relay.public_url, key=user.key)
    await tab.until("tab.stream.state === 'open'")
    simulator.emit(user.id, "desktops", 1)
    await all_have([tab], simulator, user)
    await browser.context.set_offline(True)
    await tab.page.evaluate("addEventListener('online', () => { window.back = true; })")
    await relay.hub.drain(0)
    await eventually(lambda: relay.hub.streams == 0)
    simulator.emit(user.id, "desktops", 2)
    await browser.context.set_offline(False)
    await tab.until("window.back")
    await all_have([tab], simulator, user)


@MODES
async def test_what_differs_is_not_shared_and_no_key_stands_in_a_name(
    simulator, user, served, browse, worker
):
    relay = await served()
    page = await (await browse(worker=worker)).page(relay.public_url)
    asks = {
        "one": (DESKTOPS, {"key": user.key}),
        "same": (f"{relay.public_url}{DESKTOPS}?apiKey={user.key}", {}),
        "key": (DESKTOPS, {"key": user.keys[1]}),
        "user": (DESKTOPS, {"key": user.key, "user": "ada"}),
        "cookies": (DESKTOPS, {"key": user.key, "withCredentials": True}),
        "stream": (ACTIVITY, {"key": user.key}),
    }
    for name, (path, options) in asks.items():
        await page.evaluate("([n, u, o]) => { open_(n, u, o) }", [name, path, options])
    for name in asks:
        await Tab(page, name).until("tab.stream.state === 'open'")
    assert relay.hub.streams == len(asks) - 1
    names = await page.evaluate(
        """async () => {
          const { held, pending } = await navigator.locks.query();
          const stores = [localStorage, sessionStorage, await indexedDB.databases()];
          return JSON.stringify([held, pending, stores, document.cookie]);
        }"""
    )
    assert "lb_k_" not in names
    assert names.count('"name"') >= (1 if worker else len(asks))


async def test_a_page_of_another_origin_shares_by_a_leader(simulator, user, served, serve, browse):
    """`new SharedWorker` wants the page's own origin; nobody has to think of that."""
    port = 0
    relay = await serve(simulator.url)
    home = await served(module=relay.public_url)
    port = port_of(relay)
    await relay.stop()
    relay = await serve(
        simulator.url, listen={"port": port}, cors={"allowed_origins": [home.public_url]}
    )
    browser = await browse()
    url = f"{relay.public_url}{DESKTOPS}"
    tabs = [await browser.open(home.public_url, url, key=user.key) for _ in range(3)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
    assert [await tab.get("stream.mode") for tab in tabs] == ["leader", "follower", "follower"]
    simulator.emit(user.id, "desktops", 3)
    await all_have(tabs, simulator, user)
    assert relay.hub.streams == 1
    # A copy of the file on the page's own origin, which this page has anyway, gives it the worker.
    options = {"key": user.key, "worker": "/relay/client.js"}
    tab = await browser.open(home.public_url, url, **options)
    await tab.until("tab.stream.state === 'open'")
    assert await tab.get("stream.mode") == "worker"


async def test_a_policy_against_workers_leaves_the_leader(simulator, user, serve, browse):
    def show(app):
        scripts = "script-src 'self' 'unsafe-inline' 'unsafe-eval'"
        policy = f"default-src 'none'; {scripts}; connect-src 'self'; worker-src 'none'"
        headers = {"Content-Security-Policy": policy}

        async def page(_request):
            return web.Response(text=PAGE % "", content_type="text/html", headers=headers)

        app.router.add_get("/tab", page)

    relay = await serve(simulator.url, show)
    browser = await browse()
    tab = await browser.open(relay.public_url, key=user.key)
    await tab.until("tab.stream.state === 'open'")
    assert await tab.get("stream.mode") == "leader"
    assert all("Content Security Policy" in text for text in browser.complaints)
    browser.complaints.clear()


async def test_a_page_without_locks_has_a_stream_of_its_own(simulator, user, served, browse):
    """Like one on plain http somewhere else than this machine."""
    relay = await served()
    browser = await browse(worker=False)
    await browser.context.add_init_script("delete Navigator.prototype.locks")
    tabs = [await browser.open(relay.public_url, key=user.key) for _ in range(2)]
    for tab in tabs:
        await tab.until("tab.stream.state === 'open'")
        assert await tab.get("stream.mode") == "alone"
    simulator.emit(user.id, "desktops", 2)
    await all_have(tabs, simulator, user)
    assert (relay.hub.streams, simulator.open_subscriptions()) == (2, 1)


async def test_a_sandboxed_frame_has_a_stream_of_its_own(simulator, user, served, browse):
    """It has no origin, so neither worker nor lock; and the relay lets no such page in: the module
    says that it waits, and throws nothing.
    """
    relay = await served()
    browser = await browse()
    page = await browser.page(relay.public_url)
    await page.evaluate(
        """() => new Promise((resolve) => {
          const frame = document.createElement('iframe');
          frame.sandbox = 'allow-scripts';
          frame.src = location.href;
          frame.onload = resolve;
          document.body.append(frame);
        })"""
    )
    frame = page.frames[1]
    await frame.wait_for_function("window.ready")
    await frame.evaluate("k => { open_('one', '/api/desktops/stream', {key: k}) }", user.key)
    await frame.wait_for_function("streams.one.stream.state === 'waiting'", timeout=20_000)
    assert await frame.evaluate("streams.one.stream.mode") == "alone"
    browser.complaints[:] = [text for text in browser.complaints if "CORS" not in text]


async def test_plain_http_has_neither_locks_nor_soft_refusals(simulator, user, served, browse):
    """A browser doesn't say there that it is one, so refusals are hard. Who leaves says so."""
    relay = await served(limits={"streams_per_user": 2})
    url = relay.public_url.replace("127.0.0.1", ELSEWHERE)
    browser = await browse()
    other = await browser.open(url, ACTIVITY, key=user.key)
    tabs = [await browser.open(url, key=user.key) for _ in range(2)]
    for tab in (other, *tabs):
        await tab.until("tab.stream.state === 'open'")
        assert await tab.get("stream.mode") == "worker"
        assert await tab.page.evaluate("navigator.locks") is None
    assert subscribed(relay) == {"activity": 1, "desktops": 1}
    simulator.emit(user.id, "desktops", 2)
    await all_have(tabs, simulator, user)
    await other.page.evaluate("k => open_('more', '/api/desktops/stream?x=1', {key: k})", user.key)
    more = Tab(other.page, "more")
    await more.until("tab.refusals.length")
    assert (await more.get("refusals"))[0]["code"] == "too_many_streams"
    assert await more.get("stream.state") == "waiting"
    for tab in tabs:
        await tab.page.close()
    await more.until("tab.stream.state === 'open'")
    assert subscribed(relay) == {"activity": 1, "desktops": 1}
