"""The machine: its cores, what it is, what is installed, and how busy it is.

Facts that a reader needs to weigh the numbers; no host names or paths.
"""

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("lebureau-relay", "aiohttp", "uvloop", "aiohttp-sse", "prometheus-client", "redis")
# What others may take of the cores before a round is held to be disturbed.
QUIET_SHARE = 0.15
_ROOT = Path(__file__).parents[1]


class BenchError(Exception):
    """Something that the bench can't go on without, in a sentence for whoever started it."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. With two cores, upstream shares one with the clients, never the server's."""

    server: int
    clients: int
    upstream: int

    @property
    def all(self) -> set[int]:
        """Each once."""
        return {self.server, self.clients, self.upstream}


def cores() -> Cores:
    """Cores that this process may use. Raises BenchError where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise BenchError("The bench needs two cores: one for the server, one for its load.")
    return Cores(server=usable[-1], clients=usable[0], upstream=usable[1 if len(usable) > 2 else 0])


def busy_s(core: int) -> float:
    """Seconds that a core has worked since the machine started, for whomever."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) / TICKS_PER_S
    raise BenchError(f"/proc/stat says nothing about core {core}.")


def hurry(pid: int, urgency: int) -> bool:
    """Let a process run as soon as it can, before all that is not urgent: its time stamps are then
    of when something happened, not of when it got the core that clients and upstream share. Says
    whether that is allowed here.
    """
    try:
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(urgency))
    except PermissionError:
        return False
    return True


def _may_hurry() -> bool:
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    allowed = hurry(0, 1)
    os.sched_setscheduler(0, policy, parameter)
    return allowed


def kernel_bytes() -> int:
    """What the kernel holds for sockets and all that hangs on them: slabs, and TCP's buffers."""
    meminfo = Path("/proc/meminfo").read_text()
    slab_kb = int(re.search(r"^Slab:\s+(\d+)", meminfo, re.MULTILINE)[1])  # type: ignore[index]
    sockstat = Path("/proc/net/sockstat").read_text()
    pages = int(re.search(r"^TCP: .* mem (\d+)", sockstat, re.MULTILINE)[1])  # type: ignore[index]
    return slab_kb * 1024 + pages * os.sysconf("SC_PAGESIZE")


def wait_for_quiet(on: Cores, patience_s: float) -> None:
    """Until the cores have been nearly idle for a second, or patience has run out."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        before_s = sum(map(busy_s, on.all))
        time.sleep(1.0)
        if sum(map(busy_s, on.all)) - before_s < QUIET_SHARE:
            return


def facts() -> dict[str, object]:
    """The machine and what runs on it."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    kernel = re.match(r"[0-9.]+", platform.release())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in info,
        "instruments_in_real_time": _may_hurry(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "kernel": kernel[0] if kernel else platform.release(),
        "versions": {
            "python": platform.python_version(),
            "gcc": _say("gcc", "-dumpfullversion"),
            **{name: version(name) for name in _PACKAGES},
            **_debian(),
            **_go(),
            **_pinned(),
        },
        "commit": _say("git", "rev-parse", "HEAD"),
        "uncommitted": bool(
            _say("git", "status", "--porcelain", "--", "src", "bench", ":!bench/results")
        ),
    }


def _debian() -> dict[str, str]:
    form = "${Package} ${Version}\n"
    names = ("nginx", "libnginx-mod-nchan", "pushpin")
    found = [_say("dpkg-query", "-W", "-f", form, name) for name in names]
    return dict(line.split(" ", 1) for line in found if " " in line)


def _go() -> dict[str, str]:
    files = sorted((_ROOT / "bench" / ".cache" / "bin").glob("*.version"))
    return {file.stem: file.read_text().strip() for file in files}


def _pinned() -> dict[str, str]:
    """Peers in an environment of their own, which has what its lock file says."""
    lock = (_ROOT / "bench" / "requirements.lock").read_text()
    return dict(re.findall(r"^(sse-starlette|uvicorn)==(\S+)", lock, re.MULTILINE))


def _say(*argv: str) -> str:
    """What a program prints; empty where it isn't there or fails."""
    try:
        done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
