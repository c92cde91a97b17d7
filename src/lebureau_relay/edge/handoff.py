"""The handoff: a socket leaves aiohttp's request machinery for the subscriber's own small protocol.

aiohttp's request costs two tasks and some ten kilobytes for as long as a stream lives; after the
handoff there is the transport and the subscriber, nothing else. This rests on two facts that
aiohttp does not promise: that `RequestHandler.connection_lost` may be called by somebody else, and
that a response whose transport is gone ends quietly. They are pinned (`aiohttp<4`), and held by
tests/edge/test_handoff.py for each release that the lock takes in. There is no second way: one that
runs only when the first has failed would be tried by nobody (docs/decisions/0002).
"""

import asyncio
from collections.abc import Callable

from aiohttp import HttpVersion11, web

from lebureau_relay.relay.subscriber import Subscriber


async def hand_off(
    request: web.Request,
    response: web.StreamResponse,
    buffer_bytes: int,
    make: Callable[[asyncio.Transport, bool], Subscriber],
) -> Subscriber | None:
    """Send the headers, then give the socket to the subscriber that `make(transport, chunked)`
    returns.

    None if the client is gone, or doesn't even take the headers. The caller returns `response` to
    aiohttp in either case, and attaches the subscriber without another await. The application's
    `handler_cancellation` is off: with it the loss of the connection that we feign would cancel the
    caller.
    """
    chunked = request.version >= HttpVersion11
    response.force_close()
    if chunked:
        response.enable_chunked_encoding()
    try:
        await response.prepare(request)
    except ConnectionError:
        return None
    protocol = request.protocol
    # Not isinstance: uvloop's transports are asyncio's by behaviour only.
    transport = protocol.transport
    if transport is None or transport.is_closing():
        return None
    if transport.get_write_buffer_size():
        # It may have asked aiohttp's protocol to pause, which it would not repeat to ours.
        transport.abort()
        return None
    subscriber = make(transport, chunked)
    transport.set_protocol(subscriber)
    protocol.transport = None
    protocol.connection_lost(None)
    transport.set_write_buffer_limits(high=buffer_bytes)
    # aiohttp pauses reading behind pipelined requests; a paused socket hides its FIN.
    transport.resume_reading()
    return subscriber
