"""Attackers, each a program: `python -m tests.hardening.attacks NAME URL [NUMBER] [KEY]`.

In a process of their own, so that their work delays nobody whose delay is measured. Each says
`ready` when it stands at full strength, goes on until its stdin ends, and then tells what happened
in one line of JSON.
"""

import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvloop
from tests.e2e.clients import ACTIVITY, DESKTOPS, address, head

Told = dict[str, Any]
Attack = Callable[["Siege"], Awaitable[Told]]


class Siege:
    """One attack's surroundings. `over` is set when it may end."""

    def __init__(self, url: str, number: int, key: str) -> None:
        self.place = address(url)
        self.number = number
        self.key = key
        self.over = asyncio.Event()
        self.outcomes: Counter[str] = Counter()

    async def ready(self) -> None:
        print("ready", flush=True)  # noqa: T201

        def ended() -> None:
            self.over.set()
            loop.remove_reader(0)

        loop = asyncio.get_running_loop()
        loop.add_reader(0, ended)

    async def connect(self, source: str = "", receive_bytes: int = 0) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if source:
            sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, self.place)
        return sock

    async def rounds(self, once: Callable[[], Awaitable[str]], enough: int) -> Told:
        """Do it over and over, `number` at a time, until it is over and has been done often enough
        to say something; how often with what outcome.
        """
        await self.ready()

        async def go_on() -> None:
            while not self.over.is_set() or self.outcomes.total() < enough:
                try:
                    async with asyncio.timeout(20):
                        self.outcomes[await once()] += 1
                except OSError as error:
                    self.outcomes[type(error).__name__] += 1

        await asyncio.gather(*(go_on() for _ in range(self.number)))
        return dict(self.outcomes)

    async def say(self, raw: bytes, read_bytes: int = 65_536) -> str:
        """Send this on a connection of its own; the status line's number, or `ended`."""
        sock = await self.connect()
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(sock, raw)
            reply = await loop.sock_recv(sock, read_bytes)
            return reply.split(b" ", 2)[1].decode() if reply else "ended"
        finally:
            sock.close()


async def hold(siege: Siege, drip: bytes, period_s: float) -> Told:
    """So many connections, each kept open; `drip` is said by all of them, a byte a period."""
    socks: list[socket.socket] = []
    for _ in range(siege.number):
        with suppress(OSError):
            socks.append(await siege.connect())
    began_s = time.monotonic()
    await siege.ready()
    loop = asyncio.get_running_loop()
    lives: list[float] = []

    async def watch(sock: socket.socket) -> None:
        with suppress(OSError):
            while await loop.sock_recv(sock, 4096):
                pass
        lives.append(time.monotonic() - began_s)

    watchers = [asyncio.ensure_future(watch(sock)) for sock in socks]
    said = 0
    while not siege.over.is_set() and len(lives) < len(socks):
        if drip:
            for sock in socks:
                with suppress(OSError):
                    sock.send(drip[said % len(drip) :][:1])
            said += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(siege.over.wait(), period_s)
    told = {"held": len(socks), "ended": len(lives), "longest_s": max(lives, default=0.0)}
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    for sock in socks:
        sock.close()
    return told


async def idle(siege: Siege) -> Told:
    """Sockets that never say anything."""
    return await hold(siege, b"", 0.2)


async def loris(siege: Siege) -> Told:
    """Heads that never end, a byte at a time."""
    return await hold(siege, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000, 0.1)


async def flood(siege: Siege) -> Told:
    """Connections that are ended as soon as they are there, half of them rudely."""
    loop = asyncio.get_running_loop()

    async def once() -> str:
        sock = await siege.connect(f"127.0.0.{random.randint(1, 250)}")
        if random.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            await loop.sock_sendall(sock, b"GET /")
        sock.close()
        return "done"

    return await siege.rounds(once, 201)


async def mutes(siege: Siege) -> Told:
    """Pipelined requests by clients that never read an answer."""
    loop = asyncio.get_running_loop()
    request = head("/nowhere") * 200
    socks = []
    for _ in range(siege.number):
        with suppress(OSError):
            socks.append(await siege.connect(receive_bytes=2048))
    pushing = [asyncio.ensure_future(_push(loop, sock, request)) for sock in socks]
    await siege.ready()
    await siege.over.wait()
    if pushing:  # the last ones may not have heard yet that they were dropped
        await asyncio.wait(pushing, timeout=10.0)
    for task in pushing:
        task.cancel()
    ended = await asyncio.gather(*pushing, return_exceptions=True)
    for sock in socks:
        sock.close()
    return {"held": len(socks), "ended": sum(isinstance(one, OSError) for one in ended)}


async def fat(siege: Siege) -> Told:
    """Heads that grow and grow, each line within its limit, and never end."""
    line = b"X: " + b"y" * 8000 + b"\r\n"
    loop = asyncio.get_running_loop()
    socks = [await siege.connect() for _ in range(siege.number)]
    ended = 0
    for sock in socks:
        try:
            await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: a\r\n")
            for _ in range(90):
                await loop.sock_sendall(sock, line)
        except OSError:
            ended += 1
    await siege.ready()
    await siege.over.wait()
    for sock in socks:
        sock.close()
    return {"held": len(socks), "ended": ended}


async def _push(loop: asyncio.AbstractEventLoop, sock: socket.socket, raw: bytes) -> None:
    while True:
        await loop.sock_sendall(sock, raw)


def _monsters() -> list[bytes]:
    return [
        head(headers=[(f"X-{n}", "y") for n in range(2000)]),
        head(headers=[("X", "y" * 60_000)]),
        head(headers=[("X" * 9000, "y")]),
        head(headers=[("Cookie", "__Host-a=b; " * 600)] * 90),
        head(headers=[("X-Forwarded-For", "10.0.0.1, " * 800)] * 60),
        head(f"{DESKTOPS}?{'apiKey=x&' * 900}"),
        head(f"{DESKTOPS}?{'&' * 8000}"),
        head("/" + "x" * 100_000),
        head("/" + "%2e%2e/" * 1000),
        head(key="k" * 8100),
        head(headers=[("Authorization", "Bearer " + "=" * 8100)]),
        head(cursor="c" * 8000),
        head(headers=[("Accept", "*/*," * 2000)]),
        b"\0" * 100_000,
        bytes(range(256)) * 40,
    ]


async def monsters(siege: Siege) -> Told:
    """Heads too big, too many, too odd."""
    heads = _monsters()

    async def once() -> str:
        return await siege.say(random.choice(heads))

    return await siege.rounds(once, 60)


async def talkers(siege: Siege) -> Told:
    """Streams whose clients go on talking: more requests, bodies, junk."""
    loop = asyncio.get_running_loop()
    words = (head(ACTIVITY, key=siege.key) * 20, b"x" * 4096, b"0\r\n\r\n" * 500, bytes(4096))
    bodies = ([], [("Content-Length", "1000000000")], [("Transfer-Encoding", "chunked")])

    async def once() -> str:
        sock = await siege.connect()
        word = random.choice(words)
        try:
            body = random.choice(bodies)
            await loop.sock_sendall(sock, head(key=siege.key, headers=body) + word)
            sent = 0
            while sent < 16_000_000:
                await loop.sock_sendall(sock, word)
                sent += len(word)
                await asyncio.sleep(0)
            return "nobody stops it"
        finally:
            sock.close()

    return await siege.rounds(once, 33)


def _cursors() -> list[bytes]:
    odd = [b"", b" ", b"~lbr", b"~lbr1-2", b"~lbr0-0", b"~lbr" + b"z" * 32 + b"-1", b"x~lbr0"]
    odd += [b"x~lbr999999999999999999", b"\xff\xfe", b"\xed\xa0\x80", "é😀".encode(), b"%00", b"*"]
    odd += [b"a" * 6144, b"a" * 8000, b"../" * 100, b"1e999", b"-1", b"18446744073709551616", b"{"]
    return odd


async def cursors(siege: Siege) -> Told:
    """Streams that ask to go on after anything."""
    odd = _cursors()

    async def once() -> str:
        cursor = random.choice(odd) + random.randbytes(random.randint(0, 4)).strip(b"\r\n\0\t ")
        cursor = bytes(byte for byte in cursor if byte >= 32 and byte != 127)
        return await siege.say(head(key=siege.key, cursor=cursor))

    return await siege.rounds(once, 150)


async def keys(siege: Siege) -> Told:
    """Keys that are none, each from an address of its own by X-Forwarded-For, nearly all different.

    Every third is the same: once known to be bad, it counts at its address without a question.
    """
    numbers = iter(range(siege.number))
    await siege.ready()

    async def guess() -> None:
        reader, writer = await asyncio.open_connection(*siege.place)
        for n in numbers:
            key = f"lb_k_{n:06}" if n % 3 else "lb_k_known"
            forwarded = ("X-Forwarded-For", f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::1")
            writer.write(head(key=key, headers=[forwarded]))
            answer = await reader.readuntil(b"\r\n\r\n")
            size = int(answer.lower().partition(b"content-length: ")[2].split(b"\r", 1)[0])
            await reader.readexactly(size)
            siege.outcomes[answer.split(b" ", 2)[1].decode()] += 1
        writer.close()

    await asyncio.gather(*(guess() for _ in range(32)))
    return dict(siege.outcomes)


ATTACKS: dict[str, Attack] = {
    one.__name__: one for one in (idle, loris, flood, mutes, fat, monsters, talkers, cursors, keys)
}


async def main(name: str, url: str, number: str = "100", key: str = "") -> None:
    told = await ATTACKS[name](Siege(url, int(number), key))
    print(json.dumps(told), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
