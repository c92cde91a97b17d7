"""What the upstream client leaves behind for as long as a feed lives. That it reads streams rightly
is held by tests/e2e/test_upstream_life.py; here is what rests on aiohttp's inside.
"""

import asyncio
import gc

import pytest

from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.errors import SourceFailure
from lebureau_relay.metrics import Metrics
from lebureau_relay.relay.observer import HubFacts
from lebureau_relay.relay.ports import FeedKey, StreamSpec
from lebureau_relay.upstream import Upstream, UpstreamRules, make_session

KEY = FeedKey("somebody", StreamSpec("desktops", "/stream"), "")
SECRET = "lb_k_in_a_header"
TALK = b"a header of this answer and no other " * 50


@pytest.fixture
async def server():
    """An API that answers with a stream and goes on when told; its URL and the word to go on."""
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Talk: " + TALK
        writer.write(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        await more.wait()
        writer.write(b"11\r\nid: 1\ndata: one\n\n\r\n0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}", more


async def test_an_open_subscription_holds_no_headers_and_reads_to_its_end(server):
    url, more = server
    async with make_session() as session:
        observer = Metrics(["desktops"], HubFacts, lambda *_: None, "0", subscribers_limit=1)
        upstream = Upstream(session, UpstreamRules(url), observer)
        credential = Credential(CredentialKind.KEY, SECRET)
        subscription = await upstream.open(KEY, credential, b"")
        gc.collect()
        held = [
            one
            for one in gc.get_objects()
            if isinstance(one, tuple | list | dict)
            and any(part in (TALK, TALK.decode()) for part in one if isinstance(part, bytes | str))
        ]
        assert held == [], "the answer's headers are let go"
        asked = [one for one in gc.get_objects() if type(one).__name__ == "CIMultiDict"]
        assert not [one for one in asked if SECRET in one.values()], "and those of the request"
        more.set()
        (event,) = await subscription.read()
        assert (event.id, event.data) == (b"1", b"one")
        with pytest.raises(SourceFailure):
            await subscription.read()
        subscription.close()
