"""The demo without a browser: its files, its numbers, its orders, and its start and end."""

import asyncio
import io
import os
import re
import signal
import socket

import aiohttp
import pytest
import pytest_asyncio
from tests.demo.conftest import make_relay, until

from lebureau_relay.demo.run import show
from lebureau_relay.demo.stage import HOST, Order
from lebureau_relay.errors import StartError
from lebureau_relay.simulator import Stream

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def http(stage):
    async with aiohttp.ClientSession(stage.url) as session:
        yield session


class Streams:
    """Open streams, as plain clients hold them."""

    def __init__(self, http, key: str) -> None:
        self._http, self._key = http, key
        self.open: list[aiohttp.ClientResponse] = []

    async def add(self, stream: Stream, count: int) -> None:
        for _ in range(count):
            answer = await self._http.get(stream.path, params={"apiKey": self._key})
            assert answer.status == 200
            self.open.append(answer)


async def test_the_page_needs_nothing_from_elsewhere(http) -> None:
    index = await (await http.get("/")).text()
    scripts = set(re.findall(r'"(/demo/[\w.]+)"', index))
    assert {"/demo/page.js", "/demo/page.css", "/demo/icon.svg"} <= scripts
    modules = set(scripts)
    while scripts:
        answer = await http.get(scripts.pop())
        assert answer.status == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        text = await answer.text()
        found = {f"/demo/{name}" for name in re.findall(r'from "\./([\w.]+)"', text)} - modules
        scripts |= found
        modules |= found
        urls = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org", "http://tab"}
        assert not urls
    assert len(modules) > 6
    assert "http" not in index.replace("HTTP/1.1", "")


async def test_the_page_may_load_and_ask_only_what_it_must(http) -> None:
    policy = (await http.get("/")).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


async def test_the_numbers_tell_tabs_from_upstream_subscriptions(http, stage, simulator) -> None:
    streams = Streams(http, stage.key)
    await streams.add(Stream.DESKTOPS, 4)
    await streams.add(Stream.ACTIVITY, 3)
    simulator.emit(simulator.user().id, Stream.DESKTOPS, 5)
    async with asyncio.timeout(5):
        state = await (await http.get("/demo/state")).json()
        while state["relay"]["totals"]["deliveries"] < 20:
            state = await (await http.get("/demo/state")).json()
    assert state["upstream"] == {"desktops": 1, "activity": 1}
    assert state["opened"] == {"desktops": 1, "activity": 1}
    assert state["relay"]["subscribers"] == {"desktops": 4, "activity": 3}
    assert state["key"] == stage.key
    for answer in streams.open:
        answer.close()


async def test_the_desktops_are_those_of_the_api(http) -> None:
    desktops = await (await http.get("/demo/desktops")).json()
    assert len(desktops) == 3
    assert {"id", "name", "status", "agentReady"} <= set(desktops[0])


async def order(http, name: str, **headers: str) -> int:
    async with http.post(f"/demo/orders/{name}", headers=headers) as answer:
        return answer.status


async def test_only_known_orders_are_taken(http, stage) -> None:
    assert await order(http, "no-such-thing") == 404
    async with http.get(f"/demo/orders/{Order.WITHDRAW}") as answer:
        assert answer.status == 405
    assert await order(http, Order.WITHDRAW, **{"Sec-Fetch-Site": "same-origin"}) == 202
    assert stage.key is None


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Host": "evil.example"},
    {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
    {"Host": "127.0.0.1.evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Host": ""},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_neither_other_pages_nor_rebound_names_reach_it(http, stage, headers) -> None:
    assert await order(http, Order.WITHDRAW, **headers) == 403
    assert stage.key is not None
    for path in ("/demo/state", "/demo/desktops"):
        async with http.get(path, headers=headers) as answer:
            assert answer.status == 403
            assert stage.key not in await answer.text()


@pytest.mark.parametrize("name", ["localhost", "window9.localhost"])
async def test_it_answers_to_its_own_names(http, stage, name) -> None:
    host = stage.url.removeprefix("http://").replace("127.0.0.1", name)
    async with http.get(
        "/demo/state", headers={"Host": host, "Origin": f"http://{host}"}
    ) as answer:
        assert answer.status == 200


async def test_all_of_it_listens_on_this_machine_alone(stage, simulator) -> None:
    for url in (stage.url, stage._relay.admin_url, simulator.url):
        assert url.startswith(f"http://{HOST}:")


async def test_the_simulator_takes_no_orders_from_outside(http, simulator) -> None:
    for path in ("/_sim/state", "/_sim/users"):
        async with http.get(f"{simulator.url}{path}") as answer:
            assert answer.status == 404
    async with http.post(f"{simulator.url}/_sim/faults", json={"fault": "500"}) as answer:
        assert answer.status == 404


async def test_a_flood_is_more_than_the_history_and_one_at_a_time(http, stage, simulator) -> None:
    assert await order(http, Order.FLOOD) == 202
    flood = stage._flood
    assert await order(http, Order.FLOOD) == 202
    assert stage._flood is flood
    await until(flood.done)
    records = simulator.log(simulator.user().id, Stream.DESKTOPS)
    assert sum(len(record.data) for record in records) > 4_000_000
    assert await order(http, Order.FLOOD) == 202
    assert stage._flood is not flood


async def test_a_key_is_withdrawn_and_another_given(http, stage) -> None:
    first = stage.key
    path = Stream.DESKTOPS.path
    assert await order(http, Order.GIVE_BACK) == 202
    assert stage.key == first
    assert await order(http, Order.WITHDRAW) == 202
    assert await order(http, Order.WITHDRAW) == 202
    async with http.get(path, params={"apiKey": first}) as answer:
        assert answer.status == 401
    assert await order(http, Order.GIVE_BACK) == 202
    assert stage.key not in {None, first}
    async with http.get(path, params={"apiKey": stage.key}) as answer:
        assert answer.status == 200


async def test_the_relay_restarts_on_the_same_port(http, stage) -> None:
    url = stage.url
    async with http.get(Stream.DESKTOPS.path, params={"apiKey": stage.key}) as stream:
        assert await order(http, Order.RESTART) == 202
        text = await stream.text()
    assert "event: relay.closing" in text
    await until(lambda: stage.restarts)
    assert stage.url == url
    assert (await http.get("/demo/state")).status == 200


async def test_what_was_counted_outlives_a_restart(http, stage, simulator) -> None:
    async with http.get(Stream.DESKTOPS.path, params={"apiKey": stage.key}) as stream:
        simulator.emit(simulator.user().id, "desktops", 100)
        async for line in stream.content:
            if line.startswith(b"id: ") and line.split(b"_")[1] >= b"%010d" % 100:
                break
        assert await order(http, Order.RESTART) == 202
        await stream.text()
    await until(lambda: stage.restarts)
    assert (await stage.state())["relay"]["totals"]["upstream_events"] >= 100
    assert (await stage.state())["relay"]["totals"]["deliveries"] >= 100


async def test_a_taken_port_is_told_with_its_mend(free_port) -> None:
    with socket.socket() as other:
        other.bind((HOST, free_port))
        other.listen()
        with pytest.raises(StartError) as caught:
            await show(make_relay, free_port, io.StringIO())
    assert f"{free_port} on {HOST} is taken" in str(caught.value)
    assert "make demo PORT=" in str(caught.value)


async def test_it_says_where_it_is_and_ends_when_told(free_port) -> None:
    out = io.StringIO()
    showing = asyncio.create_task(show(make_relay, free_port, out))
    await until(lambda: "Ctrl-C" in out.getvalue())
    page, line, _ = out.getvalue().splitlines()
    assert page.endswith(f"http://{HOST}:{free_port}/")
    command = re.search(r"curl -N -H 'x-api-key: (\w+)' (\S+)", line)
    headers = {"x-api-key": command[1]}
    async with aiohttp.request("GET", command[2], headers=headers) as answer:
        async for line in answer.content:
            if line.startswith(b"data: "):
                break
    os.kill(os.getpid(), signal.SIGTERM)
    assert await showing == 0
