"""A real Chromium where things go wrong: refusals, restarts without a goodbye, other origins."""

import asyncio
import random

import pytest
from tests.e2e.clients import ACTIVITY, DESKTOPS, eventually
from tests.e2e.conftest import pages

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><title>tab</title><link rel="icon" href="data:,"><script>
const streams = {};
function open(name, url, options) {
  const source = new EventSource(url, options);
  const tab = streams[name] = { source, seen: [], told: [], opened: 0 };
  source.onopen = () => { tab.opened += 1; };
  source.onmessage = (event) => tab.seen.push(event.lastEventId);
  for (const kind of ['gap', 'closing', 'refused']) {
    source.addEventListener('relay.' + kind, (event) => {
      tab.told.push([kind, event.lastEventId, JSON.parse(event.data).payload]);
    });
  }
}
</script>"""


class Stream:
    """One EventSource in a page."""

    def __init__(self, page, name: str) -> None:
        self.page = page
        self.name = name

    async def get(self, what: str):
        return await self.page.evaluate(f"streams.{self.name}.{what}")

    async def until(self, condition: str, timeout_ms: float = 15_000) -> None:
        name = self.name
        await self.page.wait_for_function(
            f"(() => {{ const tab = streams.{name}; return {condition}; }})()", timeout=timeout_ms
        )


@pytest.fixture
async def served(serve, simulator):
    """Relays that serve the page: `served(port=…, section={…})`."""

    async def start(port: int = 0, **sections):
        return await serve(
            simulator.url, pages({"/tab": ("text/html", PAGE)}), listen={"port": port}, **sections
        )

    return start


@pytest.fixture
async def open_tab(browser):
    context = await browser.new_context()

    async def start(page_url: str, stream_url: str, name: str = "one", **options) -> Stream:
        page = await context.new_page()
        await page.goto(f"{page_url}/tab")
        await page.evaluate("([n, u, o]) => open(n, u, o)", [name, stream_url, options])
        return Stream(page, name)

    return start


def emitted(simulator, user, stream="desktops"):
    return [record.id for record in simulator.log(user.id, stream)]


async def test_both_streams_in_one_page(simulator, user, served, open_tab):
    relay = await served()
    desktops = await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={user.key}")
    await desktops.page.evaluate(f"open('two', '{ACTIVITY}?apiKey={user.key}')")
    activity = Stream(desktops.page, "two")
    for stream in (desktops, activity):
        await stream.until("tab.opened")
    simulator.emit(user.id, "desktops", 5)
    simulator.emit(user.id, "activity", 7)
    await desktops.until("tab.seen.length == 5")
    await activity.until("tab.seen.length == 7")
    assert await desktops.get("seen") == emitted(simulator, user)
    assert await activity.get("seen") == emitted(simulator, user, "activity")


async def test_five_tabs_outlive_relays_that_say_no_goodbye(simulator, user, served, open_tab):
    relay = await served()
    port = int(relay.public_url.rpartition(":")[2])
    tabs = [await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={user.key}") for _ in range(5)]
    for tab in tabs:
        await tab.until("tab.opened")
    rng = random.Random(3)
    simulator.emit(user.id, "desktops", 3)
    for tab in tabs:
        await tab.until("tab.seen.length == 3")
    for life in range(3):
        for _ in range(10):
            simulator.emit(user.id, "desktops", rng.randint(0, 5))
            await asyncio.sleep(0.01)
        await relay.stop()
        simulator.emit(user.id, "desktops", 5)
        relay = await served(port)
        for tab in tabs:
            await tab.until(f"tab.opened == {life + 2}")
    order = emitted(simulator, user)
    for tab in tabs:
        await tab.until(f"tab.seen.length >= {len(order)}")
        assert await tab.get("seen") == order
        assert await tab.get("told") == []
    assert simulator.open_subscriptions(user.id, "desktops") == 1


async def test_a_goodbye_is_heard_by_who_listens_and_is_no_message(
    simulator, user, served, open_tab
):
    relay = await served()
    port = int(relay.public_url.rpartition(":")[2])
    holder = await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={user.key}")
    await holder.until("tab.opened")
    simulator.emit(user.id, "desktops", 2)
    await holder.until("tab.seen.length == 2")
    fresh = await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={user.key}")
    await fresh.until("tab.opened")
    await relay.drain()
    await relay.stop()
    simulator.emit(user.id, "desktops", 2)
    await served(port)
    simulator.emit(user.id, "desktops", 1)
    order = emitted(simulator, user)
    await holder.until("tab.seen.length == 5")
    await fresh.until("tab.seen.length == 3")
    assert await holder.get("seen") == order
    assert await fresh.get("seen") == order[2:], "it had had no event, only the goodbye's id"
    for tab in (holder, fresh):
        # What may follow is a refusal: it may have come back before the relay was gone.
        (kind, event_id, payload), *_ = await tab.get("told")
        assert (kind, event_id, payload["reason"]) == ("closing", order[1], "draining")


async def test_a_tab_too_many_waits_its_turn_instead_of_giving_up(
    simulator, user, served, open_tab, counts
):
    relay = await served(limits={"streams_per_user": 1})
    first = await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={user.key}")
    await first.until("tab.opened")
    simulator.emit(user.id, "desktops", 1)
    await first.until("tab.seen.length == 1")
    second = await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={user.key}")
    await second.until("tab.told.length >= 1")
    kind, _, payload = (await second.get("told"))[0]
    assert (kind, payload["code"], payload["status"]) == ("refused", "too_many_streams", 429)
    assert await second.get("seen") == []
    await first.page.close()
    await counts(relay, 1, "closes_total", reason="client_gone")  # the next may be there at once
    await eventually(lambda: relay.hub.streams == 1, 15)
    simulator.emit(user.id, "desktops", 1)
    await second.until("tab.seen.length == 1")


@pytest.mark.parametrize("key", ["lb_k_wrong", "", "limited"])
async def test_what_is_final_stops_it_for_good(simulator, user, served, open_tab, key):
    relay = await served()
    key = user.limited_key if key == "limited" else key
    tab = await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={key}")
    await tab.until("tab.source.readyState == EventSource.CLOSED")
    assert await tab.get("opened") == 0


async def test_upstream_that_is_away_is_waited_for(simulator, user, served, open_tab):
    simulator.fault("500", times=1)
    relay = await served(upstream={"retry_min": 0.2, "retry_max": 0.4})
    tab = await open_tab(relay.public_url, f"{DESKTOPS}?apiKey={user.key}")
    await tab.until("tab.told.length >= 1")
    await eventually(lambda: relay.hub.streams == 1, 15)
    simulator.emit(user.id, "desktops", 1)
    await tab.until("tab.seen.length == 1")
    kind, _, payload = (await tab.get("told"))[0]
    assert (kind, payload["code"]) == ("refused", "upstream_unavailable")


@pytest.mark.parametrize("with_credentials", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
async def test_pages_of_other_origins_need_leave(
    simulator, user, served, serve, open_tab, allowed, with_credentials
):
    home = await served()
    origins = [home.public_url] if allowed else []
    relay = await serve(simulator.url, cors={"allowed_origins": origins})
    stream_url = f"{relay.public_url}{DESKTOPS}?apiKey={user.key}"
    tab = await open_tab(home.public_url, stream_url, withCredentials=with_credentials)
    if not allowed:
        await tab.until("tab.source.readyState == EventSource.CLOSED")
        assert simulator.subscriptions_opened() == 0
        return
    await tab.until("tab.opened")
    simulator.emit(user.id, "desktops", 2)
    await tab.until("tab.seen.length == 2")
    status = await tab.page.evaluate(
        """async ([url, key]) => {
          const answer = await fetch(url, { method: 'HEAD', headers: { 'x-api-key': key } });
          return answer.status;
        }""",
        [relay.public_url + DESKTOPS, user.key],
    )
    assert status == 200, "a preflight went before it"
