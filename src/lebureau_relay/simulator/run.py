"""The simulator as a program of its own: until SIGTERM or SIGINT, on uvloop."""

import asyncio
import signal
import sys
from typing import Final, TextIO

import uvloop

from lebureau_relay.simulator.options import SimulatorOptions, Stream
from lebureau_relay.simulator.server import Simulator


def run(
    host: str = "127.0.0.1",
    port: int = 8081,
    options: SimulatorOptions | None = None,
    out: TextIO = sys.stdout,
) -> int:
    """Serve until told to stop; returns the exit code.

    Prints the address, a key and a line to try it to `out`. The key opens nothing but this
    simulator. Raises StartError if the port is taken.
    """
    return uvloop.run(_serve(host, port, Simulator(options), out))


async def _serve(host: str, port: int, simulator: Simulator, out: TextIO) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await simulator.start(host, port)
    try:
        print(_greeting(simulator), file=out, flush=True)
        await stop.wait()
    finally:
        await simulator.stop()
    return 0


# Breaks every open stream, which is what a relay is watched at first.
_FAULT: Final = '{"fault": "cut", "open": true}'


def _greeting(simulator: Simulator) -> str:
    key, url = simulator.user().key, simulator.url
    return (
        f"Simulated Le Bureau API at {url} (control, open to everybody: {url}/_sim/state)\n"
        f"A key: {key}\n"
        f"Try:   curl -N -H 'x-api-key: {key}' {url}{Stream.DESKTOPS.path}\n"
        f"Break: curl {url}/_sim/faults -d '{_FAULT}' (a GET names all)\n"
        "Stop:  Ctrl-C"
    )
