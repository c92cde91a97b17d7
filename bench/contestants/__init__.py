"""Contestants: the servers that are measured, each started on the core that all take in turn."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contestants import peers, relay
from bench.contestants.site import NGINX, Contestant, Site, needs
from bench.kinds import Entry, Load
from bench.machine import BenchError, Cores
from bench.programs import Program, wait_for

_CONTESTANTS = {"relay": Contestant(relay.start), **peers.CONTESTANTS}


@dataclass(frozen=True, slots=True)
class Stand:
    """A contest that is set up: upstream, server and clients, all running."""

    upstream: Program
    server: Program
    clients: Program
    helpers: list[Program]  # what the server needs besides
    admin_port: int  # of the relay; 0 for peers


def missing(entry: Entry) -> str:
    """Why an entry can't run; empty where it can."""
    if entry.cannot:
        return entry.cannot
    if entry.tls and (lacks := needs(NGINX, packages="nginx (as TLS front)")()):
        return lacks
    return _CONTESTANTS[entry.contestant].missing()


@contextmanager
def stand(built: dict[str, Path], cores: Cores, load: Load, entry: Entry) -> Iterator[Stand]:
    """Everything that a run needs, started and at the end stopped."""
    with TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        site = Site(built, cores, Path(name), load, entry, stack)
        started = _CONTESTANTS[entry.contestant].start(site)
        wait_for(started.port, started.server)
        numbers = (started.port, load.tabs, entry.stuck, int(started.cuts), started.haste)
        clients = site.clients(*map(str, numbers), *started.paths)
        yield Stand(started.upstream, started.server, clients, site.helpers, started.admin_port)


def open_streams(stand: Stand, count: int, timeout_s: float = 60.0) -> None:
    """Connect clients until there are `count`. Raises BenchError if they don't get in."""
    answer = stand.clients.ask(f"open {count} {timeout_s}", timeout_s + 5)
    if answer["open"] != count:
        raise BenchError(
            f"{answer['open']} of {count} clients got in; {stand.clients.last_words()}"
        )
