"""The relay as its command runs it, which on SIGUSR2 also says what it has that nothing outside can
count: asyncio tasks, and histories with their events.

A soak has to know that none stays behind, and whether memory that grew is theirs. Histories that
nobody uses any more, but that still lie about, are counted, too.
"""

import asyncio
import gc
import json
import signal
import sys

from lebureau_relay.cli import main
from lebureau_relay.core.history import History


def say(*_: object) -> None:
    """One line of JSON on stdout; the handler runs within the loop's thread."""
    histories = [one for one in gc.get_objects() if type(one) is History]
    held = {"histories": len(histories), "events": sum(map(len, histories))}
    print(json.dumps({"tasks": len(asyncio.all_tasks())} | held), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, say)
    sys.exit(main())
