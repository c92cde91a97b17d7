"""The demo as a program: until SIGTERM or SIGINT, on uvloop."""

import asyncio
import signal
import socket
import sys
from typing import Final, TextIO

import uvloop

from lebureau_relay.demo.page import Page
from lebureau_relay.demo.stage import HOST, MakeRelay, Stage
from lebureau_relay.errors import StartError
from lebureau_relay.simulator import Stream

_MEND: Final = "For the demo: make demo PORT=…, or lebureau-relay demo --port …"


def run(make_relay: MakeRelay, port: int = 8080, out: TextIO = sys.stdout) -> int:
    """Show the demo until told to stop; returns the exit code. Port 0 takes a free one.

    Prints the page's address, a line for curl and how to stop to `out`; the key in it opens nothing
    but this process's simulator. Raises StartError if the port is taken.
    """
    return uvloop.run(show(make_relay, port or _free_port(), out))


async def show(make_relay: MakeRelay, port: int, out: TextIO) -> int:
    """`run` in the running loop; `port` is a real one."""
    stage = Stage(make_relay, port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await stage.open(Page(stage).install)
        print(_greeting(stage), file=out, flush=True)
        await stage.play(stop)
    except StartError as error:
        raise StartError(f"{error} {_MEND}") from error
    finally:
        await stage.close()
    return 0


def _greeting(stage: Stage) -> str:
    url = stage.url
    return (
        f"The page:       {url}/\n"
        f"In a terminal:  curl -N -H 'x-api-key: {stage.key}' {url}{Stream.DESKTOPS.path}\n"
        "To stop:        Ctrl-C"
    )


def _free_port() -> int:
    """A port that was free a moment ago: the relay must know the page's origins when it starts."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
