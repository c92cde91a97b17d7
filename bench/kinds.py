"""Kinds of scenarios: what can be measured, and the words that say how.

A number of events is chosen so that a contestant needs some seconds for them; a finite number is
what allows to say that none was lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DESKTOPS = "/api/desktops/stream"
ACTIVITY = "/api/mission-control/activity/stream"


@dataclass(frozen=True, slots=True)
class Load:
    """Who is connected: `users`, each with `tabs`, each tab with every path of `paths`."""

    users: int
    tabs: int
    paths: tuple[str, ...] = (DESKTOPS,)
    data_bytes: int = 200

    @property
    def feeds(self) -> int:
        """Upstream subscriptions that this needs."""
        return self.users * len(self.paths)

    @property
    def connections(self) -> int:
        """Client streams."""
        return self.feeds * self.tabs


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a scenario. `events` go through each feed while it is measured."""

    contestant: str
    events: int = 0
    label: str = ""
    stuck: int = 0  # connections that are never read
    redis: bool = False
    tls: bool = False  # to upstream
    settings: Mapping[str, str] = field(default_factory=dict)
    cannot: str = ""  # why it takes no part in this scenario

    @property
    def title(self) -> str:
        """How the row is called."""
        return self.label or self.contestant


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Entry):
    """One step of a growth: its row has a load of its own, and is called after its size."""

    at: int
    load: Load
    rate: float
    warmup: int
    idle: int = 0  # connections besides, of users who get no events; whole users


@dataclass(frozen=True, slots=True)
class Goal:
    """What `entry` should reach: a bound on one number, or on its ratio to another row's."""

    metric: str
    most: float | None = None
    least: float | None = None
    against: str = ""  # the other row; empty: the number itself
    entry: str = "relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What every scenario has. Ratios in the table are against the row `baseline`."""

    name: str
    title: str
    about: str
    entries: tuple[Entry, ...]
    columns: tuple[str, ...]  # of the table; "× name" is the ratio to the baseline
    baseline: str = "relay"
    goals: tuple[Goal, ...] = ()
    plot: str = ""  # the metric that is drawn for all rows
    rounds: int = 3
    on_request: bool = False  # takes so long that it runs only when it is named


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Contest):
    """Events go through; CPU, delay and order are looked at.

    `rate` is in events a second over all feeds; 0: as fast as they are taken.
    """

    load: Load
    rate: float
    warmup: int  # events for each feed before the measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth(Contest):
    """The same as a delivery, at several sizes of one thing; every entry is a `Step`."""

    unit: str  # what `Step.at` counts
    metric: str  # what is drawn over it


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle(Contest):
    """Nothing goes through; resident memory is looked at, at several numbers of streams."""

    load: Load
    steps: tuple[int, ...]  # how many connections are open when memory is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm(Contest):
    """All connections but the first `staying` are dropped, and come back with cursors at once."""

    load: Load
    staying: int
    back: int  # events that each has to catch up with
    rate: float  # live events meanwhile, over all feeds
    live_s: float  # how long those go on: longer than the storm lasts
    warmup: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak(Contest):
    """Clients come and go for minutes; memory is sampled, and at the end all of them leave."""

    load: Load
    rate: float  # events a second, over all feeds
    toggles_per_s: int  # connections that are dropped or opened
    minutes: float


Scenario = Delivery | Growth | Idle | Storm | Soak
