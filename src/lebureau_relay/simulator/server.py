"""The simulator as a thing that can be started, with a plain method for everything it can do.

In one process with the code under test, a test needs no second client to give orders. State lives
as long as the object: a stop and a start on the same port is a restart of a server that remembers;
`restart(amnesia=True)` is one that does not.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import EllipsisType
from typing import Final

from aiohttp import web

from lebureau_relay.errors import StartError
from lebureau_relay.simulator.accounts import CAPABILITIES, User
from lebureau_relay.simulator.api import Api, RequestSeen
from lebureau_relay.simulator.channel import Channel, Record
from lebureau_relay.simulator.control import Control
from lebureau_relay.simulator.faults import FaultBook, parse_fault
from lebureau_relay.simulator.options import SimulatorOptions, Stream
from lebureau_relay.simulator.world import World

# A reconnect storm is what the simulator is for; the default of 128 would drop its connections.
_BACKLOG: Final = 4096
# Events due within this time leave together: 500 wakings a second at most, whatever the rate.
_TICK_S: Final = 0.002
# A ticker that was held up makes good this much, not an hour's worth in one turn.
_CATCH_UP_S: Final = 1.0
# Streams are broken before this counts; it is for a handler that hangs.
_SHUTDOWN_S: Final = 1.0
_UNTIL_POLL_S: Final = 0.005


class Simulator:
    """A simulated API. Start it, use `url`; raises StartError if its port is taken."""

    __slots__ = ("_address", "_api", "_options", "_runner", "_tasks", "_world")

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self._options = options or SimulatorOptions()
        faults = FaultBook()
        self._world = World(self._options, faults)
        self._api = Api(self._options, self._world, faults)
        for text in self._options.faults:
            self._api.order(parse_fault(text))
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._address: tuple[str, int] = ("", 0)

    # Life

    @property
    def url(self) -> str:
        """The origin it serves, without a slash at the end; known from the first start on."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serve; port 0 takes a free one."""
        app = web.Application()
        self._api.install(app)
        if self._options.control:
            Control(self._api).install(app)
        # Not before the listener is closed: whoever is cut comes back at once.
        app.on_shutdown.append(self._end_all)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG, reuse_address=True).start()
        except OSError as error:
            await runner.cleanup()
            cause = str(error.strerror or error).rpartition(": ")[2]
            raise StartError(
                f"simulator: can't listen on {host}:{port} ({cause}); choose another port"
            ) from error
        self._runner = runner
        self._address = runner.addresses[0][:2]
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._beat())]

    async def stop(self) -> None:
        """Close the port and break every connection; accounts, logs and standing faults stay.

        May be called twice.
        """
        runner, self._runner = self._runner, None
        for task in self._tasks:
            task.cancel()
        if runner is not None:
            await runner.cleanup()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task  # one that had failed says so here

    async def restart(self, *, amnesia: bool = False, renumber: bool = False) -> None:
        """Stop, and start on the same port.

        `amnesia` comes back without its logs, `renumber` counts ids from 1 again.
        """
        await self.stop()
        if amnesia:
            self.fault("amnesia")
        if renumber:
            self.fault("renumber")
        await self.start(*self._address)

    async def _end_all(self, _app: web.Application) -> None:
        self._api.end_all()

    async def _tick(self) -> None:
        """Let time pass: every channel in its turn, so that no two users' events come in step."""
        if not self._options.rate:
            return
        clock = asyncio.get_running_loop().time
        told, since_s = 0, clock()
        turns = self._turns()
        while True:
            await asyncio.sleep(max(_TICK_S, 0.2 / (self._options.rate * len(turns))))
            if len(turns) != 2 * len(self._world.accounts.users):
                turns, told, since_s = self._turns(), 0, clock()
            pace = self._options.rate * len(turns)
            due = int((clock() - since_s) * pace)
            told = max(told, due - int(_CATCH_UP_S * pace) - 1)
            for turn in range(told, due):
                self._world.tell(*turns[turn % len(turns)])
            told = due

    def _turns(self) -> list[tuple[str, Stream]]:
        return [(user, stream) for user in self._world.accounts.users for stream in Stream]

    async def _beat(self) -> None:
        interval_s = self._options.heartbeat_s
        while interval_s:
            await asyncio.sleep(interval_s / 4)
            self._api.beat()

    # Accounts

    @property
    def users(self) -> tuple[User, ...]:
        """Every account, in order of creation."""
        return tuple(self._world.accounts.users.values())

    def user(self, number: int = 1) -> User:
        """An account by its number, counting from 1."""
        return self.users[number - 1]

    def add_user(self) -> User:
        """A new account with two keys, a limited key and two session cookies."""
        return self._world.add_user()

    def add_key(self, user: str, capabilities: Sequence[str] = CAPABILITIES) -> str:
        """A new key for a user. Raises KeyError for an unknown one."""
        return self._world.accounts.add_key(user, capabilities)

    def add_cookie(self, user: str) -> str:
        """A new session cookie's value for a user. Raises KeyError for an unknown one."""
        return self._world.accounts.add_cookie(user)

    def revoke(self, secret: str, *, cut: bool = False) -> bool:
        """Let a key or a cookie's value open nothing from now on; whether it did until now.

        `cut` breaks the streams that it opened, too.
        """
        return self._api.revoke(secret, cut=cut)

    # Events

    def emit(self, user: str, stream: Stream | str, count: int = 1) -> list[Record]:
        """Emit the next events of the user's story."""
        return [self._world.tell(user, Stream(stream)) for _ in range(count)]

    def emit_event(
        self,
        user: str,
        stream: Stream | str,
        kind: str,
        payload: Mapping[str, object],
        *,
        event_id: str | EllipsisType | None = ...,
        event: str = "",
    ) -> Record:
        """Emit one event of any type.

        `event_id` is numbered unless given, None leaves it out; `event` names the SSE message.
        """
        return self._world.emit(user, Stream(stream), kind, payload, event_id=event_id, event=event)

    def emit_raw(
        self, user: str, stream: Stream | str, raw: bytes, event_id: str | None = None
    ) -> Record:
        """Put exact bytes on the wire; `event_id` is what a `Last-Event-ID` can name them by."""
        return self._world.emit_raw(user, Stream(stream), raw, event_id)

    def log(self, user: str, stream: Stream | str) -> tuple[Record, ...]:
        """What was emitted, oldest first, as far as the log goes back. Amnesia doesn't touch it."""
        return self._world.channel(user, Stream(stream)).records

    # Faults

    def fault(
        self,
        text: str,
        *,
        user: str | None = None,
        stream: str | None = None,
        times: int | None = None,
        every: int | None = None,
        while_open: bool = False,
    ) -> int:
        """Order a fault in the text form of `parse_fault`; the arguments win over what it says.

        `while_open` does it to the streams open now, and only to them. Returns to how many it was
        done, 0 for an order that stands. Raises ConfigError.
        """
        order = parse_fault(text, user=user, stream=stream, times=times, every=every)
        return self._api.order(order, while_open=while_open)

    def clear_faults(self) -> None:
        """Behave again, on open streams too; what these held back goes out."""
        self._api.clear_faults()

    def cut_all(self) -> int:
        """Break every open stream. Returns how many."""
        return self.fault("cut", while_open=True)

    # What it has seen

    def open_subscriptions(
        self, user: str | None = None, stream: Stream | str | None = None
    ) -> int:
        """Streams open now, of all or one user and stream."""
        return sum(channel.open for channel in self._channels(user, stream))

    @property
    def subscriptions_total(self) -> int:
        """Streams open now, in all."""
        return self.open_subscriptions()

    def subscriptions_opened(
        self, user: str | None = None, stream: Stream | str | None = None
    ) -> int:
        """Streams ever opened."""
        return sum(channel.opened for channel in self._channels(user, stream))

    def subscriptions_peak(self, user: str, stream: Stream | str) -> int:
        """The most streams that one user had open at one time."""
        return self._world.channel(user, Stream(stream)).peak

    def _channels(self, user: str | None, stream: Stream | str | None) -> Iterator[Channel]:
        kind = None if stream is None else Stream(stream)
        return (channel for _, _, channel in self._world.channels(user, kind))

    @property
    def requests(self) -> tuple[RequestSeen, ...]:
        """The latest requests as they came, oldest first, without those to `/_sim`."""
        return tuple(self._api.requests)

    def state(self) -> dict[str, object]:
        """The numbers that `GET /_sim/state` shows."""
        return self._api.state()

    async def until(self, true: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until something has come true. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110 - any condition, also one that nobody signals
                await asyncio.sleep(_UNTIL_POLL_S)
