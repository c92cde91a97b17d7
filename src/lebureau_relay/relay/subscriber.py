"""A subscriber: one downstream connection, a cursor on its feed, and the protocol that its socket
speaks to.

After the handoff this object is all the relay keeps of a stream, so it has slots and nothing else:
no task, queue, timer or lock. It knows when its socket can't take more; what to send it is the
feed's business.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from lebureau_relay.core import sse
from lebureau_relay.core.credential import Credential
from lebureau_relay.errors import CloseReason

if TYPE_CHECKING:
    from lebureau_relay.relay.feed import Feed

# A client has nothing to say on a stream. What it says all the same is read, so that its FIN is
# seen, and thrown away; more than this is an attack or a misunderstanding. 64 KiB lets a few
# pipelined requests pass.
MAX_INBOUND_BYTES = 64 * 1024


class State(Enum):
    """What a subscriber is doing."""

    REPLAYING = "replaying"  # reads the ring from its cursor, in turns with others
    LIVE = "live"  # goes with all others at the top: gets each flush
    PAUSED = "paused"  # its socket takes no more; keeps only its cursor
    WAITING = "waiting"  # its cursor is asked of upstream
    ENDING = "ending"  # has been told goodbye; the rest is flushed
    GONE = "gone"


class Subscriber(asyncio.Protocol):
    """One stream to one client.

    The transport has this object as its protocol and its buffer limits set; headers have been sent.
    `chunked` says whether bodies go in chunks (HTTP/1.1) or bare (1.0). `cursor` is where it stands
    unless it is LIVE: then it stands where all do, which the feed's Fanout knows.
    """

    __slots__ = (
        "chunked",
        "credential",
        "cursor",
        "feed",
        "inbound_bytes",
        "on_gone",
        "opened_at_s",
        "paused",
        "reason",
        "resume_id",
        "stalled_bytes",
        "stalled_since_s",
        "state",
        "transport",
        "watched",
    )

    def __init__(
        self,
        feed: "Feed",
        transport: asyncio.Transport,
        credential: Credential,
        *,
        chunked: bool,
        on_gone: Callable[[], None],
    ) -> None:
        self.feed = feed
        self.transport = transport
        self.credential = credential
        self.chunked = chunked
        self.on_gone = on_gone  # gives back what was taken for this stream
        self.cursor = 0
        self.state = State.REPLAYING
        self.paused = False
        self.reason: CloseReason | None = None
        self.resume_id = b""  # while WAITING: where it stands, in upstream's words
        self.opened_at_s = 0.0
        self.inbound_bytes = 0
        self.stalled_bytes = 0  # unsent when last looked at, while paused
        self.stalled_since_s = 0.0
        self.watched = False  # a look at whether it makes progress is due

    @property
    def place_id(self) -> bytes:
        """Where this subscriber stands, as a cursor."""
        return self.resume_id or self.feed.history.place_id(self.offset)

    @property
    def offset(self) -> int:
        """The offset of the last entry handed to the transport."""
        return self.feed.fanout.where(self) if self.state is State.LIVE else self.cursor

    def _go_alone(self, state: State) -> None:
        if self.state is State.LIVE:
            self.feed.fanout.leave(self)
        self.state = state

    def say(self, block: bytes) -> None:
        """Write bytes of the relay's own, framed as this client needs them."""
        self.transport.write(sse.chunk(block) if self.chunked else block)

    def end(self, reason: CloseReason, retry_ms: int) -> None:
        """End in good order: say why and from where to go on, flush, close. The feed aborts it if
        that takes long.
        """
        if self.state in (State.ENDING, State.GONE):
            return
        payload = {"reason": reason.value, "retry": retry_ms}
        self.say(sse.relay_event("relay.closing", payload, self.place_id, retry_ms))
        if self.chunked:
            self.transport.write(sse.LAST_CHUNK)
        self._go_alone(State.ENDING)
        self.reason = reason
        self.transport.close()

    def abort(self, reason: CloseReason) -> None:
        """End at once, dropping what is unsent: `close` would wait for a peer that doesn't read."""
        if self.state is State.GONE:
            return
        self.reason = self.reason or reason
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, by whichever side."""
        del exc  # how TCP ended says nothing that `reason` doesn't
        if self.state is State.GONE:
            return
        self._go_alone(State.GONE)
        self.on_gone()
        self.feed.left(self, self.reason or CloseReason.CLIENT_GONE)

    def pause_writing(self) -> None:
        """More than the buffer bound is unsent. Called in the middle of a `write`: touches only
        this object.
        """
        self.paused = True
        if self.state in (State.LIVE, State.REPLAYING):
            self._go_alone(State.PAUSED)
        self.feed.stalled(self)

    def resume_writing(self) -> None:
        """The socket takes bytes again; may come without a pause before it, from before the
        handoff.
        """
        self.paused = False
        if self.state is State.PAUSED:
            self.state = State.REPLAYING
            self.feed.replay(self)
        elif self.state is State.WAITING:
            self.feed.catchup.resumed()

    def data_received(self, data: bytes) -> None:
        """Pipelined requests, bodies, noise: counted and dropped."""
        self.inbound_bytes += len(data)
        if self.inbound_bytes > MAX_INBOUND_BYTES:
            self.abort(CloseReason.CLIENT_GONE)

    def eof_received(self) -> bool:
        """The client closed its side, or half of it: the stream ends when the loop has time."""
        if self.state in (State.ENDING, State.GONE):
            return False
        self._go_alone(State.ENDING)
        self.reason = CloseReason.CLIENT_GONE
        self.feed.hung_up(self)
        return True
