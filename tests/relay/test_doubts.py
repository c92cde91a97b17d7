"""What an owner asks upstream once more, because it doubts an answer: whether it knows the one id
that is left (decision 0010), and whether it takes the cursor after all.
"""

import asyncio

import pytest
from tests.relay.api import said, unnamed
from tests.relay.house import ALICE, Client, credential

from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.relay.host import StreamTimings

BOB = credential("bob")
REJECTED = SourceFailure(SourceProblem.CURSOR_REJECTED, "answered 404", status=404)


async def forgets_but_one(house) -> Client:
    """A client, after upstream has forgotten 1, 2 and 3 and has said 4, and breaks off again."""
    client = await house.join()
    await house.emit(1, 2, 3)
    house.api.log.clear()
    house.api.cut()
    await house.advance(1)
    await house.emit(4)
    assert client.told == ["1", "2", "3", "relay.gap", "4"]
    house.api.cut()
    return client


async def test_while_a_client_is_caught_up_its_request_stays_its_own(house):
    """Two 4xx for the cursor; meanwhile a client with an old cursor is being caught up."""
    house.api.note_ids(*range(1, 6))
    client = await house.join("4")  # ring [5, 6], floor 4
    await house.emit(6)
    house.api.fail(SourceProblem.CURSOR_REJECTED)
    house.api.cut()  # first refusal is waited out
    await house.advance(0.6)
    assert house.api.cursors == ["4", "5"]
    house.api.fail(SourceProblem.CURSOR_REJECTED)  # for the owner's second try
    await house.advance(0.1)
    # 0.5 s + 1 s backoff: before the 2nd try, a waiter's short request opens and hangs open
    house.api.answers.appendleft(None)
    house.api.known = "live"
    await house.join("2")
    await house.settle()
    house.api.known = "honours"
    assert house.api.cursors == ["4", "5", "2"]
    short = house.api.listening[0]
    await house.advance(1.0)
    short.send(said(3).block, said(4).block, said(5).block, said(6).block)
    await house.settle()
    await house.emit(7)
    await house.advance(6)
    assert "relay.closing" not in client.told
    assert client.told[:2] == ["5", "6"]
    assert not {"3", "4"} & set(client.told), "what it had before its cursor came again"
    assert len(set(client.ids)) == len(client.ids), "repeats"


async def test_the_same_where_one_id_is_known(house):
    """The same with one known id: nothing has to come back, so it is silent."""
    client = await house.join()
    house.api.note_ids(1, 2, 3, 4)
    await house.emit(5)
    house.api.fail(SourceProblem.CURSOR_REJECTED)
    house.api.cut()
    await house.advance(0.7)
    house.api.answers.append(None)
    house.api.answers.append(REJECTED)
    house.api.known = "live"
    await house.join("2")
    await house.settle()
    house.api.known = "honours"
    await house.advance(1.0)
    (short,) = [line for line in house.api.lines if line.ask.cursor == "2"]
    house.api.note_ids(6)
    short.send(said(3).block, said(4).block)
    await house.settle()
    await house.emit(7)
    await house.advance(6)
    assert client.told in (["5", "6", "7"], ["5", "relay.gap", "7"])


async def test_a_credential_that_is_revoked_meanwhile_opens_nothing(house):
    await house.join(who=ALICE)
    bob = await house.join(who=BOB)
    await house.emit(1, 2)
    house.api.answers.extend([REJECTED, REJECTED, None])
    house.api.cut()
    await house.advance(0.7)
    real = house.api.open
    held = asyncio.Event()

    async def slow(key, who, cursor):
        line = await real(key, who, cursor)
        if len(house.api.cursors) == 5:
            await held.wait()
        return line

    house.api.open = slow
    await house.advance(1.0)
    assert house.api.cursors == ["", "1", "1", "", "1"]
    house.register.withdrawn.add(ALICE)
    house.hub.revoke(ALICE)
    await house.settle()
    held.set()
    await house.settle()
    await house.emit(3)
    assert house.api.line.ask.credential == BOB
    assert bob.told == ["1", "2", "3"]


@pytest.mark.parametrize("problem", ["unauthorized", "forbidden"])
async def test_a_no_to_the_credential_is_final_whatever_was_asked(house, problem):
    client = await forgets_but_one(house)
    await house.advance(1)
    house.api.fail(SourceProblem(problem))
    await house.emit(7)
    assert client.reader.closing is not None


async def test_a_proof_that_fails_for_a_moment_is_asked_for_again(house):
    client = await forgets_but_one(house)
    house.api.note_ids(5)
    house.api.answers.extend([None, SourceFailure(SourceProblem.UNAVAILABLE, "503")])
    await house.advance(6)
    assert client.told[4:] == ["4", "5"]


async def test_who_came_meanwhile_has_all_its_time(build):
    house = build(timings=StreamTimings(catchup_timeout_s=5.0))
    await forgets_but_one(house)
    house.api.log.clear()
    await house.advance(1)
    await house.emit(7)
    older = await house.join("strange")
    await house.advance(4.9)
    await house.advance(0.2)
    assert house.api.cursors[-1] == "strange"
    await house.advance(0.5)
    assert older.told == [], "it has had 0.25 s of upstream"


async def test_an_id_that_cant_be_sent_is_nothing_to_go_on_from(build):
    house = build(timings=StreamTimings(catchup_timeout_s=5.0))
    house.api.note_ids(1, "a\x01", 3, 4)
    await house.join("4")
    await house.settle()
    house.api.known = "live"
    waiter = await house.join("1")
    await house.settle()
    short = house.api.listening[1]
    short.send(said("a\x01").block)
    short.cut()
    house.api.known = "honours"
    await house.advance(2.0)
    assert "" not in house.api.cursors, "that would be live"
    house.api.note_ids(5)
    house.api.listening[0].send(said(5).block)
    await house.advance(6)
    assert waiter.told[:2] == ["a\x01", "relay.gap"]


@pytest.mark.parametrize("what", ["opens", "proves"])
@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("end", ["leave", "close", "cancel"])
async def test_whenever_it_ends_nothing_is_left_open(house, what, turns, end):
    client = await (house.join() if what == "opens" else forgets_but_one(house))
    if what == "opens":
        await house.emit(1, 2)
        house.api.answers.extend([REJECTED, REJECTED, None])
        house.api.cut()
        await house.advance(0.7)
        seen = 4
    else:
        house.api.note_ids(5)
        seen = 3
    real = house.api.open
    gate, begun = asyncio.Event(), []

    async def slow(key, who, cursor):
        if len(house.api.asks) >= seen:
            begun.append(cursor)
            await gate.wait()
        return await real(key, who, cursor)

    house.api.open = slow
    await house.advance(1.2)
    assert begun
    assert len(house.api.asks) == seen, house.api.cursors
    late = await house.join("strange")
    gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    if end == "leave":
        client.leave()
        late.leave()
        await house.settle()
        house.hub._close_feed(house.feed)
    elif end == "close":
        await house.hub.close()
    else:
        house.hub._tasks[house.feed.key].cancel()
    await house.settle()
    await house.advance(20)
    assert not house.api.listening


async def test_what_is_said_alike_to_everybody_is_no_proof(house):
    client = await forgets_but_one(house)
    house.api.note_ids(5)
    house.api.log.clear()
    await house.advance(1)
    for _ in range(2):
        house.api.emit(unnamed("tick"))
        await house.settle()
    await house.emit(6)
    await house.advance(6)
    assert client.told[4:6] == ["4", "relay.gap"]


async def test_an_upstream_that_forgets_twice_with_one_event_between_is_found_out(house):
    client = await forgets_but_one(house)
    house.api.log.clear()
    house.api.note_ids(5, 6)
    await house.advance(1)
    await house.emit(7)
    assert client.told[4:] == ["4"], "it is asked whether it says that again"
    await house.advance(5)
    assert client.told[4:] == ["4", "relay.gap", "7"]
    assert client.reader.gaps[-1].payload == {"cause": "upstream", "lastEventId": "4"}
    assert house.api.cursors == ["", "2", "4", "4"]
    assert len(house.api.listening) == 1
    await house.emit(8)
    assert client.told[4:] == ["4", "relay.gap", "7", "8"]
    assert house.meter.catchups == ["timeout"]


async def test_one_that_has_forgotten_once_and_remembers_now_costs_no_second_gap(house):
    client = await forgets_but_one(house)
    house.api.note_ids(5, 6)
    await house.advance(1)
    await house.emit(7)
    assert client.told[4:] == ["4", "5", "6", "7"]
    assert house.api.cursors == ["", "2", "4", "4"]
    assert len(house.api.listening) == 1
    assert house.meter.catchups == ["filled"]


async def test_the_proof_is_asked_for_also_when_the_gap_is_too_old_to_be_held(build):
    house = build(limits=HistoryLimits(max_events=1))
    client = await forgets_but_one(house)
    house.api.log.clear()
    await house.advance(1)
    await house.emit(7)
    await house.advance(5)
    assert client.told[4:] == ["4", "relay.gap", "7"]


async def test_what_else_comes_first_when_it_is_asked_again_is_no_proof(house):
    client = await forgets_but_one(house)
    house.api.log.clear()
    await house.advance(1)
    await house.emit(7)
    await house.emit(8)  # the second request is open by now, and gets it first
    assert client.told[4:] == ["4", "relay.gap", "7", "8"]
    assert house.meter.catchups == ["ignored"]


async def test_all_that_there_is_is_no_proof_though_it_begins_alike(house):
    client = await forgets_but_one(house)
    house.api.log.insert(0, said("0"))
    house.api.known = "whole"
    await house.advance(1)
    assert client.told[4:] == ["4", "relay.gap", "0", "4"]
    assert house.meter.catchups == ["ignored"]


@pytest.mark.parametrize("problem", ["cursor_rejected", "unusable"])
async def test_who_refuses_to_be_asked_again_has_proved_nothing(house, problem):
    client = await forgets_but_one(house)
    await house.advance(1)
    house.api.fail(SourceProblem(problem))
    await house.emit(7)
    assert client.told[4:] == ["4", "relay.gap", "7"]
    assert house.meter.catchups == ["failed"]


async def test_who_comes_back_with_an_old_cursor_while_it_is_asked_waits_its_turn(house):
    await forgets_but_one(house)
    house.api.log.clear()
    await house.advance(1)
    await house.emit(7)
    older = await house.join("strange")
    await house.settle()
    assert house.api.cursors == ["", "2", "4", "4"]
    await house.advance(5)
    assert house.api.cursors == ["", "2", "4", "4", "strange"]
    await house.advance(5)
    assert older.told == ["relay.gap", "relay.gap", "7"]


async def test_a_feed_that_ends_while_it_is_asked_leaves_nothing_behind(house):
    client = await forgets_but_one(house)
    house.api.log.clear()
    await house.advance(1)
    await house.emit(7)
    client.leave()
    await house.advance(100)
    assert not house.api.listening


async def test_an_event_that_takes_its_id_away_proves_nothing(house):
    """`id:` without a value: one greeting is like another, whoever is greeted."""
    client = await forgets_but_one(house)
    house.api.note_ids(5)
    house.api.log.clear()
    await house.advance(1)
    for _ in range(2):
        house.api.emit(said("", "welcome"))
        await house.settle()
    await house.advance(6)
    assert client.told[4:6] == ["4", "relay.gap"]
    assert [block.data for block in client.reader.events[4:]] == ["welcome"] * 2


@pytest.mark.parametrize("event", [unnamed("tick"), said("", "welcome")], ids=["derived", "none"])
async def test_what_can_prove_nothing_is_not_asked_about(house, event):
    client = await forgets_but_one(house)
    house.api.log.clear()
    await house.advance(1)
    house.api.emit(event)
    await house.settle()
    assert client.told[4:6] == ["4", "relay.gap"], "at once"
    assert house.api.cursors == ["", "2", "4"]
    assert house.meter.catchups == []


@pytest.mark.parametrize("answer", ["proof", "failure"])
async def test_a_credential_that_is_revoked_while_it_asks_neither_proves_nor_asks_again(
    house, answer
):
    """Bob's is asked with instead, and nobody is told a gap for it."""
    await house.join(who=ALICE)
    bob = await house.join(who=BOB)
    await house.emit(1, 2, 3)
    house.api.log.clear()
    house.api.cut()
    await house.advance(1)
    await house.emit(4)
    house.api.cut()
    real, held = house.api.open, asyncio.Event()

    async def slow(key, who, cursor):
        line = await real(key, who, cursor)
        if len(house.api.asks) == 4:
            await held.wait()
            if answer == "failure":
                line.close()
                raise SourceFailure(SourceProblem.UNAVAILABLE, "503")
        return line

    house.api.open = slow
    await house.advance(1)
    await house.emit(5)
    assert house.api.cursors == ["", "2", "4", "4"]
    assert {ask.credential for ask in house.api.asks} == {ALICE}
    house.register.withdrawn.add(ALICE)
    house.hub.revoke(ALICE)
    held.set()
    await house.advance(6)
    await house.emit(6)
    assert {ask.credential for ask in house.api.asks[4:]} == {BOB}
    assert bob.told == ["1", "2", "3", "relay.gap", "4", "5", "6"]
    assert house.api.line.ask.credential == BOB


async def test_only_what_was_asked_is_counted(house):
    """A proof while clients are being caught up is no request, so it is none that failed."""
    client = await forgets_but_one(house)
    house.api.known = "live"
    await house.join("strange")
    await house.advance(1)
    await house.emit(7)
    assert client.told[4:] == ["4", "relay.gap", "7"]
    assert house.api.cursors == ["", "2", "strange", "4"]
    await house.advance(6)
    assert len(house.meter.catchups) == len(house.api.asks) - 3 == 1


@pytest.mark.parametrize("answer", ["filled", "failed"])
async def test_a_cursor_that_is_asked_with_after_all_is_counted(house, answer):
    await house.join()
    await house.emit(1, 2)
    house.api.answers.extend([REJECTED, REJECTED, None, None if answer == "filled" else REJECTED])
    house.api.cut()
    await house.advance(2)
    assert house.api.cursors == ["", "1", "1", "", "1"]
    assert house.meter.catchups == [answer]


@pytest.mark.parametrize("slow", [False, True], ids=["a catch-up", "one whose client reads slowly"])
async def test_the_request_with_the_cursor_waits_for_its_turn(build, slow):
    """Two 4xx, and a catch-up is asking while the third request, without the cursor, is answered:
    found by `refused-404 + clients-reset`.
    """
    house = build(timings=StreamTimings(buffer_bytes=5_000))
    house.api.note_ids(*range(1, 4))
    client = await house.join("3")
    await house.emit(4, 5)
    house.api.answers.append(REJECTED)
    house.api.cut()
    await house.advance(0.7)
    house.api.note_ids(6)  # said while nobody listens
    house.api.answers.extend([None, REJECTED])  # to the catch-up, and to the owner's second try
    house.api.known = "live"
    late = await house.join("1", reading=not slow, kernel_bytes=2_000)
    await house.settle()
    house.api.known = "honours"
    (short,) = [line for line in house.api.lines if line.ask.cursor == "1"]
    if slow:
        for n in (2, 3):
            short.send(said(n, "x" * 9_000).block)
            await house.settle()
    await house.advance(1.0)
    assert house.api.cursors[-1] == "", "it waits for the cursor's turn, or has none"
    if not slow:
        short.send(*(said(n).block for n in (2, 3, 4)))
    await house.advance(0.1)
    await house.emit(7)
    assert client.told == (["4", "5", "relay.gap", "7"] if slow else ["4", "5", "6", "7"])
    assert slow or late.told == ["2", "3", "4", "5", "6", "7"]
