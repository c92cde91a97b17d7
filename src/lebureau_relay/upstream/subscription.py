"""One open subscription: the body of one response as events, in the turn in which its bytes come.

aiohttp's parser and buffer stand before it, so chunks, lengths and malice are their business, and
so is holding upstream off while nobody reads.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from lebureau_relay.core.event import Event
from lebureau_relay.core.sse import Decoder
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.relay.observer import StreamMeter
from lebureau_relay.relay.ports import Take
from lebureau_relay.upstream.client import Connection

if TYPE_CHECKING:
    from lebureau_relay.upstream.source import Upstream

# Until upstream has been seen to send comments, silence may be normal: wait this much longer before
# giving up.
_PATIENCE = 10


class HttpSubscription:
    """`relay.ports.Subscription`: one response that is being read."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_ended_by",
        "_idle_timeout_s",
        "_meter",
        "_response",
        "_take",
        "_upstream",
        "_waiter",
    )

    def __init__(
        self,
        upstream: "Upstream",
        response: aiohttp.ClientResponse,
        decoder: Decoder,
        idle_timeout_s: float,
        meter: StreamMeter,
    ) -> None:
        self._upstream = upstream
        self._meter = meter
        self._response = response
        self._decoder = decoder
        self._idle_timeout_s = idle_timeout_s
        self._ended_by: SourceProblem | None = None
        self._take: Take | None = None  # of who reads
        self._waiter: asyncio.Future[Sequence[Event]] | None = None
        # None: the whole answer came with its head, and nothing more will
        self._connection: Connection | None = None
        if response.connection is not None:
            self._connection = cast("Connection", response.connection.protocol)
            self._connection.reader = self

    @property
    def retry_s(self) -> float | None:
        """What upstream last said; None if nothing."""
        retry_ms = self._decoder.retry_ms
        return None if retry_ms is None else retry_ms / 1000

    @property
    def idle_timeout_s(self) -> float:
        """How long it may be silent."""
        return self._idle_timeout_s * (1 if self._upstream.sends_comments else _PATIENCE)

    async def read(self, take: Take) -> Sequence[Event]:
        """Hand events on as they come, until some are left. Raises RuntimeError for a second reader
        at a time, who would leave the first without a word.
        """
        if self._waiter is not None:
            raise RuntimeError("somebody reads this subscription already")
        self._take = take
        self._waiter = asyncio.get_running_loop().create_future()
        self.look()  # at what came while nobody read
        try:
            return await self._waiter
        finally:
            self._take = self._waiter = None

    def look(self) -> None:
        """Something has come, or nothing will any more: tell who reads."""
        take, waiter = self._take, self._waiter
        if take is None or waiter is None or waiter.done():
            return
        try:
            left = self._hand_on(take)
        except Exception as error:  # noqa: BLE001 - it is the reader's
            waiter.set_exception(error)
        else:
            if left:
                waiter.set_result(left)
        finally:
            # The error knows this frame, which must not know who holds the error: such a circle
            # keeps a connection and all its history until the collector looks, which is seldom.
            del take, waiter

    def _hand_on(self, take: Take) -> Sequence[Event]:
        try:
            chunk = self._response.content.read_nowait()
        except (aiohttp.ClientError, OSError) as error:
            error.__traceback__ = None  # aiohttp's stream keeps the error, whose frames keep us
            raise SourceFailure(self._ended_by or SourceProblem.CUT, type(error).__name__) from None
        if chunk:
            if self._is_over():
                asyncio.get_running_loop().call_soon(self.look)  # nobody else will say so
            events = self._decoder.feed(chunk)
            self._meter.received(len(events), len(chunk))
            if self._decoder.comments:
                self._upstream.sends_comments = True
            return take(events)
        if self._is_over():
            raise SourceFailure(self._ended_by or SourceProblem.CUT, "the API closed the stream")
        return ()

    def _is_over(self) -> bool:
        """Whether nothing more will come. aiohttp hangs up on a malformed chunk without a word to
        who reads; the connection tells.
        """
        connection = self._connection
        return (
            self._response.content.is_eof() or connection is None or not connection.is_connected()
        )

    def close(self, problem: SourceProblem = SourceProblem.REPLACED) -> None:
        """End it; who reads is told in a turn of its own, since `take` itself may ask for it."""
        if self._ended_by is None:
            self._ended_by = problem
        self._response.close()
        if self._connection is not None and self._connection.reader is self:
            self._connection.reader = None
        if self._waiter is not None:
            asyncio.get_running_loop().call_soon(self.look)


def shed(response: aiohttp.ClientResponse) -> None:
    """Let go of the headers of both sides, which would live as long as the feed: 2 KB, and more
    with a talkative API.

    Nothing reads them once a response has begun. That they are let go by three private attributes
    is pinned (`aiohttp<4`) and held by tests/test_upstream.py for each release in the lock.
    """
    response._headers = _NO_HEADERS  # noqa: SLF001
    response._raw_headers = ()  # noqa: SLF001
    response._request_info = _NO_REQUEST  # noqa: SLF001


_NO_HEADERS = CIMultiDictProxy(CIMultiDict[str]())
_NO_REQUEST = aiohttp.RequestInfo(URL(), "", _NO_HEADERS)
