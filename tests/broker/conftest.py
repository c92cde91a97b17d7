"""Servers for the session, and a stand at each of them for every test of the contract."""

import gc

import pytest
from tests.broker.programs import REDIS_6, REDIS_7, VALKEY, Cluster, Program, eventually
from tests.broker.stands import LIMITS, MemoryStand, RedisStand, Stand

MEMORY = "memory"
CLUSTER = "valkey cluster"
CLUSTER_6 = "redis 6.2 cluster"
_CLUSTERS = {CLUSTER: VALKEY, CLUSTER_6: REDIS_6}
SERVERS = [VALKEY, REDIS_7, REDIS_6]


@pytest.fixture(scope="session")
def kept():
    """Servers by name, started when first asked for and shared by the session: tests tell their
    keys apart by prefix.
    """
    running: dict[str, Program | Cluster] = {}

    def get(name: str) -> Program | Cluster:
        if name not in running:
            made = Cluster(_CLUSTERS[name]) if name in _CLUSTERS else Program(name)
            running[name] = made.start()
        return running[name]

    yield get
    for each in running.values():
        each.end()


def _server(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.server)


@pytest.fixture(params=[MEMORY, *map(_server, [*SERVERS, CLUSTER, CLUSTER_6])])
async def seats(request, kept):
    """Makes stands: `seats(limits=…)`, at one kind of server after the other."""
    made = []

    def make(limits=LIMITS) -> Stand:
        if request.param == MEMORY:
            made.append(MemoryStand(limits))
        else:
            made.append(RedisStand(kept(request.param).url, limits))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def stand(seats) -> Stand:
    return seats()


@pytest.fixture
def program():
    """Starts servers of a test's own, to be paused, killed and filled: `program(VALKEY, …)`."""
    running = []

    def start(name: str, *options: str, **facts) -> Program:
        running.append(Program(name, *options, **facts))
        return running[-1].start()

    yield start
    for each in running:
        each.end()


@pytest.fixture(params=[VALKEY, REDIS_7])
def server(request, program) -> Program:
    """A server of the test's own."""
    return program(request.param)


@pytest.fixture
async def at():
    """Makes stands at a URL: `at(url, limits)`."""
    made = []

    def make(url: str, *facts, **more) -> RedisStand:
        made.append(RedisStand(url, *facts, **more))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    # TLS says goodbye and waits for an answer, and nobody waits for that: the loop has to.
    await eventually(lambda: not _open_transports())


def _open_transports() -> list[object]:
    found = [one for one in gc.get_objects() if type(one).__name__ == "TCPTransport"]
    return [one for one in found if "closed=False" in repr(one)]
