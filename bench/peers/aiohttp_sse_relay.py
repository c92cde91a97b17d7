"""A relay as one writes it with aiohttp-sse: a queue per client, `send` per event.

    python aiohttp_sse_relay.py UPSTREAM_PORT PORT

One upstream connection for all. The queues are bounded and waited for, so that it loses nothing. No
history, no limits, no metrics.
"""

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, web
from aiohttp_sse import sse_response

QUEUE_EVENTS = 1000
Event = tuple[str, str]


async def read_upstream(port: int, queues: set[asyncio.Queue[Event]]) -> None:
    url = f"http://127.0.0.1:{port}/api/desktops/stream"
    async with (
        ClientSession(timeout=ClientTimeout(total=None)) as session,
        session.get(url) as response,
    ):
        event_id = data = ""
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                event_id = value
            elif name == "data":
                data = value
            elif not name:
                for queue in list(queues):
                    await queue.put((event_id, data))


async def main(upstream_port: int, port: int) -> None:
    queues: set[asyncio.Queue[Event]] = set()

    async def stream(request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE_EVENTS)
        async with sse_response(request) as response:
            queues.add(queue)
            try:
                while response.is_connected():
                    event_id, data = await queue.get()
                    await response.send(data, id=event_id)
            finally:
                queues.discard(queue)
        return response

    app = web.Application()
    app.router.add_get("/api/desktops/stream", stream)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await read_upstream(upstream_port, queues)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
