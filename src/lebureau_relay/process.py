"""The process around a relay: its limits, its log, its signals, its one life.

It stands apart from the wiring, because tests and the demo have a process of their own, and from
the workers, because a process alone needs no others.
"""

import asyncio
import gc
import os
import resource
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
import uvloop

from lebureau_relay import __version__, logs
from lebureau_relay.config import Settings
from lebureau_relay.edge.admin import c_extensions
from lebureau_relay.edge.listener import Sockets
from lebureau_relay.errors import RelayError, StartError
from lebureau_relay.main import Relay

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD})
"""What the parent of workers waits for; each worker unblocks them once it listens to them."""


# Often enough that the line stands beside what failed for want of one.
_LOOK_FOR_DESCRIPTORS_S: Final = 1.0
# How many new containers before they are searched for cycles, and how often the older ones are too.
# What a stream or an event leaves behind goes by its reference count; with Python's own 700, 10, 10
# a quarter of a busy relay's CPU went into searching, and a walk over all that is old stops the
# loop for longer the more streams there are. At worst 50 000 containers in cycles wait.
_GC_THRESHOLDS: Final = (50_000, 20, 100)


@dataclass(frozen=True, slots=True)
class Post:
    """A worker's place among others.

    `lifeline` is a descriptor that can be read once the parent is gone; the worker's number is
    written to `served` when it serves.
    """

    number: int
    sockets: Sockets
    lifeline: int
    served: int


def check_machinery() -> None:
    """The parts that must be the fast and hardened ones. Raises StartError with the mend."""
    missing = [name for name, active in c_extensions().items() if not active]
    if missing:
        message = (
            f"aiohttp runs without its C extensions ({', '.join(missing)}), which are the hardened "
            "ones; install wheels of aiohttp and multidict, and leave AIOHTTP_NO_EXTENSIONS and "
            "MULTIDICT_NO_EXTENSIONS unset."
        )
        raise StartError(message)


def configure_logs(settings: Settings) -> logs.QueuedHandler:
    """Logs as the settings say; the caller owes the handler's `close`."""
    auth = settings.auth
    return logs.configure(
        settings.log.level,
        settings.log.format,
        secret_names=(auth.api_key_header, auth.query_parameter),
    )


def serve(settings: Settings) -> int:
    """Run the relay as this process until SIGTERM or SIGINT; the exit code. Raises RelayError."""
    check_machinery()
    return live(settings)


def live(settings: Settings, post: Post | None = None) -> int:
    """One relay's life in this process, alone or as a worker; the exit code. Raises RelayError."""
    _raise_descriptor_limit()
    _leave_no_core()
    handler = configure_logs(settings)
    logs.take_last_words()
    try:
        uvloop.run(_live(settings, post))
    finally:
        handler.close()
    return 0


async def _live(settings: Settings, post: Post | None) -> None:
    """Start, wait for a signal, drain unless there is a hurry, stop."""
    log = structlog.get_logger("lebureau_relay")
    if post is None:
        relay = Relay(settings)
    else:
        log = log.bind(worker=post.number)
        relay = Relay(settings, sockets=post.sockets, log=log)
    stop, now = asyncio.Event(), asyncio.Event()
    if post is None:
        _listen(stop, now)
    else:
        _listen_at(post, stop, now)
    await relay.start()
    # What is alive now stays: later collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    log.info("relay.started", public=relay.public_url, admin=relay.admin_url, version=__version__)
    if post is not None:
        os.write(post.served, bytes([post.number]))
    failed = asyncio.ensure_future(relay.failed.wait())
    failed.add_done_callback(lambda _: stop.set())
    watching = asyncio.ensure_future(_watch_descriptors(log))
    await stop.wait()
    failed.cancel()
    watching.cancel()
    log.info("relay.draining", streams=relay.hub.streams)
    draining = asyncio.ensure_future(relay.drain())
    hurried = asyncio.ensure_future(now.wait())
    await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurried):
        task.cancel()
    await asyncio.gather(draining, hurried, return_exceptions=True)
    await relay.stop()
    log.info("relay.stopped")
    if relay.failed.is_set():
        message = "a part of the relay failed and took it along; the log says which."
        raise RelayError(message)


def _listen(stop: asyncio.Event, now: asyncio.Event) -> None:
    """A second signal means that there is a hurry."""

    def on_signal() -> None:
        (now if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _listen_at(post: Post, stop: asyncio.Event, now: asyncio.Event) -> None:
    """A worker may be told twice and nobody is in a hurry: terminals and supervisors signal all
    processes of a group, and the parent passes it on. So a hurry is a signal of its own.
    """
    loop = asyncio.get_running_loop()

    def at_once() -> None:
        stop.set()
        now.set()

    def orphaned() -> None:
        loop.remove_reader(post.lifeline)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGQUIT, at_once)
    loop.add_reader(post.lifeline, orphaned)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


async def _watch_descriptors(log: structlog.stdlib.BoundLogger) -> None:
    """Say once that there are no descriptors left, and once that there are some again.

    Nobody else would: the loop ends whoever connects meanwhile without a word (libuv keeps one
    descriptor in hand for that), and streams that are open notice nothing.
    """
    lacked = ""
    while True:
        lacks = _lacks_descriptors()
        if lacks and not lacked:
            mend = "raise the limit (ulimit -Hn), or lower limits.streams_total"
            log.error("descriptors.exhausted", why=lacks, mend=mend)
        if lacked and not lacks:
            log.info("descriptors.back")
        lacked = lacks
        await asyncio.sleep(_LOOK_FOR_DESCRIPTORS_S)


def _lacks_descriptors() -> str:
    """Why no descriptor is to be had just now; empty where one is."""
    try:
        os.close(os.eventfd(0))
    except OSError as error:
        return str(error.strerror)
    return ""


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as the system grants: each stream is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_no_core() -> None:
    """No core file after a crash: all credentials would be in it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
