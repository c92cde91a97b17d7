"""The ears: one connection to each server that listens for all feeds of this replica, and notices
when it has gone deaf.

Pub/sub loses silently: on a reconnect, on a full output buffer, on a path that swallows packets. So
nothing here reconnects by itself: whatever goes wrong, all is dropped and listened to anew. Each
channel that the server confirms is told to `again`, for what was said there before may have been
missed. And the replica says a word to itself now and then on each server: where that isn't heard,
it is deaf.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Final

from redis.asyncio.connection import AbstractConnection

from lebureau_relay.broker.redis.servers import Client, packed
from lebureau_relay.broker.redis.together import together

# Connections that can't be made are tried again after this, and may take so long to be made.
_RETRY_S: Final = 0.25
_CONNECT_S: Final = 5.0
# Own words that may go unheard before a server counts as deaf.
_MISSED: Final = 3


class DeafError(Exception):
    """What is said no longer reaches us, or has moved elsewhere."""


class Ears:
    """Channels, and what is said on them.

    `heard(channel, word)` for each message; `again(channel)` from each moment on which it is
    listened to. `speak` says a word on every channel of `own`, which stands for the servers.
    """

    def __init__(
        self,
        client: Client,
        own: Callable[[], Iterable[str]],
        speak: Callable[[], Awaitable[object]],
        heard: Callable[[str, str], None],
        again: Callable[[str], None],
        word_every_s: float,
    ) -> None:
        self._client = client
        self._own = own
        self._speak = speak
        self._heard = heard
        self._again = again
        self._word_every_s = word_every_s
        self._channels: set[str] = set()
        self._wanted: dict[str, bool] = {}  # to be listened to, or no longer
        self._more = asyncio.Event()
        self._unheard: dict[str, int] = {}  # own channel -> words since one was heard there

    def listen(self, channel: str) -> None:
        """Hear what is said there; `again` tells from when on."""
        self._channels.add(channel)
        self._wanted[channel] = True
        self._more.set()

    def ignore(self, channel: str) -> None:
        """No longer."""
        self._channels.discard(channel)
        self._wanted[channel] = False
        self._more.set()

    async def run(self) -> None:
        """Connect, listen, and connect again, until cancelled."""
        while True:
            try:
                await self._listen()
            except Exception:  # noqa: BLE001 - whatever it is, to listen anew is what mends it
                await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(_CONNECT_S):
                await self._client.refresh()
                self._unheard = dict.fromkeys(self._own(), 0)
                lines = {
                    server: await stack.enter_async_context(self._client.line(server))
                    for server in {self._client.server_of(channel) for channel in self._unheard}
                }
            self._wanted = dict.fromkeys([*self._unheard, *self._channels], True)
            self._more.set()
            reading = map(self._read, lines.values())
            await together(*reading, self._change(lines), self._talk(lines.values()))

    async def _read(self, line: AbstractConnection) -> None:
        while True:
            kind, channel, word = await line.read_response(timeout=math.inf)
            name = channel.decode()
            if kind in (b"message", b"smessage"):
                if name in self._unheard:
                    self._unheard[name] = 0
                else:
                    self._heard(name, word.decode())
            elif name not in self._channels:
                continue
            elif kind in (b"subscribe", b"ssubscribe"):
                self._again(name)
            elif kind == b"sunsubscribe":  # unasked: its slot has gone to another server
                raise DeafError

    async def _change(self, lines: Mapping[str, AbstractConnection]) -> None:
        """Listen to what is wanted and no longer to what isn't, many at a time."""
        while True:
            await self._more.wait()
            self._more.clear()
            wanted, self._wanted = self._wanted, {}
            orders: dict[str, list[bytes]] = defaultdict(list)
            for channel, yes in wanted.items():
                command = self._client.subscribe if yes else self._client.unsubscribe
                orders[self._client.server_of(channel)].append(packed(command, channel))
            for server, said in orders.items():
                await lines[server].send_packed_command(b"".join(said), check_health=False)

    async def _talk(self, lines: Collection[AbstractConnection]) -> None:
        """Say a word to ourselves; not to hear it again and again is to be deaf."""
        while max(self._unheard.values()) < _MISSED:
            await asyncio.sleep(self._word_every_s)
            for line in lines:
                if not await self._client.leads(line):
                    raise DeafError
            for channel in self._unheard:
                self._unheard[channel] += 1
            await self._speak()
        raise DeafError
