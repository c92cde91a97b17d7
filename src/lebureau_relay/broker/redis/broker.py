"""The replica's seat at Redis: its members' logs and leases, and the tick that keeps them.

Keys and channels of one feed share a hash tag, so that they are in one slot of a cluster, and carry
only the feed's keyed hash. What is stored are frames as clients get them; no credential, cookie or
address ever comes here.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lebureau_relay.broker.redis.ears import Ears
from lebureau_relay.broker.redis.pipe import Argument, Pipe
from lebureau_relay.broker.redis.servers import Client
from lebureau_relay.core.event import Entry, GapCause
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.relay.ports import BrokerDown, Clock, LogPage, Member, Verdict

# The lease on the server is this share of `redis.lease_ttl`, and renewed at this other: a killed
# owner's lease has run out, and the next look at it has been taken, before the whole is over.
_LEASE_SHARE: Final = 0.6
_TICK_SHARE: Final = 0.15
# Keys outlast their feed by this, so that a deployment that restarts whole finds its histories
# again.
_KEEP_MARGIN_S: Final = 120.0
# Feeds that one call of the tick looks at: some 0.2 ms of the server's time, which others wait for.
_FEEDS_PER_TICK: Final = 50


@dataclass(frozen=True, slots=True)
class RedisRules:
    """What the broker needs of the settings. Durations in seconds."""

    prefix: str = "lbr"
    lease_ttl_s: float = 6.0
    history: HistoryLimits = HistoryLimits()  # noqa: RUF009 - frozen
    in_cluster: bool = False


class RedisBroker:
    """`relay.ports.Broker` on Redis. `run` is its life; `close` comes after it."""

    def __init__(
        self,
        client: Client,
        rules: RedisRules,
        clock: Clock,
        on_change: Callable[[bool], None],
        timed: Callable[[float], None],
    ) -> None:
        self._client = client
        self._rules = rules
        self._clock = clock
        self._on_change = on_change
        self.arrived = asyncio.Event()  # the server has answered for the first time
        self._replica = secrets.token_hex(6)
        self._members: dict[str, Member] = {}
        self._pipe = Pipe(client, self._changed, timed)
        self._own_channel = f"{rules.prefix}:{{{self._replica}}}:self"
        self._ears = Ears(
            client, self._own_channel, self._heard, self._deaf, self._speak, self._tick_s
        )
        self._channels: dict[str, str] = {}  # channel -> feed

    @property
    def _tick_s(self) -> float:
        return self._rules.lease_ttl_s * _TICK_SHARE

    @property
    def _lease_ms(self) -> int:
        return int(self._rules.lease_ttl_s * _LEASE_SHARE * 1000)

    @property
    def _keep_ms(self) -> int:
        return int((self._rules.history.max_age_s + _KEEP_MARGIN_S) * 1000)

    def is_up(self) -> bool:
        """Whether the server answers, as far as is known."""
        return self._pipe.up

    # -- members

    def enter(self, feed: str, member: Member) -> None:
        """Call this member back from now on."""
        self._members[feed] = member
        channel = self._key(feed, "said")
        self._channels[channel] = feed
        self._ears.listen(channel)

    def leave(self, feed: str) -> None:
        """Stop calling back."""
        self._members.pop(feed, None)
        channel = self._key(feed, "said")
        self._channels.pop(channel, None)
        self._ears.ignore(channel)

    # -- leases

    async def take(self, feed: str, *, wanted: bool) -> str | None:
        """A token if the lease was free or is ours; None if another has it."""
        keys = self._keys(feed, "lease", "fence", "wanted")
        token = await self._pipe.call(
            "take", keys, self._replica, self._lease_ms, "1" if wanted else ""
        )
        return None if token is None else str(token.decode())

    async def give(self, feed: str, token: str, *, if_wanted: bool) -> bool:
        """Give the lease back, or only if another replica wants it; whether it was given."""
        given = await self._pipe.call(
            "give",
            self._keys(feed, "lease", "wanted"),
            token,
            self._replica,
            "1" if if_wanted else "",
            self._client.publish,
            self._key(feed, "said"),
        )
        return bool(given)

    # -- log

    async def read(self, feed: str, after: int) -> LogPage | None:
        """What the log holds after an offset."""
        said = await self._pipe.call("read", self._keys(feed, "meta", "log"), after)
        if said is None:
            return None
        epoch, base, floor_id, top, entries = said
        now_s = self._clock()
        return LogPage(
            epoch.decode(),
            int(base),
            floor_id,
            int(top),
            tuple(_entry(one, now_s) for one in entries),
        )

    async def append(
        self, feed: str, token: str, epoch: str, after: int, entries: Sequence[Entry]
    ) -> Verdict:
        """Add entries behind offset `after`."""
        return await self._write(feed, token, epoch, after, b"", "", entries)

    async def begin(
        self,
        feed: str,
        token: str,
        epoch: str,
        base: int,
        floor_id: bytes,
        entries: Sequence[Entry],
    ) -> Verdict:
        """Replace the log by a new one."""
        return await self._write(feed, token, epoch, base, floor_id, "1", entries)

    async def _write(
        self,
        feed: str,
        token: str,
        epoch: str,
        after: int,
        floor_id: bytes,
        begin: str,
        entries: Sequence[Entry],
    ) -> Verdict:
        limits = self._rules.history
        arguments: list[Argument] = [token, epoch, after, floor_id, begin]
        arguments += [limits.max_events, limits.max_bytes, int(limits.max_age_s * 1000)]
        arguments += [self._keep_ms, self._client.publish, self._key(feed, "said")]
        for entry in entries:
            arguments += [entry.offset, entry.id, entry.frame, entry.gap.value if entry.gap else ""]
        keys = self._keys(feed, "lease", "meta", "log", "fence")
        return Verdict((await self._pipe.call("append", keys, *arguments)).decode())

    # -- life

    async def run(self) -> None:
        """Serve calls, listen and keep leases, until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._pipe.run())
            parts.create_task(self._ears.run())
            parts.create_task(self._keep())

    async def close(self) -> None:
        """Drop the connections."""
        await self._client.close()

    async def policy(self) -> str:
        """The server's eviction policy, which must be `noeviction`; empty where it won't say."""
        return await self._client.policy()

    async def _keep(self) -> None:
        """Renew what we hold, look at what we don't, a few times within a lease."""
        while True:
            await asyncio.sleep(self._tick_s)
            if self._pipe.up:
                await self._tick()

    async def _tick(self) -> None:
        size = 1 if self._rules.in_cluster else _FEEDS_PER_TICK
        await asyncio.gather(
            *(self._tick_some(some) for some in _batches(list(self._members), size)),
            return_exceptions=True,
        )

    async def _tick_some(self, feeds: Sequence[str]) -> None:
        keys: list[str] = []
        arguments: list[Argument] = [self._replica, self._lease_ms, self._keep_ms]
        tokens = []
        for feed in feeds:
            member = self._members[feed]
            keys += self._keys(feed, "lease", "meta", "log", "fence", "wanted")
            arguments += [member.token or "", "1" if member.in_use else ""]
            tokens.append(member.token)
        try:
            answers = await self._pipe.call("tick", keys, *arguments)
        except BrokerDown:
            return
        for place, feed in enumerate(feeds):
            state, epoch, top = answers[place * 3 : place * 3 + 3]
            self._ticked(feed, tokens[place], state.decode(), epoch.decode(), int(top or 0))

    def _ticked(self, feed: str, token: str | None, state: str, epoch: str, top: int) -> None:
        member = self._members.get(feed)
        if member is None or member.token != token:  # it has changed its part meanwhile
            return
        if state == "lost":
            member.lease_lost()
        elif state == "wanted":
            member.wanted_elsewhere()
        elif state == "free":
            member.lease_free()
        if epoch:
            member.log_moved(epoch, top)

    def _heard(self, channel: str, word: str) -> None:
        """Somebody said that a log has moved, or that a lease is free."""
        member = self._members.get(self._channels.get(channel, ""))
        if member is None:
            return
        if word == "free":
            member.lease_free()
        else:
            epoch, _, top = word.rpartition(":")
            member.log_moved(epoch, int(top))

    def _deaf(self) -> None:
        """What was said until now may have been missed: look at every log."""
        for member in list(self._members.values()):
            member.look_again()

    async def _speak(self) -> None:
        if self._pipe.up:
            await self._client.say(self._own_channel, "here")

    def _changed(self, up: bool) -> None:  # noqa: FBT001 - it is what changed
        self.arrived.set()
        self._on_change(up)
        for member in list(self._members.values()):
            member.broker_changed()

    def _key(self, feed: str, part: str) -> str:
        return f"{self._rules.prefix}:{{{feed}}}:{part}"

    def _keys(self, feed: str, *parts: str) -> list[str]:
        return [self._key(feed, part) for part in parts]


def _batches(feeds: Sequence[str], size: int) -> list[Sequence[str]]:
    return [feeds[start : start + size] for start in range(0, len(feeds), size)]


def _entry(said: Any, now_s: float) -> Entry:
    """An entry as the log holds it: its stream id is its offset."""
    name, fields = said
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    gap = found[b"g"].decode()
    return Entry(
        int(name.partition(b"-")[0]),
        found[b"i"],
        found[b"f"],
        now_s,
        GapCause(gap) if gap else None,
    )
