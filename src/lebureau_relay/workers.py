"""Several workers on one machine, where nothing else starts and watches them: `serve --workers`.

Each is a whole relay in a process of its own, and they share what replicas share: through Redis,
and nothing but Redis. What they have in common besides is the public port, on one socket that the
parent holds: no connection is lost with a worker (edge/listener.py says why not SO_REUSEPORT).

The parent forks them and waits for signals; it has no event loop and no threads, so that a fork at
any time is safe. It forks rather than starting the program anew because what it has read and
imported is then the same for all, is shared memory, and travels through no argument.
"""

import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from lebureau_relay.config import Settings
from lebureau_relay.core.backoff import Backoff
from lebureau_relay.edge.listener import Sockets
from lebureau_relay.errors import ConfigError
from lebureau_relay.main import bind_for
from lebureau_relay.process import SIGNALS, Post, check_machinery, configure_logs, live

# A worker that dies at once, again and again, must not keep the machine busy.
_BACKOFF: Final = Backoff(0.1, 30.0)
# Who has lived for so long had no trouble with starting.
_HEALTHY_S: Final = 60.0
_MAX_PORT: Final = 65_535


def serve_together(settings: Settings, size: int) -> int:
    """Run so many workers until SIGTERM or SIGINT; the exit code. Raises RelayError.

    It returns in each worker, too, at that worker's end.
    """
    check_together(settings, size)
    check_machinery()
    crew = _Crew(settings, bind_for(settings, size))
    post = crew.lead()
    return crew.code if post is None else live(settings, post)


def check_together(settings: Settings, size: int) -> None:
    """Whether these settings do for so many workers. Raises ConfigError with every mistake."""
    mistakes = []
    if not settings.redis.url.get_secret_value():
        mistakes.append(
            f"--workers: {size} processes share upstream, histories and limits through Redis, and "
            "redis.url is empty; set it, or run one process"
        )
    first, last = settings.admin.port, settings.admin.port + size - 1
    if first and last > _MAX_PORT:
        mistakes.append(
            f"admin.port: {first} leaves no ports for {size} workers, which count up from it; "
            "give a lower one, or 0 for any"
        )
    if first and first < settings.listen.port <= last:
        mistakes.append(
            f"admin.port: the workers' ports, {first} to {last}, meet listen.port, "
            f"{settings.listen.port}; move one of the two"
        )
    if mistakes:
        raise ConfigError(mistakes)


@dataclass(slots=True)
class _Worker:
    """One of the crew, through all its lives. `pid` 0: it is dead, and due again at `due_s`."""

    number: int
    sockets: Sockets
    pid: int = 0
    due_s: float = 0.0
    began_s: float = 0.0
    deaths: int = 0  # in a row, each soon after its start
    served: bool = False  # ever


class _Crew:
    """The workers, and the parent's life. `code` is its exit code after `lead`."""

    def __init__(self, settings: Settings, sockets: Sequence[Sockets]) -> None:
        self.code = 0
        self._settings = settings
        self._workers = [_Worker(number, one) for number, one in enumerate(sockets)]
        self._ending = False
        # The write end of the lifeline is the parent's alone: it closes when the parent dies.
        self._lifeline, self._held = os.pipe()
        self._news, self._served = os.pipe()
        os.set_blocking(self._news, False)

    def lead(self) -> Post | None:
        """Start workers, and start them again, until all have ended after a signal; None.

        In each worker it returns that worker's post at once.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._tell("info", "workers.started", workers=len(self._workers), pid=os.getpid())
        while True:
            for worker in self._due():
                if self._fork(worker):
                    return self._leave_for(worker)
            if self._ending and not any(worker.pid for worker in self._workers):
                self._close()
                self._tell("info", "workers.stopped")
                return None
            self._wait()

    def _due(self) -> list[_Worker]:
        now_s = time.monotonic()
        return [one for one in self._dead() if one.due_s <= now_s]

    def _dead(self) -> list[_Worker]:
        """Those that are to be started again."""
        return [] if self._ending else [one for one in self._workers if not one.pid]

    def _fork(self, worker: _Worker) -> bool:
        """Begin a worker's life; whether this process is it."""
        worker.began_s = time.monotonic()
        try:
            worker.pid = os.fork()
        except OSError as error:  # the system has no processes to give just now
            self._put_off(worker, str(error.strerror))
            return False
        return worker.pid == 0

    def _leave_for(self, worker: _Worker) -> Post:
        """In the worker: close what is the parent's and the others'."""
        os.close(self._held)
        os.close(self._news)
        for other in self._workers:
            if other is not worker:
                for sock in other.sockets.admin:
                    sock.close()
        return Post(worker.number, worker.sockets, self._lifeline, self._served)

    def _close(self) -> None:
        for one in self._workers:
            for sock in (*one.sockets.public, *one.sockets.admin):
                sock.close()
        for descriptor in (self._lifeline, self._held, self._news, self._served):
            os.close(descriptor)

    def _wait(self) -> None:
        """Until a signal comes, or a worker is due."""
        due_s = min((one.due_s for one in self._dead()), default=None)
        if due_s is None:
            said = signal.sigwaitinfo(SIGNALS)
        else:
            found = signal.sigtimedwait(SIGNALS, max(due_s - time.monotonic(), 0.0))
            if found is None:
                return
            said = found
        if said.si_signo != signal.SIGCHLD:
            self._end(hurry=self._ending or said.si_signo == signal.SIGQUIT)
        self._bury()

    def _end(self, *, hurry: bool) -> None:
        """Tell all workers: to drain, or to end at once."""
        if not self._ending:
            self._tell("info", "workers.draining")
        self._ending = True
        for worker in self._workers:
            if worker.pid:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGQUIT if hurry else signal.SIGTERM)

    def _bury(self) -> None:
        """Take leave of whoever has died: signals of several are one signal."""
        with suppress(BlockingIOError):
            for number in os.read(self._news, 4096):
                self._workers[number].served = True
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                for worker in self._workers:
                    if worker.pid == pid:
                        worker.pid = 0
                        self._died(worker, os.waitstatus_to_exitcode(status))

    def _died(self, worker: _Worker, code: int) -> None:
        """`code` is negative for a signal."""
        if self._ending:
            self.code = max(self.code, int(code != 0))
        elif code > 0 and not worker.served:
            # It never came to serve and has said why; so would a single process, and end.
            self.code = code
            self._end(hurry=False)
        else:
            self._put_off(worker, signal.Signals(-code).name if code < 0 else f"exit {code}")

    def _put_off(self, worker: _Worker, why: str) -> None:
        """Start it again, the later the oftener it has died."""
        now_s = time.monotonic()
        if now_s - worker.began_s > _HEALTHY_S:
            worker.deaths = 0
        delay_s = _BACKOFF.delay_s(worker.deaths, None, random.random)
        worker.due_s = now_s + delay_s
        worker.deaths += 1
        self._tell("error", "worker.ended", worker=worker.number, why=why, again_in_s=delay_s)

    def _tell(self, level: str, event: str, **facts: object) -> None:
        """One line, and the thread that writes it is gone again before anybody is forked."""
        handler = configure_logs(self._settings)
        getattr(structlog.get_logger("lebureau_relay"), level)(event, **facts)
        handler.close()
