"""The replica's seat at Redis: its members' logs and leases, and the tick that keeps them.

Keys and channels of one feed share a hash tag, so that they are in one slot of a cluster, and carry
only the feed's keyed hash. What is stored are frames as clients get them; no credential, cookie or
address ever comes here.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from lebureau_relay.broker.redis.ears import Ears
from lebureau_relay.broker.redis.pipe import Pipe, Request
from lebureau_relay.broker.redis.servers import Argument, Client
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
_POLICIES_TIMEOUT_S: Final = 2.0
# Of an offset: what its server can count to, and far below what Python refuses to read.
_MAX_DIGITS: Final = 19
_PARTS: Final = ("lease", "meta", "log", "fence", "wanted", "said")
_HELD: Final = b"held:"
_VERDICTS: Final = {verdict.value.encode(): verdict for verdict in Verdict}


@dataclass(frozen=True, slots=True)
class RedisRules:
    """What the broker needs of the settings. Durations in seconds."""

    prefix: str = "lbr"
    lease_ttl_s: float = 6.0
    history: HistoryLimits = HistoryLimits()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class _Names:
    """What a feed's keys and its channel are called."""

    lease: str
    meta: str
    log: str
    fence: str
    wanted: str
    said: str

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the order of `tick` and `probe`."""
        return (self.lease, self.meta, self.log, self.fence, self.wanted)


class RedisBroker:
    """`relay.ports.Broker` on Redis. `run` is its life; `close` comes after it.

    `replica` names this one in tokens: no other's, and without colons; a random one without it.
    """

    def __init__(
        self,
        client: Client,
        rules: RedisRules,
        clock: Clock,
        on_change: Callable[[bool], None],
        timed: Callable[[float], None],
        replica: str = "",
    ) -> None:
        self.arrived = asyncio.Event()  # the server has answered for the first time
        self._client = client
        self._clock = clock
        self._on_change = on_change
        self._prefix = rules.prefix
        self._replica = replica or secrets.token_hex(6)
        self._members: dict[str, Member] = {}
        self._names: dict[str, _Names] = {}  # of the members' feeds: appends are many
        self._channels: dict[str, str] = {}  # channel -> feed
        self._tick_s = rules.lease_ttl_s * _TICK_SHARE
        self._lease_ms = int(rules.lease_ttl_s * _LEASE_SHARE * 1000)
        limits = rules.history
        self._keep_ms = int((limits.max_age_s + _KEEP_MARGIN_S) * 1000)
        self._bounds = (limits.max_events, limits.max_bytes, int(limits.max_age_s * 1000))
        self._pipe = Pipe(client, self._probes, self._changed, timed)
        self._ears = Ears(
            client, self._own_channels, self._speak, self._heard, self._again, self._tick_s
        )

    def is_up(self) -> bool:
        """Whether the server answers, as far as is known."""
        return self._pipe.up

    @property
    def pipe(self) -> Pipe:
        """By which whatever else this replica shares travels, too."""
        return self._pipe

    @property
    def why(self) -> str:
        """One word for why the server was last away: OutOfMemoryError, NoPermissionError …"""
        return self._pipe.why

    # -- members

    def enter(self, feed: str, member: Member) -> None:
        """Call this member back from now on."""
        names = self._names_of(feed)
        self._members[feed] = member
        self._names[feed] = names
        self._channels[names.said] = feed
        self._ears.listen(names.said)

    def leave(self, feed: str) -> None:
        """Stop calling back."""
        names = self._names.pop(feed, None)
        if names is not None:
            del self._members[feed], self._channels[names.said]
            self._ears.ignore(names.said)

    # -- leases

    async def take(self, feed: str, *, wanted: bool) -> str | None:
        """A token if the lease was free or is ours; None if another has it."""
        names = self._names_of(feed)
        arguments = (
            *(self._replica, self._lease_ms, self._keep_ms, secrets.token_hex(4)),
            "1" if wanted else "",
        )
        token = await self._pipe.call("take", (names.lease, names.fence, names.wanted), arguments)
        return None if token is None else str(token.decode())

    async def give(self, feed: str, token: str, *, if_wanted: bool) -> bool:
        """Give the lease back, or only if another replica wants it; whether it was given."""
        names = self._names_of(feed)
        arguments = (token, self._replica, "1" if if_wanted else "")
        given = await self._pipe.call(
            "give", (names.lease, names.wanted), (*arguments, self._client.publish, names.said)
        )
        return bool(given)

    # -- log

    async def read(self, feed: str, after: int) -> LogPage | None:
        """What the log holds after an offset."""
        names = self._names_of(feed)
        # Who reads from the start gets all there is; who goes on, a few.
        size_bytes = 0 if after else self._bounds[1]
        said = await self._pipe.call("read", (names.meta, names.log), (after,), size_bytes)
        if said is None:
            return None
        epoch, base, floor_id, top, entries = said
        now_s = self._clock()
        found = tuple(_entry(one, now_s) for one in entries)
        return LogPage(epoch.decode(), int(base), floor_id, int(top), found)

    async def append(
        self, feed: str, token: str, epoch: str, after: int, entries: Sequence[Entry]
    ) -> Verdict:
        """Add entries behind offset `after`."""
        return await self._write(feed, (token, epoch, after, b"", ""), entries)

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
        return await self._write(feed, (token, epoch, base, floor_id, "1"), entries)

    async def _write(
        self, feed: str, head: tuple[Argument, ...], entries: Sequence[Entry]
    ) -> Verdict:
        names = self._names_of(feed)
        arguments: list[Argument] = [
            *head,
            *self._bounds,
            *(self._keep_ms, self._client.publish, names.said),
        ]
        size_bytes = 0
        for offset, event_id, frame, _, gap in entries:
            arguments += (offset, event_id, frame, gap or "")
            size_bytes += len(frame)
        keys = (names.lease, names.meta, names.log, names.fence)
        return _VERDICTS[await self._pipe.call("append", keys, arguments, size_bytes)]

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

    async def policies(self) -> frozenset[str]:
        """The servers' eviction policies, each of which must be `noeviction`; empty where none
        would say.
        """
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(_POLICIES_TIMEOUT_S):
                return await self._client.policies()
        return frozenset()

    async def _keep(self) -> None:
        """Renew what we hold, look at what we don't, a few times within a lease."""
        while True:
            await asyncio.sleep(self._tick_s)
            if self._pipe.up:
                size = 1 if self._client.clustered else _FEEDS_PER_TICK
                feeds = list(self._members)
                some = (feeds[n : n + size] for n in range(0, len(feeds), size))
                await asyncio.gather(*map(self._tick, some))

    async def _tick(self, feeds: Sequence[str]) -> None:
        asked = [(feed, self._members[feed]) for feed in feeds if feed in self._members]
        keys: list[str] = []
        arguments: list[Argument] = [self._replica, self._lease_ms, self._keep_ms]
        tokens = []
        for feed, member in asked:
            keys += self._names[feed].keys
            arguments += (member.token or "", "1" if member.in_use else "")
            tokens.append(member.token)
        try:
            answers = await self._pipe.call("tick", keys, arguments)
        except BrokerDown:
            return
        for place, (feed, member) in enumerate(asked):
            # It may have left, or changed its part, while we asked.
            if self._members.get(feed) is member and member.token == tokens[place]:
                _tell(member, *answers[place * 3 : place * 3 + 3])

    # -- called by the pipe and the ears

    def _probes(self) -> Iterator[Request]:
        """How each server is tried: everything that scripts do, on keys of no feed."""
        for tag in self._client.tags():
            arguments = (self._client.publish, self._own_channel(tag), "here")
            yield "probe", self._names_of(tag).keys, arguments

    async def _speak(self) -> None:
        with suppress(BrokerDown):
            for script, keys, arguments in self._probes():
                await self._pipe.call(script, keys, arguments)

    def _own_channels(self) -> list[str]:
        return [self._own_channel(tag) for tag in self._client.tags()]

    def _heard(self, channel: str, word: str) -> None:
        """Somebody said that a log has moved, or that a lease is free."""
        member = self._members.get(self._channels.get(channel, ""))
        epoch, _, top = word.rpartition(":")
        if member is None:
            return
        if word == "free":
            member.lease_free()
        elif epoch and top.isdecimal() and len(top) <= _MAX_DIGITS:
            member.log_moved(epoch, int(top))

    def _again(self, channel: str) -> None:
        """What was said of this feed until now may have been missed."""
        member = self._members.get(self._channels.get(channel, ""))
        if member is not None:
            member.look_again()

    def _changed(self, up: bool) -> None:  # noqa: FBT001 - it is what changed
        self.arrived.set()
        self._on_change(up)
        for member in list(self._members.values()):
            member.broker_changed()

    # -- names

    def _own_channel(self, tag: str) -> str:
        return f"{self._prefix}:{{{tag}}}:{self._replica}"

    def _names_of(self, feed: str) -> _Names:
        known = self._names.get(feed)
        if known is not None:
            return known
        start = f"{self._prefix}:{{{feed}}}:"
        return _Names(*(start + part for part in _PARTS))


def _tell(member: Member, state: bytes, epoch: bytes, top: bytes) -> None:
    """What the tick found."""
    if state.startswith(_HELD):
        member.lease_held(state.removeprefix(_HELD).decode("utf-8", "replace"))
    elif state == b"lost":
        member.lease_lost()
    elif state == b"wanted":
        member.wanted_elsewhere()
    elif state == b"free":
        member.lease_free()
    if epoch:
        member.log_moved(epoch.decode(), int(top))


def _entry(said: Any, now_s: float) -> Entry:
    """An entry as the log holds it: its stream id is its offset, its fields are as `append` wrote
    them.
    """
    name, (_, event_id, _, frame, _, gap, *_) = said
    offset = int(name.partition(b"-")[0])
    return Entry(offset, event_id, frame, now_s, GapCause(gap.decode()) if gap else None)
