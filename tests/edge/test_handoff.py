"""What the handoff relies on in aiohttp, for each release that the lock takes in."""

import asyncio
import gc
import socket

import pytest
from aiohttp import web

from lebureau_relay.edge.handoff import hand_off


class Sink(asyncio.Protocol):
    """Stands where the subscriber will: records what its socket tells it."""

    def __init__(self, transport):
        self.transport = transport
        self.received = b""
        self.paused = False
        self.lost = asyncio.Event()

    def data_received(self, data):
        self.received += data

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False

    def eof_received(self):
        return None

    def connection_lost(self, _exc):
        self.lost.set()


class House:
    """A server that hands off every request, and what it knows."""

    def __init__(self):
        self.sinks = asyncio.Queue()
        self.chunked = []
        self.taken = []
        self.runner = None
        self.port = 0

    async def start(self):
        async def handle(request):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})

            def make(transport, chunked):
                self.chunked.append(chunked)
                return Sink(transport)

            sink = await hand_off(request, response, 65536, make)
            await self.sinks.put(sink)
            return response

        app = web.Application()
        app.router.add_get("/", handle)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def ask(self, head=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head)
        sink = await self.sinks.get()
        self.taken.append((writer, sink))
        return reader, writer, sink

    async def stop(self):
        for writer, sink in self.taken:  # the server waits for what it accepted, whoever has it
            writer.transport.abort()
            sink.transport.abort()
        await self.runner.cleanup()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - aiohttp tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture
async def house():
    house = House()
    await house.start()
    yield house
    await house.stop()


async def test_nothing_of_the_request_stays_behind(house):
    before = asyncio.all_tasks()
    streams = [await house.ask() for _ in range(20)]
    await until(lambda: not asyncio.all_tasks() - before)
    await until(lambda: not house.runner.server.connections)
    gc.collect()
    left = sum(type(one) is web.RequestHandler for one in gc.get_objects())
    assert left == 0
    assert len(streams) == 20


async def test_headers_leave_at_once_and_bytes_follow(house):
    reader, writer, sink = await house.ask()
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"Transfer-Encoding: chunked" in head
    assert b"Connection: close" in head
    sink.transport.write(b"3\r\nabc\r\n")
    assert await reader.readexactly(8) == b"3\r\nabc\r\n"
    writer.close()


async def test_http_1_0_gets_bare_bytes(house):
    reader, writer, sink = await house.ask(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert house.chunked == [False]
    sink.transport.write(b"abc")
    sink.transport.close()
    assert await reader.read() == b"abc"
    writer.close()


async def test_the_end_of_the_client_is_told(house):
    _, writer, sink = await house.ask()
    writer.close()
    await asyncio.wait_for(sink.lost.wait(), 5)


async def test_a_client_behind_pipelined_requests_is_still_heard_leaving(house):
    # aiohttp pauses reading once enough requests queue; a paused socket would hide the FIN.
    _, writer, sink = await house.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
    writer.close()
    await asyncio.wait_for(sink.lost.wait(), 5)


async def test_later_bytes_reach_the_new_protocol_only(house):
    _, writer, sink = await house.ask()
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: sink.received)
    assert house.sinks.empty()
    writer.close()


async def test_the_buffer_limit_holds_for_a_client_that_does_not_read(house):
    raw = socket.create_connection(("127.0.0.1", house.port))
    raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    sink = await house.sinks.get()
    for _ in range(2000):
        if sink.paused:
            break
        sink.transport.write(b"x" * 16384)
    assert sink.paused
    assert sink.transport.get_write_buffer_size() > 65536
    sink.transport.abort()
    await asyncio.wait_for(sink.lost.wait(), 5)
    raw.close()


async def test_a_client_that_is_gone_already_gets_no_stream(house):
    _, writer = await asyncio.open_connection("127.0.0.1", house.port)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.transport.abort()
    sink = await asyncio.wait_for(house.sinks.get(), 5)
    if sink is not None:  # the reset came after the headers
        await asyncio.wait_for(sink.lost.wait(), 5)
    await until(lambda: not house.runner.server.connections)
