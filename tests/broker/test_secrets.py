"""What Redis gets to see of people: keyed hashes, and frames. Watched by MONITOR, while whole
relays share through it.
"""

import asyncio
import base64
import hashlib
import re
from contextlib import AsyncExitStack, suppress

import aiohttp
import pytest
from tests.broker.documented import KINDS, RIGHTS
from tests.broker.programs import VALKEY, eventually

from lebureau_relay.config import Settings
from lebureau_relay.main import Relay
from lebureau_relay.simulator import Simulator, SimulatorOptions

pytestmark = pytest.mark.server

HASH_SECRET = "canary-of-the-hash-secret"
PASSWORD = "canary-of-the-password"
WRONG_KEY = "lb_k_canary_that_opens_nothing"
ADDRESS = "203.0.113.77"
STREAM = "/api/desktops/stream"

# Of a feed or an identity, of an address, of the deployment's budget, of a server that is tried.
KEY = re.compile(
    r"lbr:\{([0-9a-f]{32,64}|upstream-401s|replicas|\d+)\}:[a-z]+|lbr:\{\d+\}:[A-Za-z0-9.-]*/[0-9a-f]{6}"
)


class Monitor:
    """All that a server is told, as MONITOR shows it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen = b""

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"AUTH admin\r\nMONITOR\r\n")
        try:
            while data := await reader.read(1 << 16):
                self.seen += data
        finally:
            writer.close()


@pytest.fixture
async def simulator():
    made = Simulator(SimulatorOptions(rate=30, failed_auth_per_minute=0, connects_per_minute=0))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def server(program):
    config = (
        "user default on >admin ~* &* +@all\n"
        f"user relay on >{PASSWORD} {RIGHTS}"  # which so are shown to be enough for all of it
    )
    return program(VALKEY, config=config)


@pytest.fixture
async def relays(server, simulator):
    """Three relays that share."""
    here = {"host": "127.0.0.1", "port": 0}
    settings = Settings.model_validate(
        {
            "listen": here,
            "admin": here,
            "upstream": {"base_url": simulator.url},
            "auth": {"identity_path": "/v1/me"},
            "proxy": {"trusted": ["127.0.0.0/8"]},
            "redis": {
                "url": f"redis://relay:{PASSWORD}@127.0.0.1:{server.port}",
                "hash_secret": HASH_SECRET,
                "lease_ttl": 2,
            },
        }
    )
    running = [Relay(settings) for _ in range(3)]
    for relay in running:
        await relay.start()
    yield running
    for relay in running:
        await relay.stop()


def spellings(secret: str) -> set[bytes]:
    """How a secret might get there that nobody thought of: as it is, or hashed without a key."""
    raw = secret.encode()
    digests = {
        hashlib.new(name, raw).digest() for name in ("md5", "sha1", "sha256", "sha512", "blake2b")
    }
    digests |= {hashlib.blake2b(raw, digest_size=size).digest() for size in (8, 16, 20, 32)}
    encoded = {base64.b64encode(one).rstrip(b"=") for one in (raw, *digests)}
    return {raw, raw.hex().encode(), *encoded, *(one.hex().encode() for one in digests)}


async def test_redis_sees_keyed_hashes_only(server, simulator, relays):
    first, second = simulator.user(1), simulator.user(2)
    monitor = Monitor(server.port)
    watching = asyncio.ensure_future(monitor.run())
    await eventually(lambda: b"OK" in monitor.seen)
    forwarded = {"X-Forwarded-For": ADDRESS}
    requests = [
        (relays[0], STREAM, {"x-api-key": first.key}),
        (relays[1], STREAM, {"Cookie": first.cookie}),
        (relays[1], f"{STREAM}?apiKey={second.key}", {}),
        (relays[2], STREAM, {"Authorization": f"Bearer {second.keys[1]}"}),
    ]
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for relay, path, headers in requests:
            asking = session.get(relay.public_url + path, headers=forwarded | headers)
            answer = await stack.enter_async_context(asking)
            assert answer.status == 200
            while b"data:" not in await answer.content.readline():
                pass
        headers = forwarded | {"x-api-key": WRONG_KEY}
        async with session.get(relays[0].public_url + STREAM, headers=headers) as refused:
            assert refused.status == 401
        # The owner goes, and another takes over.
        before = monitor.seen.count(b':lease"')
        await relays.pop(0).stop()
        await eventually(lambda: monitor.seen.count(b':lease"') > before + 20, 10.0)
        await eventually(lambda: b':roll"' in monitor.seen, 10.0)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching

    text = monitor.seen.decode("latin-1")
    for command in ("EVALSHA", "XADD", "PUBLISH", "ZADD", "SUBSCRIBE"):
        assert re.search(f'"{command}"', text, re.IGNORECASE), f"{command} was not seen"
    names = set(re.findall(r'"(lbr:[^"]*)"', text))
    tried = [name for name in names if re.search(r"\{\d+\}", name)]
    kinds = {name.rpartition(":")[2] for name in names.difference(tried)}
    assert kinds == KINDS, "docs/operations.md names them all"
    assert [name for name in names if not KEY.fullmatch(name)] == []

    secrets = [HASH_SECRET, PASSWORD, WRONG_KEY, ADDRESS]
    for user in (first, second):
        secrets += [*user.keys, *user.cookies, user.limited_key]
    for secret in secrets:
        assert [one for one in spellings(secret) if one in monitor.seen] == []
    people = [fact for user in (first, second) for fact in (user.id, user.email)]
    for fact in people:  # frames may name them, names must not
        assert [
            name for name in names if any(one.decode() in name for one in spellings(fact))
        ] == []

    denied = {entry["object"] for entry in server.ask("ACL", "LOG", password="admin")}
    assert denied <= {"client|setinfo", "info"}
