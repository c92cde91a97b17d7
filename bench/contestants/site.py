"""What every contestant is started with: who runs where, the upstream, the peers' configuration."""

import string
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.kinds import Entry, Load
from bench.machine import Cores
from bench.programs import Program, free_port, wait_for

PEERS = Path(__file__).parents[1] / "peers"
TOOLS = Path(__file__).parents[1] / ".cache"  # what bench/tools.sh makes
NGINX = Path("/usr/sbin/nginx")
# Where both share a core: an event is sent when it is due, and read as soon as it is sent.
_EMIT_URGENCY, _LOAD_URGENCY = 2, 1


@dataclass(frozen=True, slots=True)
class Publish:
    """How a peer wants an event that upstream publishes: `head` and, around the event, a body.

    `head` is an HTTP request without its Content-Length and last line, or "zmq" for a ZeroMQ PUSH
    socket. `quote` is how the event's quotes are written.
    """

    head: str
    before: str = ""
    after: str = ""
    quote: str = '"'


@dataclass(frozen=True, slots=True)
class Site:
    """Where one contest takes place. What is started is stopped by `stack`, last first."""

    built: dict[str, Path]
    cores: Cores
    folder: Path
    load: Load
    entry: Entry
    stack: ExitStack
    helpers: list[Program] = field(default_factory=list)

    def server(self, name: str, *argv: str | Path, env: dict[str, str] | None = None) -> Program:
        """Start the server, or another process of it, on its core."""
        return self._start(name, argv, self.cores.server, env)

    def helper(self, name: str, *argv: str | Path) -> Program:
        """Start what the server needs besides; it shares the clients' core."""
        program = self._start(name, argv, self.cores.clients)
        self.helpers.append(program)
        return program

    def clients(self, *numbers_and_paths: str) -> Program:
        """Start the clients."""
        argv = (self.built["load"], *numbers_and_paths)
        return self._start("load", argv, self.cores.clients, urgency=_LOAD_URGENCY)

    def upstream(self) -> tuple[Program, int]:
        """Start an API that serves streams, and the port where it does."""
        program = self._start(
            "emit",
            (self.built["emit"], "serve", str(self.load.data_bytes)),
            self.cores.upstream,
            urgency=_EMIT_URGENCY,
        )
        return program, int(program.hear().split()[1])

    def publisher(self, port: int, how: Publish) -> Program:
        """Start an API that publishes each event to `port`."""
        size = str(self.load.data_bytes)
        argv = (self.built["emit"], "publish", size, str(port))
        more = (how.quote, how.head, how.before, how.after)
        program = self._start("emit", argv + more, self.cores.upstream, urgency=_EMIT_URGENCY)
        program.hear()
        return program

    def nginx(
        self, start: Callable[..., Program], name: str, config: str, **values: object
    ) -> tuple[Program, int]:
        """Start nginx by `start` with a configuration of bench/peers, and the port it serves."""
        port = free_port()
        files = self.folder / name
        files.mkdir()
        folders = self.fill("nginx_folders.conf", folder=files)
        path = self.fill(config, port=port, folder=files, folders=folders, **values)
        program = start(name, NGINX, "-p", files, "-c", path)
        wait_for(port, program)
        return program, port

    def fill(self, config: str, **values: object) -> Path:
        """A configuration of bench/peers with its $names filled in, as a file of this contest."""
        path = self.folder / f"{sum(1 for _ in self.folder.iterdir())}-{config}"
        path.write_text(string.Template((PEERS / config).read_text()).substitute(values))
        return path

    def _start(
        self,
        name: str,
        argv: tuple[str | Path, ...],
        core: int,
        env: dict[str, str] | None = None,
        urgency: int = 0,
    ) -> Program:
        program = Program(name, argv, core, self.folder, env, urgency)
        self.stack.callback(program.stop)
        return program


@dataclass(frozen=True, slots=True)
class Started:
    """A server that runs: what feeds it, where it serves, and which paths it serves to clients."""

    upstream: Program
    server: Program
    port: int
    paths: tuple[str, ...]
    admin_port: int = 0  # of the relay
    cuts: bool = True  # an event may lie across HTTP chunks
    haste: int = 128  # connections under way at once: as browsers come back, not a flood


@dataclass(frozen=True, slots=True)
class Contestant:
    """How one server is started, and what it lacks here: a sentence, empty where it can run."""

    start: Callable[[Site], Started]
    missing: Callable[[], str] = lambda: ""


def needs(*files: Path, packages: str) -> Callable[[], str]:
    """A check for programs that come by Debian's packages."""

    def missing() -> str:
        there = all(file.exists() for file in files)
        return "" if there else f"not on this machine: Debian packages {packages}"

    return missing


def needs_go(name: str) -> Callable[[], str]:
    """A check for a program that bench/tools.sh builds with Go, or leaves a reason why not."""

    def missing() -> str:
        if (TOOLS / "bin" / name).exists():
            return ""
        why = TOOLS / "bin" / f"{name}.why"
        said = why.read_text().strip() if why.exists() else "bench/tools.sh has not run"
        return f"not on this machine: {said}"

    return missing
