"""What replicas hear of each other, at once where nothing is lost."""

import asyncio

from tests.broker.programs import eventually
from tests.broker.stands import Member, begun, entries

from lebureau_relay.relay.ports import Verdict


async def follower(stand, **facts) -> Member:
    """A member in another replica that hears what is said."""
    member = Member(**facts)
    (await stand.broker()).enter(stand.feed, member)
    await stand.listening(member)
    return member


async def test_all_hear_of_an_append(stand):
    owner, token = await begun(stand)
    members = [await follower(stand) for _ in range(2)]
    assert await owner.append(stand.feed, token, "e1", 0, entries(1, 3)) is Verdict.TAKEN
    await eventually(lambda: all(("e1", 3) in one.tops for one in members))


async def test_all_hear_of_a_new_log(stand):
    owner, token = await begun(stand)
    member = await follower(stand)
    await owner.begin(stand.feed, token, "e2", 5, b"", entries(6, 6))
    await eventually(lambda: ("e2", 6) in member.tops)


async def test_what_is_heard_is_in_order(stand):
    owner, token = await begun(stand)
    owner.enter(stand.feed, Member(token=token))  # its lease is renewed, however long this takes
    member = await follower(stand)
    for n in range(50):
        said = owner.append(stand.feed, token, "e1", n, entries(n + 1, n + 1))
        assert await said is Verdict.TAKEN
    await eventually(lambda: member.tops[-1:] == [("e1", 50)])
    heard = iter([top for _, top in member.tops])  # beside them looks, which may run ahead
    assert all(top in heard for top in range(1, 51))


async def test_nobody_hears_of_what_was_refused(stand):
    owner, token = await begun(stand)
    member = await follower(stand)
    await owner.append(stand.feed, "nobody:1:x", "e1", 0, entries(1, 1))
    await owner.append(stand.feed, token, "e2", 0, entries(1, 1))
    await owner.append(stand.feed, token, "e1", 0, entries(1, 2))
    await eventually(lambda: ("e1", 2) in member.tops)
    assert {top for _, top in member.tops} <= {0, 2}


async def test_one_hears_of_ones_own_feeds_only(stand):
    owner, token = await begun(stand)
    here = await follower(stand)
    elsewhere = Member()
    (await stand.broker()).enter("another", elsewhere)
    await owner.append(stand.feed, token, "e1", 0, entries(1, 1))
    await eventually(lambda: ("e1", 1) in here.tops)
    await eventually(lambda: elsewhere.free, said="its ticks go on")
    assert elsewhere.tops == []


async def test_who_was_not_there_hears_it_later(stand):
    """A look every now and then tells what no message did."""
    owner, token = await begun(stand)
    await owner.append(stand.feed, token, "e1", 0, entries(1, 3))
    member = await follower(stand)
    await eventually(lambda: ("e1", 3) in member.tops)


async def test_who_comes_back_hears_again(stand):
    owner, token = await begun(stand)
    broker, member = await stand.broker(), Member()
    for _ in range(20):
        broker.enter(stand.feed, Member())
        broker.leave(stand.feed)
        await asyncio.sleep(0)
    broker.enter(stand.feed, member)
    await stand.listening(member)
    await owner.append(stand.feed, token, "e1", 0, entries(1, 1))
    await eventually(lambda: ("e1", 1) in member.tops)


async def test_many_feeds_are_heard(stand):
    broker, owner = await stand.broker(), await stand.broker()
    members = {f"{stand.feed}-{n}": Member() for n in range(120)}
    for feed, member in members.items():
        broker.enter(feed, member)
    for member in members.values():
        await stand.listening(member)

    async def own(feed: str) -> None:
        token = await owner.take(feed, wanted=False)
        assert token is not None
        assert await owner.begin(feed, token, "e1", 0, b"", entries(1, 1)) is Verdict.TAKEN

    await asyncio.gather(*(own(feed) for feed in members))
    await eventually(lambda: all(("e1", 1) in one.tops for one in members.values()))
