"""A relay as one writes it with aiohttp-sse: a queue per client, `send` per event.

    python aiohttp_sse_relay.py UPSTREAM_PORT PORT [KEY]

One upstream connection for all, which comes back where it was. The queues are bounded and waited
for, so that it loses nothing. No history, no limits, no metrics.
"""

import asyncio
import sys
from contextlib import suppress

import uvloop
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web
from aiohttp_sse import sse_response

QUEUE_EVENTS = 1000
RETRY_S = 0.5
Event = tuple[str, str]


async def read_upstream(port: int, key: str, queues: set[asyncio.Queue[Event]]) -> None:
    url = f"http://127.0.0.1:{port}/api/desktops/stream"
    headers = {"x-api-key": key} if key else {}
    async with ClientSession(timeout=ClientTimeout(total=None), raise_for_status=True) as session:
        while True:
            with suppress(ClientError):
                async with session.get(url, headers=headers) as response:
                    await read(response, headers, queues)
            await asyncio.sleep(RETRY_S)


async def read(
    response: ClientResponse, headers: dict[str, str], queues: set[asyncio.Queue[Event]]
) -> None:
    event_id = data = ""
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            data = value
        elif not name and data:
            for queue in list(queues):
                await queue.put((event_id, data))
            headers["Last-Event-ID"], data = event_id, ""


async def serve(port: int, queues: set[asyncio.Queue[Event]], ping_s: int = 15) -> None:
    """Clients from now on, each with a queue among these."""

    async def stream(request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE_EVENTS)
        async with sse_response(request, ping_interval=ping_s) as response:
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


async def main(upstream_port: int, port: int, key: str) -> None:
    queues: set[asyncio.Queue[Event]] = set()
    await serve(port, queues)
    await read_upstream(upstream_port, key, queues)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), "".join(sys.argv[3:])))
