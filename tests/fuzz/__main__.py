"""`make fuzz`: all targets in turn, from a new seed each time, until the minutes are over."""

import sys
import time

from tests.fuzz.mutate import Found, fuzz
from tests.fuzz.targets import TARGETS

_TURN_S = 5.0


def main(minutes: float) -> int:
    tried = dict.fromkeys((target.name for target in TARGETS), 0)
    broken: dict[str, str] = {}
    ends_s = time.monotonic() + 60 * minutes
    while time.monotonic() < ends_s and len(broken) < len(TARGETS):
        for target in TARGETS:
            if target.name in broken:
                continue
            turn_s = min(_TURN_S, max(ends_s - time.monotonic(), 0.1))
            try:
                tried[target.name] += fuzz(target, seed=time.time_ns(), seconds=turn_s)
            except Found as found:
                broken[target.name] = str(found)
                print(f"FOUND {found}", flush=True)  # noqa: T201
    for name, count in tried.items():
        print(f"{name:12} {count:9} inputs {'BROKEN' if name in broken else 'held'}")  # noqa: T201
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
