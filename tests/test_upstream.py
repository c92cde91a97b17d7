"""What rests on the inside of aiohttp's client: how a subscription is told of what comes, and what
it leaves behind for as long as a feed lives. That streams are read rightly is held by
tests/e2e/test_upstream_life.py.
"""

import asyncio
import gc
from contextlib import asynccontextmanager

import pytest
from tests.e2e.clients import eventually

from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.metrics import Metrics
from lebureau_relay.relay.observer import HubFacts
from lebureau_relay.relay.ports import FeedKey, StreamSpec
from lebureau_relay.upstream import Upstream, UpstreamRules, make_session

KEY = FeedKey("somebody", StreamSpec("desktops", "/stream"), "")
SECRET = "lb_k_in_a_header"
CREDENTIAL = Credential(CredentialKind.KEY, SECRET)
TALK = b"a header of this answer and no other " * 50
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"
# Twice what aiohttp's buffer is told to hold (its mark above which it pauses), and one more read.
MOST_HELD_BYTES = 3 * 64 * 1024


def event(number: int, size_bytes: int = 3) -> bytes:
    body = b"id: %d\ndata: %b\n\n" % (number, b"x" * size_bytes)
    return b"%x\r\n%b\r\n" % (len(body), body)


class Api:
    """An API that answers each request with `answer`, and says more when told."""

    def __init__(self) -> None:
        self.answer = HEAD + b"\r\n"
        self.asked: list[asyncio.StreamWriter] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(self.answer)
                self.asked.append(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def say(self, *words: bytes) -> None:
        self.asked[-1].write(b"".join(words))


@pytest.fixture
async def api():
    return Api()


@pytest.fixture
async def subscribe(api):
    """Opens a subscription to the API."""

    @asynccontextmanager
    async def served():
        async with await asyncio.start_server(api.serve, "127.0.0.1", 0) as running:
            async with make_session() as session:
                yield session, f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"
            for writer in api.asked:
                writer.transport.abort()

    async with served() as (session, url):
        observer = Metrics(["desktops"], HubFacts, lambda *_: None, "0", subscribers_limit=1)
        upstream = Upstream(session, UpstreamRules(url), observer)
        opened = []

        async def subscribe():
            opened.append(await upstream.open(KEY, CREDENTIAL, b""))
            return opened[-1]

        yield subscribe
        for subscription in opened:
            subscription.close()


class Reader:
    """Takes what comes, as long as it is told to, and remembers how it came."""

    def __init__(self, most: int = 1_000_000) -> None:
        self.most = most
        self.ids: list[int] = []
        self.sizes: list[int] = []  # of each call
        self.tasks: set[asyncio.Task[object] | None] = set()

    def take(self, events):
        self.tasks.add(asyncio.current_task())
        self.sizes.append(sum(len(one.data) for one in events))
        room = self.most - len(self.ids)
        self.ids += [int(one.id) for one in events[:room]]
        return events[room:]

    async def has(self, count: int) -> None:
        await eventually(lambda: len(self.ids) >= count)


async def test_what_comes_is_handed_on_in_the_turn_that_brought_it(api, subscribe):
    subscription, reader = await subscribe(), Reader()
    reading = asyncio.ensure_future(subscription.read(reader.take))
    for number in (1, 2, 3):
        await asyncio.sleep(0)
        api.say(event(number))
        await reader.has(number)
    assert reader.tasks == {None}, "the loop called it, no task was woken"
    assert not reading.done()
    api.say(event(4), END)
    with pytest.raises(SourceFailure) as end:
        await reading
    assert end.value.problem is SourceProblem.CUT
    assert reader.ids == [1, 2, 3, 4]


async def test_what_is_left_is_returned_and_the_rest_comes_after_it(api, subscribe):
    subscription, reader = await subscribe(), Reader(most=2)
    api.say(*map(event, range(1, 6)))
    left = await subscription.read(reader.take)
    assert [int(one.id) for one in left] == [3, 4, 5]
    reader.most = 1_000_000
    api.say(event(6))
    again = asyncio.ensure_future(subscription.read(reader.take))
    await reader.has(3)
    assert reader.ids == [1, 2, 6]
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    api.say(event(7))
    api.say(event(8))
    reader.ids.clear()
    last = asyncio.ensure_future(subscription.read(reader.take))
    await reader.has(2)
    assert reader.ids == [7, 8], "what came while nobody read was held"
    last.cancel()


async def test_a_flood_comes_in_slices_and_is_held_off_while_nobody_reads(api, subscribe):
    subscription, reader = await subscribe(), Reader(most=0)
    count, size_bytes = 40_000, 1000  # more than the kernel takes for both sides
    api.say(*(event(number, size_bytes) for number in range(1, count + 1)))
    left = list(await subscription.read(reader.take))
    content = subscription._response.content
    before = 0
    while content.total_bytes > before:  # what comes while nobody reads
        before = content.total_bytes
        await asyncio.sleep(0.1)
    assert content.total_bytes <= sum(reader.sizes) * 1.1 + MOST_HELD_BYTES
    assert api.asked[-1].transport.get_write_buffer_size() > 0, "upstream can't get rid of the rest"

    turns = asyncio.ensure_future(_count_turns(reader))
    reader.most = count
    reader.ids = [int(one.id) for one in left]
    reading = asyncio.ensure_future(subscription.read(reader.take))
    await reader.has(count)
    assert reader.ids == [*range(1, count + 1)]
    assert max(reader.sizes) <= MOST_HELD_BYTES
    reading.cancel()
    assert await turns <= 2, "one of what was held off, one of the socket: then others' turn"


async def test_a_flood_of_tiny_chunks_comes_in_slices_too(api, subscribe):
    subscription, count = await subscribe(), 100_000
    api.say(b"b\r\nid:1\ndata\n\n\r\n" * count)
    reader = Reader(most=0)
    left = await subscription.read(reader.take)
    await eventually(lambda: subscription._connection._reading_paused)
    reader.most = count
    reader.ids = [int(one.id) for one in left]
    turns = asyncio.ensure_future(_count_turns(reader))
    reading = asyncio.ensure_future(subscription.read(reader.take))
    await reader.has(count)
    reading.cancel()
    assert await turns <= 2, "not as many as the socket gave at once"


async def _count_turns(reader: Reader) -> int:
    """The most slices that came in one turn of the loop."""
    most, seen = 0, len(reader.sizes)
    while len(reader.ids) < reader.most:
        await asyncio.sleep(0)
        most, seen = max(most, len(reader.sizes) - seen), len(reader.sizes)
    return most


async def test_who_takes_may_close_and_hears_of_it(api, subscribe):
    subscription = await subscribe()

    def take(_):
        subscription.close(SourceProblem.IDLE)
        return ()

    api.say(event(1))
    with pytest.raises(SourceFailure) as end:
        await asyncio.wait_for(subscription.read(take), 5)
    assert end.value.problem is SourceProblem.IDLE


async def test_a_second_reader_is_told_and_the_first_reads_on(api, subscribe):
    subscription, reader = await subscribe(), Reader()
    reading = asyncio.ensure_future(subscription.read(reader.take))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await subscription.read(reader.take)
    api.say(event(1))
    await reader.has(1)
    reading.cancel()


async def test_what_take_raises_is_the_readers(api, subscribe):
    subscription = await subscribe()

    def take(_):
        raise ZeroDivisionError

    reading = asyncio.ensure_future(subscription.read(take))
    await asyncio.sleep(0)
    api.say(event(1))
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(reading, 5)


async def test_an_answer_that_is_over_with_its_head_is_read(api, subscribe):
    api.answer = HEAD + b"\r\n" + event(1) + event(2) + END
    subscription, reader = await subscribe(), Reader(most=1)
    (left,) = await subscription.read(reader.take)
    assert (reader.ids, left.id) == ([1], b"2")
    with pytest.raises(SourceFailure) as over:
        await asyncio.wait_for(subscription.read(reader.take), 5)
    assert over.value.problem is SourceProblem.CUT


async def test_the_next_stream_by_a_connection_is_not_deafened_by_the_end_of_the_last(
    api, subscribe
):
    first, reader = await subscribe(), Reader()
    api.say(event(1), END)
    with pytest.raises(SourceFailure):
        await first.read(reader.take)
    second = await subscribe()
    assert (api.connections, len(api.asked)) == (1, 2), "by the same connection"
    first.close()
    reading = asyncio.ensure_future(second.read(reader.take))
    await asyncio.sleep(0)
    api.say(event(2))
    await reader.has(2)
    reading.cancel()


async def test_an_open_subscription_holds_no_headers(api, subscribe):
    api.answer = HEAD + b"X-Talk: " + TALK + b"\r\n\r\n"
    subscription, reader = await subscribe(), Reader()
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
    api.say(event(1), END)
    with pytest.raises(SourceFailure):
        await subscription.read(reader.take)
    assert reader.ids == [1]
