"""Upstream's bad habits: clients stay through all that is not final, and hear heartbeats."""

import time

import pytest
from tests.e2e.clients import DESKTOPS, SseClient, ask, eventually

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
)
BARE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def emitted(simulator, user):
    return [record.id for record in simulator.log(user.id, "desktops")]


async def hears(client, beats: int = 2) -> None:
    """Wait for heartbeats, on a stream that is still open."""
    before = client.heartbeats
    await eventually(lambda: client.heartbeats >= before + beats or client.closed)
    assert not client.closed, client.told


async def works(simulator, user, client) -> None:
    """An event gets through."""
    simulator.emit(user.id, "desktops", 1)
    await eventually(lambda: client.ids[-1:] == emitted(simulator, user)[-1:])


@pytest.fixture
async def client(simulator, user, relay, connect):
    """A client that has seen three events."""
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 3)
    await client.has(3)
    return client


@pytest.mark.parametrize("end", ["cut", "cut:mid", "end"])
async def test_a_connection_that_ends_is_opened_again(simulator, user, relay, client, counts, end):
    simulator.fault(end, while_open=True)
    simulator.emit(user.id, "desktops", 1)
    await eventually(lambda: simulator.subscriptions_opened() == 2)
    await works(simulator, user, client)
    assert client.ids == emitted(simulator, user)
    assert not client.told
    await counts(relay, 1, "upstream_reconnects_total", stream="desktops", reason="cut")


async def test_clients_stay_while_upstream_is_gone(simulator, user, relay, client, connect):
    await simulator.stop()
    await hears(client)
    late = await connect(relay, cursor=client.last_id)
    await hears(late)
    simulator.emit(user.id, "desktops", 2)
    await simulator.restart()
    for each in (client, late):
        await eventually(lambda each=each: each.ids[-1:] == emitted(simulator, user)[-1:])
        assert not each.told
    assert client.ids == emitted(simulator, user)


@pytest.mark.parametrize(
    "fault", ["404", "429:1", "500", "503", "content_type", "redirect:http://127.0.0.1:9"]
)
async def test_what_is_not_final_is_tried_again_with_the_clients_in_place(
    simulator, user, client, fault
):
    simulator.fault(fault, times=1)
    simulator.cut_all()
    simulator.emit(user.id, "desktops", 2)
    await hears(client)
    await works(simulator, user, client)
    assert client.ids == emitted(simulator, user)
    assert not client.told


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("401", "credential_revoked"), ("403", "credential_revoked"), ("204", "upstream_ended")],
)
async def test_what_is_final_ends_the_streams(
    simulator, user, relay, client, connect, counts, fault, reason
):
    other = await connect(relay, key=simulator.user(2).key)
    simulator.fault(fault, user=user.id)
    simulator.fault("cut", user=user.id, while_open=True)
    await client.ended()
    assert client.reason == reason
    assert client.last_id == client.ids[-1]
    reply = await ask(relay.public_url, key=user.key)
    assert reply.status == int(fault)
    await hears(other)
    await counts(relay, 1, "closes_total", stream="desktops", reason=reason)


async def test_a_stalled_opening_is_given_up(simulator, user, serve, connect):
    simulator.fault("stall", times=1)
    relay = await serve(simulator.url, upstream={"connect_timeout": 0.3})
    began_s = time.monotonic()
    reply = await ask(relay.public_url, key=user.key)
    assert (reply.status, reply.code) == (503, "upstream_unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    assert 0.3 <= time.monotonic() - began_s < 2


async def test_a_stalled_reopening_is_given_up(simulator, user, serve, connect):
    relay = await serve(simulator.url, upstream={"connect_timeout": 0.3})
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 3)
    await client.has(3)
    simulator.fault("stall", times=1)
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() == 2)
    await works(simulator, user, client)
    assert client.ids == emitted(simulator, user)


async def test_silence_is_noticed_where_comments_were_heard(simulate, serve, connect, counts):
    simulator = await simulate(heartbeat_s=0.1)
    user = simulator.user(1)
    relay = await serve(simulator.url, upstream={"idle_timeout": 0.5})
    client = await connect(relay, key=user.key)
    simulator.emit(user.id, "desktops", 3)
    await client.has(3)
    await hears(client, 4)
    assert simulator.subscriptions_opened() == 1, "comments count as life"
    simulator.fault("silence", while_open=True)
    simulator.emit(user.id, "desktops", 2)
    await client.has(5)
    assert client.ids == emitted(simulator, user)
    assert not client.told
    await counts(relay, 1, "upstream_reconnects_total", stream="desktops", reason="idle")


async def test_without_comments_silence_is_borne_ten_times_as_long(simulator, user, serve, connect):
    relay = await serve(simulator.url, upstream={"idle_timeout": 0.15})
    began_s = time.monotonic()
    client = await connect(relay)
    await eventually(lambda: simulator.subscriptions_opened() == 2)
    assert 1.4 < time.monotonic() - began_s < 3
    await works(simulator, user, client)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("401", 401, "invalid_credential"),
        ("404", 502, "upstream_error"),
        ("429:7", 503, "upstream_unavailable"),
        ("500", 503, "upstream_unavailable"),
        ("503:3", 503, "upstream_unavailable"),
        ("content_type", 502, "upstream_error"),
        ("content_type:application/json", 502, "upstream_error"),
    ],
)
async def test_what_upstream_answers_at_the_door_is_told(
    simulator, user, serve, fault, status, code
):
    relay = await serve(simulator.url, upstream={"retry_min": 5, "retry_max": 10})
    simulator.fault(fault)
    reply = await ask(relay.public_url, key=user.key)
    assert (reply.status, reply.code) == (status, code)
    assert ("retry-after" in reply.headers) == (status in {502, 503})
    if ":7" in fault:
        assert int(reply.headers["retry-after"]) >= 7
    simulator.clear_faults()
    again = await ask(relay.public_url, key=user.key)
    assert (again.status, again.code) == (status, code)
    assert len(simulator.requests) == 1, "upstream isn't asked again at once"


async def test_204_is_an_answer_too_and_is_held(simulator, user, serve):
    relay = await serve(simulator.url, upstream={"retry_max": 20})
    simulator.fault("204", times=1)
    for _ in range(3):
        reply = await ask(relay.public_url, key=user.key)
        assert (reply.status, reply.body) == (204, b"")
    assert len(simulator.requests) == 1


async def test_after_a_refusal_it_works_again(simulator, user, relay, connect):
    simulator.fault("500", times=1)
    reply = await ask(relay.public_url, key=user.key)
    assert reply.status == 503
    statuses = []
    while 200 not in statuses:
        client = await connect(relay, opened=False)
        await eventually(lambda client=client: client.status)
        statuses.append(client.status)
    assert set(statuses) <= {200, 503}
    await client.opened()
    await works(simulator, user, client)


async def test_retry_after_is_honoured(simulator, user, client):
    simulator.fault("429:1", times=1)
    began_s = time.monotonic()
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() == 2)
    assert time.monotonic() - began_s >= 1


async def test_upstreams_retry_rules_the_relays_reconnect_and_not_the_clients(
    simulate, serve, connect
):
    simulator = await simulate(retry_ms=900)
    user = simulator.user(1)
    relay = await serve(simulator.url)
    client = await connect(relay, key=user.key)
    await works(simulator, user, client)
    assert client.retry_ms < 200
    began_s = time.monotonic()
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() == 2)
    assert time.monotonic() - began_s >= 0.9


async def test_a_herd_of_feeds_does_not_come_back_in_step(simulate, serve, connect):
    simulator = await simulate(users=30)
    relay = await serve(simulator.url, upstream={"retry_min": 0.5, "retry_max": 5})
    for user in simulator.users:
        await connect(relay, key=user.key)
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() > 30)
    first_s = time.monotonic()
    await eventually(lambda: simulator.subscriptions_opened() == 60)
    assert time.monotonic() - first_s > 0.3, "they come spread over half a second"


# Redirects


@pytest.mark.parametrize("at_first", [True, False])
async def test_a_redirect_within_the_origin_is_followed(simulator, user, relay, connect, at_first):
    if at_first:
        simulator.fault("redirect")
    client = await connect(relay)
    await works(simulator, user, client)
    if not at_first:
        simulator.fault("redirect")
        simulator.cut_all()
        await eventually(lambda: simulator.subscriptions_opened() == 2)
    await works(simulator, user, client)
    assert simulator.requests[-1].path == "/moved" + DESKTOPS


async def test_another_origin_never_sees_the_credential(simulator, simulate, user, relay, counts):
    elsewhere = await simulate()
    simulator.fault(f"redirect:{elsewhere.url}")
    reply = await ask(relay.public_url, key=user.key)
    assert (reply.status, reply.code) == (502, "upstream_error")
    assert elsewhere.url.encode() not in reply.raw
    assert elsewhere.requests == ()


ODD_PLACES = [
    *("http://[", "//", "///", "", "mailto:a@b", "http://127.0.0.1:99999/", "\\\\evil\\x"),
    *("http://user:pass@HOST/", "javascript:alert(1)", "http://HOST.evil.example/", "?", "#"),
    "https://HOST/",
]


@pytest.mark.parametrize(
    ("status", "location"),
    [*((307, place) for place in ODD_PLACES), *((n, "http://[") for n in (301, 302, 303, 308))],
)
async def test_odd_redirects_are_an_upstream_error(serve, raw_upstream, status, location):
    location = location.replace("HOST", raw_upstream.url.removeprefix("http://"))
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\n"
    raw_upstream.answers = [f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()]
    relay = await serve(raw_upstream.url)
    reply = await ask(relay.public_url, key="k")
    assert (reply.status, reply.code) == (502, "upstream_error")
    assert len(raw_upstream.heads) <= 6, "a loop comes to an end"


async def test_an_odd_redirect_later_ends_no_stream(serve, raw_upstream, connect):
    odd = b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n"
    event = b"f\r\nid: %b\ndata: a\n\n\r\n"
    raw_upstream.answers = [CHUNKED + event % b"1", odd, CHUNKED + event % b"2"]
    client = await connect(await serve(raw_upstream.url))
    await client.has(1)
    raw_upstream.writers[0].close()
    await client.has(2)
    assert client.ids == ["1", "2"]


# Bytes


@pytest.mark.parametrize("fault", ["cr", "crlf", "mixed", "bom", "slow:1", "slow:3", "slow:7"])
async def test_however_the_bytes_come_the_events_are_the_same(
    simulator, user, relay, connect, fault
):
    simulator.fault(fault)
    client = await connect(relay)
    simulator.emit_event(user.id, "desktops", "t", {"text": "zwölf ☃ \u2028 lines"})
    simulator.emit(user.id, "desktops", 4)
    await client.has(5)
    records = simulator.log(user.id, "desktops")
    assert [event.data for event in client.events] == [record.data for record in records]
    assert client.ids == [record.id for record in records]
    assert not client.told


async def test_all_line_ends_at_once_byte_by_byte(simulator, user, relay, connect):
    for fault in ("bom", "mixed", "slow:1"):
        simulator.fault(fault)
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 4)
    await client.has(4)
    assert client.ids == emitted(simulator, user)


@pytest.mark.parametrize("size", [1, 256, 10_000, 300_000])
async def test_garbage_is_passed_over(simulator, user, client, size):
    simulator.fault(f"garbage:{size}", while_open=True)
    await works(simulator, user, client)
    assert client.ids == emitted(simulator, user)
    assert not client.told


async def test_an_event_too_big_is_told_in_its_place_and_the_connection_stays(
    simulator, user, serve, connect, counts
):
    relay = await serve(simulator.url, upstream={"max_event_bytes": 5000})
    client = await connect(relay)
    simulator.emit(user.id, "desktops", 2)
    simulator.fault("oversize:20000")
    simulator.emit(user.id, "desktops", 3)
    await client.has(4)
    order = emitted(simulator, user)
    assert [block.id for block in client.blocks] == order
    assert client.blocks[2].payload == {"cause": "oversize", "lastEventId": order[1]}
    assert simulator.subscriptions_opened() == 1
    late = await connect(relay, cursor=order[0])
    await late.has(3)
    assert late.blocks == client.blocks[1:]
    after = await connect(relay, cursor=order[2])
    await after.has(2)
    assert after.blocks == client.blocks[3:]
    await counts(relay, 1, "gaps_total", cause="oversize")


async def test_a_huge_event_that_is_allowed_arrives(simulator, user, serve, connect):
    relay = await serve(
        simulator.url,
        upstream={"max_event_bytes": 3_000_000},
        replay={"max_bytes": 4_000_000},
        stream={"buffer_bytes": 4_000_000},
    )
    client = await connect(relay)
    simulator.fault("oversize:2000000")
    simulator.emit(user.id, "desktops", 2)
    await client.has(2)
    assert [event.data for event in client.events] == [
        record.data for record in simulator.log(user.id, "desktops")
    ]


async def test_an_event_bigger_than_the_history_still_reaches_who_is_there(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url, replay={"max_bytes": 2000})
    client = await connect(relay)
    simulator.fault("oversize:100000")
    simulator.emit(user.id, "desktops", 3)
    await client.has(3)
    assert client.ids == emitted(simulator, user)
    assert not client.told


async def test_a_lone_cr_ends_an_event_at_once(serve, raw_upstream, connect):
    raw_upstream.answers = [BARE + b"id: 1\rdata: a\r\r"]
    client = await connect(await serve(raw_upstream.url))
    await client.has(1)
    raw_upstream.writers[0].write(b"\n: not a second line end\rid: 2\rdata: b\r\r")
    await client.has(2)
    assert client.blocks == [("1", "", "a", None), ("2", "", "b", None)]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: \xff\xfe\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: ;;;\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=lambda answer: ascii(answer)[2:30],
)
async def test_an_upstream_that_speaks_no_http_is_a_clear_error(serve, raw_upstream, answer):
    raw_upstream.answers = [answer]
    relay = await serve(raw_upstream.url, upstream={"connect_timeout": 0.5})
    reply = await ask(relay.public_url, key="k")
    assert reply.status in {502, 503}
    assert reply.code in {"upstream_error", "upstream_unavailable"}


@pytest.mark.parametrize(
    ("coding", "status"), [("gzip", 502), ("br, identity", 502), ("identity", 200), ("", 200)]
)
async def test_a_compressed_stream_that_nobody_asked_for_is_no_event_stream(
    serve, raw_upstream, coding, status
):
    encoded = f"Content-Encoding: {coding}\r\nConnection: close\r\n\r\n".encode()
    raw_upstream.answers = [BARE.removesuffix(b"\r\n") + encoded]
    relay = await serve(raw_upstream.url)
    client = await SseClient.connect(relay.public_url, key="k")
    await eventually(lambda: client.status)
    assert client.status == status, "it would be mute for ever"
    client.close()


@pytest.mark.parametrize(
    "broken",
    [b"zz\r\n", b"-1\r\n", b"fffffffffffffffff\r\n", b"5\r\nab", b"3\r\nabcd\r\n", b"\r\n"],
)
async def test_broken_chunks_are_a_cut(serve, raw_upstream, connect, broken):
    raw_upstream.answers = [
        CHUNKED + b"f\r\nid: 1\ndata: a\n\n\r\n",
        CHUNKED + b"f\r\nid: 1\ndata: a\n\n\r\nf\r\nid: 2\ndata: b\n\n\r\n",
    ]
    client = await connect(await serve(raw_upstream.url))
    await client.has(1)
    raw_upstream.writers[0].write(broken)
    if broken == b"5\r\nab":
        raw_upstream.writers[0].close()
    await eventually(lambda: client.ids[-1:] == ["2"])
    assert len(raw_upstream.heads) == 2


async def test_charset_and_case_of_the_content_type_do_not_matter(serve, raw_upstream, connect):
    kind = b"content-type: Text/Event-Stream; charset=UTF-8\r\n"
    raw_upstream.answers = [b"HTTP/1.1 200 OK\r\n" + kind + b"\r\nid: 1\ndata: a\n\n"]
    client = await connect(await serve(raw_upstream.url))
    await client.has(1)
    assert client.headers["content-type"] == "text/event-stream"


async def test_nothing_is_asked_of_upstream_but_what_a_stream_needs(serve, raw_upstream, connect):
    raw_upstream.answers = [CHUNKED]
    relay = await serve(raw_upstream.url)
    await connect(
        relay,
        key="k",
        cursor="c",
        headers=[
            ("User-Agent", "me"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("Referer", "http://a/?apiKey=k"),
            ("Accept-Language", "de"),
        ],
    )
    (head,) = raw_upstream.heads
    lines = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
    assert lines == {
        *(b"host", b"accept", b"accept-encoding", b"cache-control", b"user-agent"),
        *(b"x-api-key", b"last-event-id"),
    }
    assert b"User-Agent: me" not in head
