"""The stage: one simulated API, one relay in front of it, and what may be done to them.

It stands apart from the page so that what happens and what is shown of it don't mix: a test, or a
console, could give the same orders. The relay is known by its addresses only; its numbers are read
from its admin listener, as any operator would read them.
"""

import asyncio
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import web

from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream

HOST: Final = "127.0.0.1"
# Names that browsers take for this machine, each an origin of its own: a browser opens at most six
# connections to one origin over HTTP/1.1, and two streams a tab use them up.
WINDOWS: Final = 9
# Three events in two seconds on each stream: lively, and slow enough to be read. Comments between
# them tell the relay that upstream beats, so that it believes in silence after seconds. Any page in
# the same browser could reach the orders of a simulator, so this one takes none from outside. The
# log is short: floods fill it with long events.
_API: Final = SimulatorOptions(users=1, rate=1.5, heartbeat_s=0.4, control=False, log_events=2000)
# More than Chromium and the kernel hold for a reader that has stopped (2.3 MB when tried) and the
# relay's history beside it, at a pace that twenty tabs in one page can follow.
_FLOOD_STEPS: Final = 150
_FLOOD_STEP_EVENTS: Final = 4
_FLOOD_STEP_S: Final = 0.03
_FLOOD_TEXT: Final = "It scrolls by, and nobody reads it. " * 220
# The relay's numbers come from this process; what takes longer is a relay that restarts.
_READ_TIMEOUT = aiohttp.ClientTimeout(total=2.0)

AddRoutes = Callable[[web.Application], None]


class RunningRelay(Protocol):
    """What the demo needs of a relay."""

    @property
    def public_url(self) -> str:
        """The public listener's origin, once it has started."""

    @property
    def admin_url(self) -> str:
        """The admin listener's origin, once it has started."""

    async def start(self) -> None:
        """Take up service. Raises StartError."""

    async def drain(self) -> None:
        """End the streams in good order."""

    async def stop(self) -> None:
        """End whatever is left."""


MakeRelay = Callable[[Mapping[str, object], AddRoutes], RunningRelay]
"""Makes a relay of settings, nested as in their file, and of what adds routes to its public app."""


class Order(StrEnum):
    """What can be done to the scene."""

    CUT = "cut"
    SILENCE = "silence"
    FORGET = "forget"
    RESTART = "restart"
    WITHDRAW = "withdraw"
    GIVE_BACK = "give-back"
    FLOOD = "flood"


class Stage:
    """The scene. `open` it, `play` until the end, `close` it; all in one event loop."""

    def __init__(self, make_relay: MakeRelay, port: int) -> None:
        self.key: str | None = None  # what the page's streams are opened with; None: withdrawn
        self.restarts = 0
        self._make_relay = make_relay
        self._port = port
        self._simulator = Simulator(_API)
        self._relay: RunningRelay | None = None
        self._earlier: dict[str, int] = {}  # what relays before this one have counted
        self._add_routes: AddRoutes
        self._restart = asyncio.Event()
        self._flood: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self, add_routes: AddRoutes) -> None:
        """Start everything. Raises StartError."""
        self._add_routes = add_routes
        self._session = aiohttp.ClientSession(timeout=_READ_TIMEOUT)
        await self._simulator.start(HOST)
        self.key = self._simulator.user().key
        await self._raise_relay()

    async def close(self) -> None:
        """End everything, at once. May be called after a failed `open`."""
        if self._flood is not None:
            self._flood.cancel()
        await self._drop_relay()
        await self._simulator.stop()
        if self._session is not None:
            await self._session.close()

    async def play(self, stop: asyncio.Event) -> None:
        """Wait for `stop`; meanwhile restart the relay whenever that is ordered.

        Not within the order's own request, which the relay itself is serving. Raises StartError.
        """
        stopped = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            ordered = asyncio.ensure_future(self._restart.wait())
            await asyncio.wait((stopped, ordered), return_when=asyncio.FIRST_COMPLETED)
            ordered.cancel()
            if self._restart.is_set() and self._relay is not None:
                await self._relay.drain()
                numbers = await self._relay_numbers()
                self._earlier = numbers["totals"] if numbers else self._earlier
                await self._drop_relay()
                await self._raise_relay()
                self.restarts += 1
                self._restart.clear()
        stopped.cancel()

    @property
    def url(self) -> str:
        """The origin that page and streams share."""
        return "" if self._relay is None else self._relay.public_url

    def order(self, order: Order) -> None:
        """Do something to the scene; some of it takes effect in a moment."""
        simulator, user = self._simulator, self._simulator.user()
        match order:
            case Order.CUT:
                simulator.cut_all()
            case Order.SILENCE:
                simulator.fault("silence", while_open=True)
            case Order.FORGET:
                simulator.fault("amnesia")
                simulator.cut_all()
            case Order.RESTART:
                self._restart.set()
            case Order.WITHDRAW if self.key is not None:
                simulator.revoke(self.key)
                self.key = None
            case Order.GIVE_BACK if self.key is None:
                self.key = simulator.add_key(user.id)
            case Order.FLOOD if self._flood is None or self._flood.done():
                self._flood = asyncio.create_task(self._pour())

    async def _pour(self) -> None:
        """Let the API say more than a reader that has stopped can leave lying about."""
        user = self._simulator.user().id
        for _ in range(_FLOOD_STEPS):
            for _ in range(_FLOOD_STEP_EVENTS):
                payload = {"text": _FLOOD_TEXT}
                self._simulator.emit_event(user, Stream.DESKTOPS, "desktop.log", payload)
            await asyncio.sleep(_FLOOD_STEP_S)

    async def state(self) -> dict[str, object]:
        """The numbers: what the simulator counts, and what the relay says of itself."""
        simulator = self._simulator
        return {
            "key": self.key,
            "restarts": self.restarts,
            "upstream": {stream: simulator.open_subscriptions(stream=stream) for stream in Stream},
            "opened": {stream: simulator.subscriptions_opened(stream=stream) for stream in Stream},
            "relay": await self._relay_numbers(),
        }

    async def desktops(self) -> Any:
        """The user's desktops as the API lists them: what an application fetches to begin with.

        Asked with a key of the demo's own, which no order withdraws.
        """
        headers = {"x-api-key": self._simulator.user().keys[1]}
        assert self._session is not None  # noqa: S101 - opened before there are routes to ask
        async with self._session.get(f"{self._simulator.url}/api/desktops", headers=headers) as got:
            return await got.json()

    async def _relay_numbers(self) -> dict[str, Any] | None:
        """What the page shows of the relay's status; None while it restarts.

        Totals go on over restarts, as what the tabs have missed does: a gap stays told.
        """
        if self._relay is None or self._session is None:
            return None
        try:
            async with self._session.get(f"{self._relay.admin_url}/status") as answer:
                status = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return None
        totals = {name: n + self._earlier.get(name, 0) for name, n in status["totals"].items()}
        return {name: status[name] for name in ("subscribers", "upstream")} | {"totals": totals}

    async def _raise_relay(self) -> None:
        relay = self._make_relay(_settings(self._simulator.url, self._port), self._add_routes)
        await relay.start()
        self._relay = relay

    async def _drop_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.stop()


def hosts() -> tuple[str, ...]:
    """The names under which browsers reach the demo on this machine."""
    return (HOST, "localhost", *(f"window{n}.localhost" for n in range(1, WINDOWS + 1)))


def _settings(upstream_url: str, port: int) -> dict[str, object]:
    """The relay's settings: its defaults, but quick enough to be watched, and all on loopback."""
    return {
        "listen": {"host": HOST, "port": port},
        "admin": {"host": HOST, "port": 0},
        "upstream": {"base_url": upstream_url, "idle_timeout": 4, "retry_max": 2},
        # Who the key belongs to, not the key, decides what is shared: so a new key of the same
        # user finds the old feed.
        "auth": {"identity_path": "/v1/me", "recheck_interval": 2},
        # A tab that takes nothing is let go while whoever slowed it still looks on.
        "stream": {"retry": 1, "write_timeout": 15, "buffer_bytes": 65536},
        "drain": {"spread": 0.5},
        # Twenty tabs that come back from a restart are forty connects, and people like to do that
        # twice.
        "limits": {"connects_per_minute": 600},
        "cors": {"allowed_origins": [f"http://{name}:{port}" for name in hosts()]},
    }
