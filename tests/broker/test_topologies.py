"""Sentinel, cluster, TLS and a user of few rights: what differs from one server on a plain port."""

import asyncio
import subprocess
from contextlib import suppress

import pytest
from redis.cluster import key_slot
from tests.broker.documented import RIGHTS, RIGHTS_IN_CLUSTER
from tests.broker.programs import REDIS_7, VALKEY, Cluster, Program, eventually, free_port, until
from tests.broker.stands import Member, RedisStand, begun, entries, offsets

from lebureau_relay.relay.ports import BrokerDown, Verdict

pytestmark = pytest.mark.server

PASSWORD = "not-a-secret:/@%"
QUOTED = "not-a-secret%3A%2F%40%25"


async def works(stand: RedisStand) -> None:
    """One owns and appends, another hears and reads; and each can be counted."""
    owner, token = await begun(stand)
    member, other = Member(), await stand.broker()
    other.enter(stand.feed, member)
    await stand.listening(member)
    assert await owner.append(stand.feed, token, "e1", 0, entries(1, 2)) is Verdict.TAKEN
    await eventually(lambda: ("e1", 2) in member.tops)
    page = await other.read(stand.feed, 0)
    assert offsets(page.entries) == [1, 2]
    assert await owner.give(stand.feed, token, if_wanted=False)
    await eventually(lambda: member.free)
    roll = (f"{stand.prefix}:{{replicas}}:roll",)
    assert await other.pipe.call("census", roll, (1_000, "1 0 ready a", "")) == [b"1 0 ready a"]
    await stand.stop(other)
    await other.close()  # has nothing more to do


async def goes_on(stand: RedisStand, broker, member: Member) -> int:
    """Until this broker can own and append again, and the member of another hears of it; where the
    log stood before.
    """
    async with asyncio.timeout(20.0):
        while True:
            with suppress(BrokerDown):
                token = await broker.take(stand.feed, wanted=True)
                page = await broker.read(stand.feed, 0)
                if token is not None and page is not None:
                    said = entries(page.top + 1, page.top + 1)
                    appended = broker.append(stand.feed, token, page.epoch, page.top, said)
                    if await appended is Verdict.TAKEN:
                        break
            await asyncio.sleep(0.05)
    await eventually(lambda: (page.epoch, page.top + 1) in member.tops, said="it is heard of")
    return page.top


class Watched:
    """A master, its replica and a Sentinel that watches them."""

    def __init__(self, program) -> None:
        quick = ("--repl-diskless-sync-delay", "0")
        self.master = program(REDIS_7, *quick)
        self.replica = program(REDIS_7, *quick, "--replicaof", f"127.0.0.1 {self.master.port}")
        self.in_step()  # before Sentinel looks, which then doesn't for ten seconds
        lines = (
            f"sentinel monitor lebureau 127.0.0.1 {self.master.port} 1",
            "sentinel down-after-milliseconds lebureau 500",
            "sentinel failover-timeout lebureau 2000",
        )
        self.sentinel = program(VALKEY, config="\n".join(lines))
        until(lambda: self.sentinel.ask("SENTINEL", "REPLICAS", "lebureau"), "it is found")

    def in_step(self) -> None:
        """Until the replica has all that the master has."""
        until(lambda: self._offset(self.replica) == self._offset(self.master), "it has it all")

    @staticmethod
    def _offset(server: Program) -> int:
        """How far a server's writes go."""
        facts = server.ask("INFO", "replication")
        assert facts.get("master_link_status", "up") == "up"
        return facts.get("slave_repl_offset", facts["master_repl_offset"])

    @property
    def url(self) -> str:
        nobody = free_port()  # a Sentinel that is down is passed over
        places = f"127.0.0.1:{nobody},127.0.0.1:{self.sentinel.port}"
        return f"redis+sentinel://{places}/lebureau"


@pytest.fixture
def watched(program):
    return Watched(program)


async def test_sentinel_names_the_master(watched, at):
    await works(at(watched.url))


def seats_at(server: Program) -> list[str]:
    """The brokers' connections there."""
    clients = server.raw("CLIENT", "LIST", "TYPE", "normal").decode().splitlines()
    clients += server.raw("CLIENT", "LIST", "TYPE", "pubsub").decode().splitlines()
    theirs = [one for one in clients if "name=sentinel" not in one]
    return [one for one in theirs if "cmd=evalsha" in one or "cmd=subscribe" in one]


async def test_a_failover_is_followed(watched, at):
    stand = at(watched.url)
    owner, _ = await begun(stand, 3)
    member = Member()
    (await stand.broker()).enter(stand.feed, member)
    await stand.listening(member)
    watched.in_step()
    until(lambda: watched.sentinel.ask("SENTINEL", "FAILOVER", "lebureau"), "it may begin")
    until(lambda: watched.replica.ask("ROLE")[0] == "master", "the replica is promoted")
    # The old master takes writes for ten seconds more: nobody waits for that.
    await eventually(lambda: not seats_at(watched.master), said="all have gone to the new one")
    assert watched.master.ask("ROLE")[0] == "master"
    assert await goes_on(stand, owner, member) == 3
    assert len(seats_at(watched.replica)) == 4


async def test_a_dead_master_is_replaced(watched, at):
    stand = at(watched.url)
    owner, _ = await begun(stand, 3)
    member = Member()
    (await stand.broker()).enter(stand.feed, member)
    await stand.listening(member)
    watched.in_step()
    watched.master.kill()
    assert await goes_on(stand, owner, member) == 3


async def test_a_service_that_sentinel_does_not_know(watched, at):
    broker = await at(watched.url.replace("/lebureau", "/other")).broker(arrived=False)
    await eventually(lambda: broker.why == "MasterNotFoundError")
    assert not broker.is_up()


async def test_sentinel_and_server_may_have_passwords(program, at):
    server = program(VALKEY, "--requirepass", PASSWORD)
    lines = (
        f"sentinel monitor lebureau 127.0.0.1 {server.port} 1",
        f'sentinel auth-pass lebureau "{PASSWORD}"',
        "requirepass its-own",
    )
    sentinel = program(VALKEY, config="\n".join(lines))
    place = f"127.0.0.1:{sentinel.port}/lebureau/1?sentinel_password=its-own"
    await works(at(f"redis+sentinel://:{QUOTED}@{place}"))
    assert server.ask("INFO", "keyspace", password=PASSWORD).keys() == {"db1"}


@pytest.fixture
def cluster():
    """A cluster of a test's own."""
    made = Cluster(VALKEY).start()
    yield made
    made.end()


def owners(cluster: Cluster, channel: str) -> list[int]:
    """Which masters have listeners of a shard channel."""
    return [
        place
        for place, node in enumerate(cluster.nodes)
        if channel.encode() in node.raw("PUBSUB", "SHARDCHANNELS")
    ]


async def test_what_is_said_of_a_feed_stays_with_its_master(cluster, at):
    stand = at(cluster.url)
    broker = await stand.broker()
    for n in range(12):
        member = Member()
        broker.enter(f"feed-{n}", member)
        await stand.listening(member)
        channel = f"{stand.prefix}:{{feed-{n}}}:said"
        slot = key_slot(channel.encode())
        (there,) = (
            place for place, (low, high) in enumerate(Cluster.SHARES) if low <= slot <= high
        )
        assert owners(cluster, channel) == [there]
    assert all(node.raw("PUBSUB", "CHANNELS") == [] for node in cluster.nodes)


async def test_the_keys_of_a_feed_are_in_one_slot(cluster, at):
    stand = at(cluster.url)
    await begun(stand, 3)
    assert await (await stand.broker()).take(stand.feed, wanted=True) is None
    keys = [
        key for node in cluster.nodes for key in node.raw("KEYS", "*") if stand.feed.encode() in key
    ]
    assert len(keys) == 5
    assert len({key_slot(key) for key in keys}) == 1


async def test_one_master_away_is_the_server_away(cluster, at):
    """Half a deployment that shares is none: each feed's own way would have to be told apart."""
    stand = at(cluster.url)
    broker = await stand.broker()
    broker.enter(stand.feed, Member())
    for node in cluster.nodes:
        node.pause()
        await eventually(lambda: not broker.is_up())
        node.resume()
        await eventually(broker.is_up, 20.0)


async def test_a_slot_that_moves_is_followed(cluster, at):
    stand = at(cluster.url)
    owner, _ = await begun(stand, 3)
    member, other = Member(), await stand.broker()
    other.enter(stand.feed, member)
    await stand.listening(member)
    key = f"{stand.prefix}:{{{stand.feed}}}:log".encode()
    slot = key_slot(key)
    shares = [low <= slot <= high for low, high in Cluster.SHARES]
    source = cluster.nodes[shares.index(True)]
    target = cluster.nodes[shares.index(False)]
    await asyncio.to_thread(move_slot, cluster, slot, source, target)
    assert await goes_on(stand, owner, member) == 3
    assert source.raw("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    assert target.raw("CLUSTER", "COUNTKEYSINSLOT", slot) >= 4


def move_slot(cluster: Cluster, slot: int, source: Program, target: Program) -> None:
    """What a rebalancing does to one slot."""
    here, there = source.raw("CLUSTER", "MYID"), target.raw("CLUSTER", "MYID")
    target.raw("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    source.raw("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
    while keys := source.raw("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.raw("MIGRATE", "127.0.0.1", target.port, "", 0, 2000, "KEYS", *keys)
    for node in (target, source, *cluster.nodes):
        node.raw("CLUSTER", "SETSLOT", slot, "NODE", there)


async def test_the_policies_of_all_masters_are_told(cluster, at):
    cluster.nodes[1].raw("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    broker = await at(cluster.url).broker()
    assert await broker.policies() == {"noeviction", "volatile-lru"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A throw-away authority and a server's certificate."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    openssl(
        *("req", "-x509", *key, "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=server"),
        *("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-addext", "basicConstraints=CA:FALSE"),
    )
    return folder


@pytest.fixture
def tls(certificates):
    """The options of a server that speaks TLS only."""
    files = {"cert": "cert.pem", "key": "key.pem", "ca-cert": "ca.pem"}
    names = [(f"--tls-{name}-file", str(certificates / file)) for name, file in files.items()]
    return [*(word for pair in names for word in pair), "--tls-auth-clients", "no"]


async def test_tls_with_a_private_authority(program, tls, certificates, at):
    server = program(REDIS_7, *tls, tls=True)
    url = f"rediss://127.0.0.1:{server.port}"
    await works(at(f"{url}?ssl_ca_certs={certificates / 'ca.pem'}"))
    stranger = await at(url).broker(arrived=False)
    await eventually(lambda: stranger.why)
    assert not stranger.is_up()


async def test_tls_in_a_cluster(program, tls, certificates, at):
    more = ("--cluster-enabled", "yes", "--tls-cluster", "yes")
    server = program(REDIS_7, *tls, *more, tls=True)
    facts = {"ssl": True, "ssl_ca_certs": str(certificates / "ca.pem")}
    server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383, **facts)
    until(
        lambda: server.ask("CLUSTER INFO", **facts)["cluster_state"] == "ok", "the cluster is whole"
    )
    query = f"tls=true&ssl_ca_certs={certificates / 'ca.pem'}"
    await works(at(f"redis+cluster://127.0.0.1:{server.port}?{query}"))


async def test_tls_by_sentinel(program, tls, certificates, at):
    server = program(REDIS_7, *tls, tls=True)
    lines = (
        f"sentinel monitor lebureau 127.0.0.1 {server.port} 1",
        *("tls-replication yes", "tls-auth-clients no"),
        *(f"tls-{name}-file {certificates / file}" for name, file in TLS_FILES),
    )
    sentinel = program(REDIS_7, config="\n".join(lines), tls=True)
    query = f"tls=true&ssl_ca_certs={certificates / 'ca.pem'}"
    await works(at(f"redis+sentinel://127.0.0.1:{sentinel.port}/lebureau?{query}"))


TLS_FILES = (("cert", "cert.pem"), ("key", "key.pem"), ("ca-cert", "ca.pem"))


@pytest.mark.parametrize("name", [VALKEY, REDIS_7])
async def test_few_rights_are_enough(program, at, name):
    server = program(
        name, config=f'user default on >admin ~* &* +@all\nuser relay on >"{PASSWORD}" {RIGHTS}'
    )
    stand = at(f"redis://relay:{QUOTED}@127.0.0.1:{server.port}", prefix="lbr")
    await works(stand)
    assert await (await stand.broker()).policies() == frozenset()  # that one would be +info
    denied = {entry["object"] for entry in server.ask("ACL", "LOG", password="admin")}
    assert denied <= {"client|setinfo", "info"}


@pytest.mark.parametrize("missing", ["+xdel", "+zadd", "+publish", "&lbr:*", "~lbr:*"])
async def test_a_missing_right_is_told(program, at, missing):
    """A server that forbids anything is down from the start, not when it first matters."""
    config = f"user relay on >relay {RIGHTS.replace(missing, '')}"
    server = program(REDIS_7, config=config)
    stand = at(f"redis://relay:relay@127.0.0.1:{server.port}", prefix="lbr")
    broker = await stand.broker(arrived=False)
    await eventually(lambda: broker.why == "NoPermissionError")
    assert not broker.is_up()


async def test_a_wrong_password_is_told(program, at):
    server = program(VALKEY, "--requirepass", "right")
    broker = await at(f"redis://:wrong@127.0.0.1:{server.port}").broker(arrived=False)
    await eventually(lambda: broker.why == "AuthenticationError")


async def test_few_rights_are_enough_in_a_cluster(program, at):
    config = (
        f"user default on >admin ~* &* +@all\nuser relay on >relay {RIGHTS} {RIGHTS_IN_CLUSTER}"
    )
    server = program(VALKEY, "--cluster-enabled", "yes", config=config)
    server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383, password="admin")
    until(
        lambda: server.ask("CLUSTER INFO", password="admin")["cluster_state"] == "ok",
        "the cluster is whole",
    )
    await works(at(f"redis+cluster://relay:relay@127.0.0.1:{server.port}", prefix="lbr"))
    denied = {entry["object"] for entry in server.ask("ACL", "LOG", password="admin")}
    assert denied <= {"client|setinfo"}
