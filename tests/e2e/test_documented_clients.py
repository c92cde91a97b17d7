"""The clients of the API's documentation, unchanged: Chromium, Node's fetch, requests, curl."""

import asyncio
import json
import shutil
import sys

import httpx
import pytest
from httpx_sse import aconnect_sse
from tests.e2e.clients import DESKTOPS, eventually
from tests.e2e.conftest import pages

# As the documentation has it, but for the recording: unnamed messages, JSON with type and payload.
PAGE = """<!doctype html><title>tab</title><link rel="icon" href="data:,"><script>
window.seen = [];
window.told = [];
const key = new URLSearchParams(location.search).get('key');
const stream = new EventSource('/api/desktops/stream' + (key ? '?apiKey=' + key : ''));
stream.onmessage = (event) => {
  const data = JSON.parse(event.data);
  window.seen.push(event.lastEventId + ' ' + data.type);
};
stream.addEventListener('relay.gap', (event) => window.told.push(event.data));
stream.onerror = () => {};
window.stream = stream;
</script>"""

NODE = """
const response = await fetch(process.argv[2], { headers: { 'x-api-key': process.env.KEY } });
const reader = response.body.getReader();
const decoder = new TextDecoder();
while (true) {
  const { done, value } = await reader.read();
  if (done) break;
  for (const line of decoder.decode(value).split('\\n')) {
    if (line.startsWith('data: ')) {
      const { type, payload } = JSON.parse(line.slice(6));
      console.log(type, payload.id ?? payload.n);
    }
  }
}
"""

PYTHON = """
import json, os, requests, sys
response = requests.get(sys.argv[1], headers={"x-api-key": os.environ["KEY"]}, stream=True)
for line in response.iter_lines():
    if line.startswith(b"data: "):
        event = json.loads(line[6:])
        print(event["type"], event["payload"].get("id", event["payload"].get("n")), flush=True)
"""


@pytest.fixture
async def run():
    """Starts a program that reads a stream; its lines so far."""
    running = []

    async def start(*command: str, **env: str) -> list[str]:
        process = await asyncio.create_subprocess_exec(
            *command, env=env | {"PATH": "/usr/bin:/bin"}, stdout=asyncio.subprocess.PIPE
        )
        lines: list[str] = []

        async def read():
            while line := await process.stdout.readline():
                lines.append(line.decode().rstrip())

        running.append((process, asyncio.ensure_future(read())))
        return lines

    yield start
    for process, reading in running:
        process.kill()
        await process.wait()
        await reading


async def seen(page) -> list[str]:
    return await page.evaluate("window.seen")


async def all_have(tabs, count: int, timeout_s: float = 20.0) -> list[list[str]]:
    async with asyncio.timeout(timeout_s):
        while True:
            got = [await seen(tab) for tab in tabs]
            if all(len(one) >= count for one in got):
                return got
            await asyncio.sleep(0.05)


def emitted(simulator, user) -> list[str]:
    return [
        f"{one.id} {json.loads(one.data)['type']}" for one in simulator.log(user.id, "desktops")
    ]


async def test_five_tabs_share_one_upstream_and_survive_a_restart(
    serve, simulator, user, browser
) -> None:
    """All see the same events in the same order, also across a restart of the relay."""
    show = pages({"/tab": ("text/html", PAGE)})
    relay = await serve(simulator.url, show)
    port = int(relay.public_url.rpartition(":")[2])
    context = await browser.new_context()
    tabs = [await context.new_page() for _ in range(5)]
    for tab in tabs:
        await tab.goto(f"{relay.public_url}/tab?key={user.key}")
    await eventually(lambda: relay.hub.streams == 5, 20)
    assert simulator.open_subscriptions(user.id, "desktops") == 1
    simulator.emit(user.id, "desktops", 20)
    await all_have(tabs, 20)
    await relay.drain()
    await relay.stop()
    simulator.emit(user.id, "desktops", 10)  # while nobody is there
    again = await serve(simulator.url, show, listen={"port": port})
    await eventually(lambda: again.hub.streams == 5, 20)
    simulator.emit(user.id, "desktops", 10)
    for got in await all_have(tabs, 40):
        assert got == emitted(simulator, user)
    assert [await tab.evaluate("window.told") for tab in tabs] == [[]] * 5
    await eventually(lambda: simulator.open_subscriptions(user.id, "desktops") == 1)


async def test_a_browser_with_the_session_cookie(serve, simulator, user, browser) -> None:
    relay = await serve(simulator.url, pages({"/tab": ("text/html", PAGE)}))
    url = relay.public_url.replace("127.0.0.1", "localhost")
    name, _, value = user.cookie.partition("=")
    context = await browser.new_context()
    cookie = {"name": name, "value": value, "domain": "localhost", "path": "/", "secure": True}
    await context.add_cookies([cookie])
    tab = await context.new_page()
    await tab.goto(f"{url}/tab")
    await eventually(lambda: relay.hub.streams == 1, 20)
    simulator.emit(user.id, "desktops", 3)
    (got,) = await all_have([tab], 3)
    assert got == emitted(simulator, user)
    await tab.evaluate("stream.close()")
    await eventually(lambda: relay.hub.streams == 0)


async def test_nodes_naive_loop_survives_bursts(relay, simulator, user, run, tmp_path) -> None:
    """It dies of a JSON line cut at a chunk border, so no frame may ever be."""
    script = tmp_path / "read.mjs"
    script.write_text(NODE)
    lines = await run(shutil.which("node"), str(script), relay.public_url + DESKTOPS, KEY=user.key)
    await eventually(lambda: relay.hub.streams == 1, 20)
    for number in range(0, 600, 60):
        for n in range(number, number + 60):  # some 600 bytes each: several writes of 16 KiB
            simulator.emit_event(user.id, "desktops", "news", {"n": n, "text": "é" * 300})
        await eventually(lambda want=number + 60: len(lines) >= want, 20)
    assert lines == [f"news {n}" for n in range(600)]


async def test_nodes_naive_loop_reads_the_goodbye_as_an_event_and_ends(
    relay, simulator, user, run, tmp_path
) -> None:
    """What the relay says has the shape of every other event, or this client would die of it."""
    script = tmp_path / "read.mjs"
    script.write_text(NODE + "console.log('the end');")
    lines = await run(shutil.which("node"), str(script), relay.public_url + DESKTOPS, KEY=user.key)
    await eventually(lambda: relay.hub.streams == 1, 20)
    simulator.emit_event(user.id, "desktops", "news", {"n": 1})
    await eventually(lambda: lines)
    await relay.drain()
    await eventually(lambda: lines[-1] == "the end", 20)
    assert lines == ["news 1", "relay.closing undefined", "the end"]


async def test_pythons_requests(relay, simulator, user, run) -> None:
    lines = await run(sys.executable, "-c", PYTHON, relay.public_url + DESKTOPS, KEY=user.key)
    await eventually(lambda: relay.hub.streams == 1, 20)
    for n in range(50):
        simulator.emit_event(user.id, "desktops", "news", {"n": n, "text": "x" * 200})
    await eventually(lambda: len(lines) >= 50, 20)
    assert lines == [f"news {n}" for n in range(50)]


async def test_curl_shows_each_event_at_once(relay, simulator, user, run) -> None:
    curl = shutil.which("curl")
    lines = await run(curl, "-sN", "-H", f"x-api-key: {user.key}", relay.public_url + DESKTOPS)
    await eventually(lambda: relay.hub.streams == 1, 20)
    simulator.emit(user.id, "desktops", 1)
    await eventually(lambda: any(line.startswith("data: ") for line in lines))
    (record,) = simulator.log(user.id, "desktops")
    assert f"id: {record.id}" in lines


async def test_httpx_sse_hands_on_no_phantom_events(relay, simulator, user) -> None:
    async with (
        httpx.AsyncClient(timeout=10) as client,
        aconnect_sse(
            client, "GET", relay.public_url + DESKTOPS, headers={"x-api-key": user.key}
        ) as source,
    ):
        events = source.aiter_sse()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.5)  # two heartbeats: their absence in the result is the point
        simulator.emit(user.id, "desktops", 1)
        event = await asyncio.wait_for(first, 10)
        (record,) = simulator.log(user.id, "desktops")
        assert (event.id, event.event, event.data) == (record.id, "message", record.data)
        await events.aclose()
