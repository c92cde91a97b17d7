"""Parts of one life: coroutines that begin and end together."""

import asyncio
from collections.abc import Coroutine


async def together(*lives: Coroutine[None, None, None]) -> None:
    """Run them until all are done or one fails; then none goes on. Raises what failed.

    No TaskGroup: one that is cancelled in the moment in which a part fails tells only of the
    failure (Python 3.11 and 3.12). Whoever catches that and goes on, as all do here to whom a
    server is a thing that fails, forgets that it was to end. After a sleep much is due in one turn,
    and a replica hung when it was to leave.
    """
    if not lives:
        return
    parts = [asyncio.ensure_future(life) for life in lives]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
    try:
        for part in done:
            if not part.cancelled():
                part.result()
    finally:
        del part, parts, done  # what failed knows this frame, and would hold itself
