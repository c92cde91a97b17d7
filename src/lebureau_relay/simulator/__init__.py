"""The simulated Le Bureau API: a stand-in over real HTTP, for the demo, tests and benchmarks.

It is no part of the relay and imports nothing of it but the error tree. `Simulator` runs inside a
test's process, `run` as a program.
"""

from lebureau_relay.simulator.catalogue import Fault, describe_faults
from lebureau_relay.simulator.channel import Record
from lebureau_relay.simulator.options import IdMode, SimulatorOptions, Stream
from lebureau_relay.simulator.run import run
from lebureau_relay.simulator.server import Simulator

__all__ = [
    "Fault",
    "IdMode",
    "Record",
    "Simulator",
    "SimulatorOptions",
    "Stream",
    "describe_faults",
    "run",
]
