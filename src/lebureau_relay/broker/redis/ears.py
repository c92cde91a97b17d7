"""The ears: one connection that listens for all feeds of this replica, and notices when it has gone
deaf.

Pub/sub loses silently: on a reconnect, on a full output buffer, on a path that swallows packets. So
redis-py's own quiet resubscription is off, each new connection tells `on_deaf` that everything must
be looked at again, and the replica says a word to itself now and then: where that isn't heard, the
connection is made anew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterPubSub
from redis.exceptions import RedisError

from lebureau_relay.broker.redis.servers import Client

# A connection that can't be made is tried again after this.
_RETRY_S: Final = 0.25
# Own words that may go unheard before the connection counts as deaf.
_MISSED: Final = 3


class Ears:
    """Channels, and what is said on them.

    `heard(channel, word)` for each message; `on_deaf` after each new connection; `speak` says a
    word on `own_channel`.
    """

    def __init__(
        self,
        client: Client,
        own_channel: str,
        heard: Callable[[str, str], None],
        on_deaf: Callable[[], None],
        speak: Callable[[], Awaitable[object]],
        word_every_s: float,
    ) -> None:
        self._client = client
        self._own_channel = own_channel
        self._heard = heard
        self._on_deaf = on_deaf
        self._speak = speak
        self._word_every_s = word_every_s
        self._channels = {own_channel}
        self._wanted: list[tuple[bool, str]] = []  # subscribe or not, what
        self._more = asyncio.Event()
        self._unheard = 0

    def listen(self, channel: str) -> None:
        """Hear what is said there from soon on."""
        self._channels.add(channel)
        self._wanted.append((True, channel))
        self._more.set()

    def ignore(self, channel: str) -> None:
        """No longer."""
        self._channels.discard(channel)
        self._wanted.append((False, channel))
        self._more.set()

    async def run(self) -> None:
        """Connect, listen, and connect again, until cancelled."""
        while True:
            pubsub = self._client.pubsub()
            try:
                await self._listen(pubsub)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(_RETRY_S)
            finally:
                with suppress(RedisError, OSError):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _listen(self, pubsub: PubSub) -> None:
        self._wanted = []
        self._unheard = 0
        await _subscribe(pubsub, sorted(self._channels))
        self._on_deaf()
        parts = [
            asyncio.ensure_future(self._read(pubsub)),
            asyncio.ensure_future(self._change(pubsub)),
            asyncio.ensure_future(self._talk()),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in parts:
                one.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            message = await _next(pubsub)
            if message is None or message["type"] not in ("message", "smessage"):
                continue
            channel, word = message["channel"].decode(), message["data"].decode()
            if channel == self._own_channel:
                self._unheard = 0
            else:
                self._heard(channel, word)

    async def _change(self, pubsub: PubSub) -> None:
        """Subscribe and unsubscribe, many at a time."""
        while True:
            await self._more.wait()
            self._more.clear()
            wanted, self._wanted = {channel: yes for yes, channel in self._wanted}, []
            await _subscribe(pubsub, [channel for channel, yes in wanted.items() if yes])
            await _unsubscribe(pubsub, [channel for channel, yes in wanted.items() if not yes])

    async def _talk(self) -> None:
        """Say a word to ourselves; not to hear it again and again is to be deaf."""
        while self._unheard < _MISSED:
            await asyncio.sleep(self._word_every_s)
            with suppress(RedisError, OSError):
                await self._speak()
                self._unheard += 1


async def _next(pubsub: PubSub) -> dict[str, Any] | None:
    found: dict[str, Any] | None
    if isinstance(pubsub, ClusterPubSub):
        found = await pubsub.get_sharded_message(timeout=1.0)
    else:
        found = await pubsub.get_message(timeout=None)
    return found


async def _subscribe(pubsub: PubSub, channels: Iterable[str]) -> None:
    names = list(channels)
    if names and isinstance(pubsub, ClusterPubSub):
        await pubsub.ssubscribe(*names)
    elif names:
        await pubsub.subscribe(*names)


async def _unsubscribe(pubsub: PubSub, channels: Iterable[str]) -> None:
    names = list(channels)
    if names and isinstance(pubsub, ClusterPubSub):
        await pubsub.sunsubscribe(*names)
    elif names:
        await pubsub.unsubscribe(*names)
