"""Starvation: what a machine with far too much to do makes of a process. It runs for moments, and
is frozen between them, now and then for longer than a lease lasts.

On a quiet machine and by a seed, so that it can be played again.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator

# A moment is long enough for some turns of a loop, and shorter than what most calls take in all.
_RUN_S = (0.02, 0.3)
# Most sleeps are short; one in `_LONG` is about as long as a lease, or longer.
_SLEEP_S = (0.05, 1.2)
_LONG = 6
_LEASES = (0.75, 1.5)


def pulses(seed: str, for_s: float, lease_s: float) -> Iterator[tuple[float, float]]:
    """How long it sleeps, and how long it then runs, again and again; in all about so long."""
    dice, left_s = random.Random(seed), for_s
    while left_s > 0:
        if dice.randrange(_LONG):
            sleep_s = dice.uniform(*_SLEEP_S)
        else:
            sleep_s = lease_s * dice.uniform(*_LEASES)
        run_s = dice.uniform(*_RUN_S)
        left_s -= sleep_s + run_s
        yield sleep_s, run_s


async def starve(
    stop: Callable[[], None], go: Callable[[], None], times: Iterable[tuple[float, float]]
) -> None:
    """Stop and let go by pulses; whatever happens, the last word is `go`."""
    try:
        for sleep_s, run_s in times:
            stop()
            await asyncio.sleep(sleep_s)
            go()
            await asyncio.sleep(run_s)
    finally:
        go()
