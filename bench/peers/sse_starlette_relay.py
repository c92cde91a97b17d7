"""A relay as one writes it with sse-starlette on uvicorn: a queue per client, an event each.

    python sse_starlette_relay.py UPSTREAM_PORT PORT

One upstream connection for all. The queues are bounded and waited for, so that it loses nothing. No
history, no limits, no metrics.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

QUEUE_EVENTS = 1000
queues: set[asyncio.Queue[ServerSentEvent]] = set()


async def read_upstream(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # HTTP/1.0: no chunks to undo, so that no client library is needed.
    writer.write(b"GET /api/desktops/stream HTTP/1.0\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    while True:
        block = (await reader.readuntil(b"\n\n")).decode()
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line)
        event = ServerSentEvent(data=fields["data"], id=fields["id"])
        for queue in list(queues):
            await queue.put(event)


async def stream(_: Request) -> EventSourceResponse:
    queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue(QUEUE_EVENTS)

    async def events() -> AsyncIterator[ServerSentEvent]:
        queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)

    return EventSourceResponse(events(), ping=15)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    reading = asyncio.create_task(read_upstream(int(sys.argv[1])))
    yield
    reading.cancel()


app = Starlette(routes=[Route("/api/desktops/stream", stream)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
        backlog=4096,
    )
