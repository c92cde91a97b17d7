"""The relay as its command runs it, which on SIGUSR2 also says how many asyncio tasks it has.

Nothing outside a process can count its tasks, and a soak has to know that none stays behind.
"""

import asyncio
import signal
import sys

from lebureau_relay.cli import main


def say(*_: object) -> None:
    """One line on stdout; the handler runs within the loop's thread."""
    print(len(asyncio.all_tasks()), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, say)
    sys.exit(main())
