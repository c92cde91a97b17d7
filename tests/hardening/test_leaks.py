"""The whole system with secrets in every place where a client can put them: none comes out again.

Real processes at debug level, a real Valkey, two replicas. Whatever anybody can see of them is
kept and searched at the end. `test_searcher.py` holds that the searcher finds; here a secret is
planted in a running relay, and found.
"""

import asyncio
import json
import signal
from itertools import cycle
from pathlib import Path

import pytest
from tests.broker.programs import VALKEY, free_port
from tests.broker.programs import Program as Server
from tests.e2e.clients import ACTIVITY, DESKTOPS, SseClient, ask, eventually
from tests.hardening.places import admin_places, canary, places
from tests.hardening.searcher import Searcher
from tests.hardening.stage import SIMULATOR, Ear, Told, launch, look, operator_order, order, send

PROPER = {"x-api-key", "cookie"}  # where a credential goes upstream, and nowhere else
AT_ONCE = 16
STREAMS = [
    {"name": "desktops", "path": DESKTOPS, "forward_query": ["view", "ApiKey"]},
    {"name": "activity", "path": ACTIVITY},
]


@pytest.fixture
async def start(tmp_path):
    """Starts relays as programs: `start(SECTION__NAME=value)`."""
    running = []

    async def started(*command, **settings):
        running.append(await launch(tmp_path, settings, *command))
        return running[-1]

    yield started
    for each in running:
        await each.kill()


@pytest.fixture
async def simulator_url(start):
    """A simulator in a process of its own."""
    port = free_port()
    await start("-c", SIMULATOR, str(port))
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        try:
            return bool(await look(url, "users"))
        except OSError:
            return False

    async with asyncio.timeout(20):
        while not await answers():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    return url


async def send_all(urls, requests, told: Told) -> None:
    """A few at a time, by turns to each URL; what is answered is told."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(url, name, raw):
        async with turns:
            told.add(f"answer to {name}", await send(url, raw))

    where = cycle(urls)
    await asyncio.gather(*(one(next(where), n, raw) for n, (_, raw) in requests.items()))


def upstream_heads(requests) -> list[tuple[str, bytes]]:
    """What upstream was asked, without the one header that carries a credential."""
    texts = []
    for seen in requests:
        fields = [pair for pair in seen["headers"] if pair[0].lower() not in PROPER]
        names = [pair[0].lower() for pair in seen["headers"]]
        assert sum(names.count(name) for name in PROPER) == 1, names
        said = (seen["method"], seen["path"], seen["query"], fields)
        texts.append(("upstream request", repr(said).encode()))
    return texts


async def open_streams(urls, users) -> list[SseClient]:
    """Good credentials in every place that is served, also with a second one as a cursor."""
    (one, two, _), (here, there) = users, urls
    key, other, cookie = one["keys"][0], two["keys"][1], two["cookies"][0]
    session = f"__Secure-lebureau.session={cookie}"
    opened = [
        await SseClient.connect(here, f"{DESKTOPS}?apiKey={key}"),
        await SseClient.connect(there, f"{DESKTOPS}?%61piKey={key}&ApiKey={key}&view={key}"),
        await SseClient.connect(there, f"{ACTIVITY}?apiKey={key}&lastEventId={key}"),
        await SseClient.connect(here, ACTIVITY, key=other, cursor=other),
        await SseClient.connect(
            there, headers=[("Authorization", f"bearer {other}"), ("Last-Event-ID", f"7{key}")]
        ),
        await SseClient.connect(here, cookie=f"theme=dark; {session}", cursor=session),
        await SseClient.connect(there, cookie=session, headers=[("Cookie", f"a={other}")]),
    ]
    for client in opened:
        await client.opened()
    return opened


class System:
    """A simulator, a Valkey and two replicas as processes; `given` is the operator's."""

    def __init__(self, start, simulator_url: str, folder: Path) -> None:
        self.told = Told()
        self.api = simulator_url
        self.given = {"password": canary(), "hash secret": canary(), "token": canary()}
        self.server = Server(VALKEY, "--requirepass", self.given["password"])
        self.ears: list[Ear] = []
        self.clients: list[SseClient] = []
        self._start = start
        self._token = folder / "token"
        self._token.write_text(self.given["token"])

    async def serve(self) -> None:
        self.server.start()
        settings = {
            "UPSTREAM__BASE_URL": self.api,
            "AUTH__IDENTITY_PATH": "/v1/me",
            "AUTH__RECHECK_INTERVAL": 1,
            "ADMIN__TOKEN_FILE": self._token,
            "CORS__ALLOWED_ORIGINS": '["https://app.example"]',
            "PROXY__TRUSTED": '["127.0.0.0/8"]',
            "STREAMS": json.dumps(STREAMS),
            "REDIS__URL": f"redis://:{self.given['password']}@127.0.0.1:{self.server.port}",
            "REDIS__HASH_SECRET": self.given["hash secret"],
            "REDIS__LEASE_TTL": 1,
            "FEED__LINGER": 1,
        }
        self.relays = [await self._start(**settings), await self._start(**settings)]
        for relay in self.relays:
            await relay.started()
        await self.listen("MONITOR")
        await self.listen("PSUBSCRIBE *")
        self.users = await look(self.api, "users")

    async def listen(self, command: str) -> None:
        ear = Ear(self.server, self.given["password"], command)
        self.ears.append(await ear.listening())

    async def emit(self, count: int) -> None:
        for user in self.users:
            for stream in ("desktops", "activity"):
                await order(self.api, "emit", user=user["id"], stream=stream, count=count)

    async def open_streams(self, count: int) -> None:
        """Clients in every place that is served; each gets so many events."""
        urls = [relay.public_url for relay in self.relays]
        opened = await open_streams(urls, self.users)
        self.clients += opened
        await self.emit(count)
        for client in opened:
            await client.has(count)

    async def trouble(self) -> None:
        """What upstream can do to streams that are open, and an operator and a revocation."""
        revoked = await SseClient.connect(self.relays[0].public_url, key=self.users[2]["keys"][0])
        await revoked.opened()
        await order(self.api, "revoke", secret=self.users[2]["keys"][0], cut=True)
        await revoked.ended()
        assert revoked.reason == "credential_revoked"
        self.told.add("stream that was revoked", bytes(revoked.raw))
        for fault in ("500", "content_type", "redirect", "oversize", "garbage"):
            await order(self.api, "faults", fault=fault, times=2)
            await order(self.api, "faults", fault="cut", open=True)
            await self.emit(1)
        raw = operator_order(self.given["token"])
        reply = await ask(self.relays[0].admin_url, raw=raw)
        assert reply.status == 200
        self.told.add("answer to an operator", reply.raw)

    async def lose_redis(self) -> None:
        """It goes and comes back, empty, while streams are open and are opened."""
        for ear in self.ears:
            self.told.add("Redis wire", await ear.end())
        self.server.kill()
        for relay in self.relays:
            await eventually(lambda relay=relay: relay.said("redis.down"), 15)
        await self.open_streams(2)
        self.server.start()
        await self.listen("MONITOR")
        for relay in self.relays:
            await eventually(lambda relay=relay: len(relay.said("redis.up")) >= 2, 15)
        await self.emit(2)
        await eventually(lambda: b"XADD" in self.ears[-1].heard, 15, "feeds in the log again")

    async def look_around(self) -> None:
        self.told.look_into(self.server, self.given["password"])
        for number, relay in enumerate(self.relays):
            await self.told.look_at(relay, f"relay {number}")

    async def end(self) -> None:
        for relay in self.relays:
            relay.signal(signal.SIGTERM)
        for relay in self.relays:
            assert await relay.exit() == 0
            self.told.add("log", relay.stderr)
            assert len(relay.log) > 20
        self.told.add("Redis wire", await self.ears[-1].end())
        for ear, needed in zip(self.ears, (b"EVALSHA", b"pmessage", b"EVALSHA"), strict=True):
            assert needed in ear.heard
        seen = await look(self.api, "requests")
        assert len(seen) > 50
        self.told.texts += upstream_heads(seen)
        for client in self.clients:
            self.told.add("stream", bytes(client.raw))
            client.close()

    @property
    def users_secrets(self) -> dict[str, str]:
        numbered = list(enumerate(self.users))
        keys = {f"key {n}: {each}": each for n, user in numbered for each in user["keys"]}
        return keys | {f"cookie {n}: {c}": c for n, user in numbered for c in user["cookies"]}


@pytest.mark.server
async def test_the_whole_system_keeps_every_secret(start, simulator_url, tmp_path):
    system = System(start, simulator_url, tmp_path)
    try:
        await system.serve()
        await system.open_streams(3)
        public, admin = places(), admin_places()
        await send_all([relay.public_url for relay in system.relays], public, system.told)
        await send_all([relay.admin_url for relay in system.relays], admin, system.told)
        await system.look_around()
        await system.trouble()
        await system.lose_redis()
        await system.look_around()
        await system.end()
    finally:
        system.server.end()
    told = system.told.texts
    assert {place for place, _ in told} > {"Redis key", "Redis wire", "upstream request", "log"}
    theirs = {name: secret for name, (secret, _) in {**public, **admin}.items()}
    Searcher(system.users_secrets | theirs).assert_clean(told)
    # What the operator gave stands in the environment, where the operator put it.
    Searcher(system.given).assert_clean(one for one in told if "environ" not in one[0])
    assert {path.name for path in tmp_path.iterdir()} == {"token"}, "nothing is left behind"
