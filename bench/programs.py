"""Programs: started on one core, spoken to by lines, accounted for by the kernel.

CPU is what the kernel charged to the process and its children (utime + stime of /proc/PID/stat),
memory what is resident; neither is asked of the program itself.
"""

import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.machine import TICKS_PER_S, BenchError

_C = Path(__file__).parent / "c"
_PATIENCE_S = 15.0
_PORTS = range(10_000, 32_768)
_given: set[int] = set()


class Program:
    """One running program, pinned to `core`. Its errors go to a file in `folder`.

    `urgency` above 0 asks for real time (see `machine.hurry`): for the instruments, never for what
    is measured.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        core: int,
        folder: Path,
        env: Mapping[str, str] | None = None,
        urgency: int = 0,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._rest = b""
        # As a service manager would set it up: as many descriptors as there may be.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # inherited from the first instruction on
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [str(arg) for arg in argv],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **(env or {})},
                )
        finally:
            os.sched_setaffinity(0, before)
        if urgency:
            machine.hurry(self._process.pid, urgency)

    @property
    def pids(self) -> list[int]:
        """The process and all that it has started."""
        found = [self._process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU so far."""
        ticks = 0
        for pid in self.pids:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
        return ticks / TICKS_PER_S

    @property
    def resident_bytes(self) -> int:
        """Memory that is resident now."""
        return sum(_status_bytes(pid, "VmRSS") for pid in self.pids)

    @property
    def peak_bytes(self) -> int:
        """The most that was resident since `forget_peak`."""
        return sum(_status_bytes(pid, "VmHWM") for pid in self.pids)

    def forget_peak(self) -> None:
        """Let `peak_bytes` begin anew."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    @property
    def descriptors(self) -> int:
        """How many files, sockets and pipes are open."""
        return sum(1 for pid in self.pids for _ in Path(f"/proc/{pid}/fd").iterdir())

    def inside(self) -> dict[str, int]:
        """How many tasks and histories it has; for the relay as bench/counted.py runs it."""
        self._process.send_signal(signal.SIGUSR2)
        return self.report()

    def tell(self, line: str) -> None:
        """Send a command."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(line.encode() + b"\n")
        stdin.flush()

    def hear(self, timeout_s: float = _PATIENCE_S) -> str:
        """The next line it prints. Raises BenchError if there is none for so long, or ever."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([stdout], [], [], max(deadline_s - time.monotonic(), 0))
            piece = os.read(stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise BenchError(f"{self.name} says nothing; its last words: {self.last_words()}")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def report(self, timeout_s: float = _PATIENCE_S) -> dict[str, Any]:
        """The next line it prints, which is JSON."""
        answer: dict[str, Any] = json.loads(self.hear(timeout_s))
        return answer

    def ask(self, line: str, timeout_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Send a command whose answer is JSON."""
        self.tell(line)
        return self.report(timeout_s)

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self._log.read_text(errors="replace")[-500:].strip() or "none"

    def stop(self) -> None:
        """End it, first politely."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def compile_c(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The C programs, compiled into `folder`."""
    built = {name: folder / name for name in names}
    for name, target in built.items():
        argv = ("gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", target, _C / f"{name}.c")
        try:
            subprocess.run(argv, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"gcc could not compile {name}.c: {error}") from None
    return built


def free_port() -> int:
    """A port that nobody listens on just now, each time another: the one before may not be taken
    yet. It lies below those that the kernel gives to connections, of which the bench itself makes
    thousands before it is taken.
    """
    for port in random.sample(sorted({*_PORTS} - _given), 100):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        _given.add(port)
        return port
    raise BenchError("no free port was found")


def wait_for(port: int, program: Program) -> None:
    """Until somebody listens. Raises BenchError if nobody does."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and program.is_alive:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchError(f"{program.name} does not listen; its last words: {program.last_words()}")


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
