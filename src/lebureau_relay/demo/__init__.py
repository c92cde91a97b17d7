"""The demo: simulator, relay and a page that shows what the relay does, in one process.

It is glue and a page; what it shows is done by the rooms it borrows. The wiring hands it a way to
make a relay, since only the wiring may know how.
"""

from lebureau_relay.demo.run import run
from lebureau_relay.demo.stage import AddRoutes, MakeRelay, RunningRelay

__all__ = ["AddRoutes", "MakeRelay", "RunningRelay", "run"]
