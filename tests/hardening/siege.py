"""A relay under attack, from outside: what its healthy clients see, and what it takes of the
machine, read from /proc.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.clients import SseClient, eventually
from tests.e2e.conftest import Program

ROOT = Path(__file__).parents[2]
# What a person calls at once, of a relay that has a core whenever it wants one. A calm one takes
# some milliseconds. Where others take the core, it is given as many times as long as that makes it.
PROMPT_S = 0.5
# On a machine that is busy with other things all is slow: calm, and whoever measures, who doesn't
# depend on the relay at all. The attack may cost no more than this many times as much.
TIMES_BUSY = 4
_BEAT_S = 0.03


class Timed(SseClient):
    """A client that knows how old each event was when it came, by the simulator's stamp."""

    def __init__(self) -> None:
        super().__init__()
        self.delays_s: list[float] = []

    def _take_piece(self, piece: Any) -> None:
        super()._take_piece(piece)
        if piece["data"] and not self.blocks[-1].type.startswith("relay."):
            stamp = json.loads(self.blocks[-1].data)["t"]
            self.delays_s.append((time.time_ns() - stamp) / 1e9)


def p99(delays_s: list[float]) -> float:
    assert len(delays_s) >= 100, "too few events to judge by"
    return sorted(delays_s)[int(len(delays_s) * 0.99)]


class Stand:
    """A relay as a process, its simulated API, and healthy clients that get events all the time."""

    def __init__(self, program: Program, simulator: Any, clients: list[Timed]) -> None:
        self.program = program
        self.simulator = simulator
        self.clients = clients
        self.pid = program.process.pid
        self.calm_s = 0.0
        self.late_s: list[float] = []  # how much later than asked we are woken ourselves
        self._beating: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return self.program.public_url

    async def _beat(self) -> None:
        user = self.simulator.user(1)
        while True:
            self.simulator.emit(user.id, "desktops", 1)
            asked_s = time.monotonic()
            await asyncio.sleep(_BEAT_S)
            self.late_s.append(time.monotonic() - asked_s - _BEAT_S)

    async def start(self) -> "Stand":
        """Begin to emit, and see how it is in peace."""
        self._beating = asyncio.ensure_future(self._beat())
        self.calm_s = await self.listen(1.0)
        return self

    async def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating

    async def listen(self, for_s: float) -> float:
        """The p99 of the delay of what comes from now on."""
        marks = [len(client.delays_s) for client in self.clients]
        await asyncio.sleep(for_s)
        return self.since(marks)

    def since(self, marks: list[int]) -> float:
        pairs = zip(self.clients, marks, strict=True)
        return p99([delay_s for client, mark in pairs for delay_s in client.delays_s[mark:]])

    @asynccontextmanager
    async def attack(self, name: str, number: int, key: str = "") -> Any:
        """Run an attack; inside it stands at full strength. What it tells is there afterwards.

        Healthy clients must get what they get without a word of the relay's own, and promptly.
        """
        process = await asyncio.create_subprocess_exec(
            # They would come from other machines, and take no CPU of this one.
            *("nice", "-n", "5", sys.executable, "-m", "tests.hardening.attacks"),
            *(name, self.url, str(number), key),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        told: dict[str, Any] = {}
        marks = [len(client.delays_s) for client in self.clients]
        beats = len(self.late_s)
        ran_s, waited_s = self.on_core_s
        try:
            async with asyncio.timeout(40):
                assert await process.stdout.readline() == b"ready\n"
            yield told
            process.stdin.close()
            async with asyncio.timeout(40):
                told |= json.loads(await process.stdout.readline())
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        now_ran_s, now_waited_s = self.on_core_s
        slower = 1 + (now_waited_s - waited_s) / (now_ran_s - ran_s)
        await self.were_prompt(marks, max(self.late_s[beats:]), slower, name)

    async def were_prompt(self, marks: list[int], late_s: float, slower: float, name: str) -> None:
        seen_s = self.since(marks)
        if seen_s > PROMPT_S:  # is it the attack, or the machine?
            self.calm_s = max(self.calm_s, await self.listen(1.0))
        bound_s = max(PROMPT_S * slower, TIMES_BUSY * max(self.calm_s, late_s))
        assert seen_s <= bound_s, (
            f"p99 {seen_s:.3f} s during {name}, {self.calm_s:.3f} s in peace; "
            f"we ourselves were {late_s:.3f} s late; others made it {slower:.1f} times slower"
        )
        for client in self.clients:
            assert not client.closed
            assert not client.told
            assert not client.faults

    # What it takes

    @property
    def rss_bytes(self) -> int:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
        )
        return int(fields["VmRSS"].split()[0]) * 1024

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def on_core_s(self) -> tuple[float, float]:
        """How long it has run, and how long it could have but had to wait for a core."""
        ran_ns, waited_ns, _ = Path(f"/proc/{self.pid}/schedstat").read_text().split()
        return int(ran_ns) / 1e9, int(waited_ns) / 1e9

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def as_before(self, descriptors: int) -> None:
        """Wait until it holds no more than that."""
        await eventually(
            lambda: self.descriptors <= descriptors + 2, 15, f"back to {descriptors} descriptors"
        )
