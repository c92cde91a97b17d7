"""What a simulated API is like: its size, pace, limits and ids, as one frozen record.

It stands apart because the program's command line, tests and the demo all describe a simulator, and
only one room runs it. It knows nothing of `config`: these are options of a test instrument, not
settings of the relay.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lebureau_relay.errors import ConfigError
from lebureau_relay.simulator.faults import parse_fault

# What all logs together may hold: about 500 bytes each, so some 250 MB at worst, however many users
# there are.
MAX_RECORDS_HELD: Final = 500_000


class Stream(StrEnum):
    """The two streams of the API."""

    DESKTOPS = "desktops"
    ACTIVITY = "activity"

    @property
    def path(self) -> str:
        """Where the API serves it."""
        return _PATHS[self]


_PATHS: Final = {
    Stream.DESKTOPS: "/api/desktops/stream",
    Stream.ACTIVITY: "/api/mission-control/activity/stream",
}


class IdMode(StrEnum):
    """Which events carry an `id:`."""

    ALL = "all"
    SOME = "some"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """A simulated API. Raises ConfigError with every mistake at once.

    `rate` is events per second of each user and stream; 0 emits on request only, which is what
    deterministic tests want. `stamp` puts `"t"`, nanoseconds since the epoch, first into every data
    object. `log_events` bounds the replay log of one user's stream. `heartbeat_s` is the silence
    after which a comment goes out, 0 for never; `retry_ms` opens every stream with a `retry:` line.
    A limit of 0 is off. `faults` are in the text form of `parse_fault` and stand from the start.
    `control` serves the orders under `/_sim`, for who is in another process.
    """

    users: int = 3
    rate: float = 1.0
    seed: int = 1
    ids: IdMode = IdMode.ALL
    stamp: bool = False
    log_events: int = 10_000
    heartbeat_s: float = 15.0
    retry_ms: int | None = None
    connects_per_minute: int = 120
    failed_auth_per_minute: int = 10
    faults: tuple[str, ...] = ()
    control: bool = True

    def __post_init__(self) -> None:
        mistakes = [
            f"simulator: {name} is {value}; give {least} or more"
            for name, value, least in (
                ("users", self.users, 1),
                ("rate", self.rate, 0),
                ("log_events", self.log_events, 1),
                ("heartbeat_s", self.heartbeat_s, 0),
                ("retry_ms", self.retry_ms or 0, 0),
                ("connects_per_minute", self.connects_per_minute, 0),
                ("failed_auth_per_minute", self.failed_auth_per_minute, 0),
            )
            if not value >= least
        ]
        for text in self.faults:
            try:
                parse_fault(text)
            except ConfigError as error:
                mistakes.extend(error.mistakes)
        if mistakes:
            raise ConfigError(mistakes)
