"""The fixtures of the black-box tests, as they are, and an API on a raw socket."""

import asyncio
import json
from contextlib import suppress

import pytest
from tests.e2e.conftest import *  # noqa: F403 - fixtures are found by their names

_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def who(name: str, *lines: str) -> bytes:
    """What an identity path answers, with these fields in its head."""
    body = json.dumps({"id": name, "capabilities": []})
    fields = ("Content-Type: application/json", "Connection: close", *lines)
    return "\r\n".join(
        ("HTTP/1.1 200 OK", *fields, f"Content-Length: {len(body)}", "", body)
    ).encode()


class Upstream:
    """Answers questions of identity and stream requests alike, and keeps their heads apart.
    `answer` makes a question's answer of its head.
    """

    def __init__(self) -> None:
        self.streams: list[bytes] = []
        self.questions: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.answer = lambda _head: who("anna")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            raw = await reader.readuntil(b"\r\n\r\n")
            if b"/stream" in raw.split(b"\r\n", 1)[0]:
                self.streams.append(raw)
                self.writers.append(writer)
                writer.write(_STREAM)
                await reader.read()
            else:
                self.questions.append(raw)
                writer.write(self.answer(raw))
        writer.close()


@pytest.fixture
async def upstream():
    kept = Upstream()
    server = await asyncio.start_server(kept.serve, "127.0.0.1", 0)
    kept.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield kept
    server.close()
    for writer in kept.writers:
        writer.transport.abort()
    await server.wait_closed()
