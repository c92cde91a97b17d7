"""The lease of a feed: one replica has it, for a time, and knows when it no longer does."""

import asyncio

from tests.broker.programs import eventually
from tests.broker.stands import LEASE_S, Member, begun, entries

from lebureau_relay.relay.ports import Verdict


async def take_until(broker, feed: str) -> str:
    """Ask until it is given."""
    async with asyncio.timeout(10.0):
        while (token := await broker.take(feed, wanted=True)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return token


async def test_a_free_lease_is_given_to_one(stand):
    brokers = [await stand.broker() for _ in range(3)]
    tokens = await asyncio.gather(*(one.take(stand.feed, wanted=True) for one in brokers))
    assert sum(token is not None for token in tokens) == 1


async def test_leases_of_feeds_have_nothing_to_do_with_each_other(stand):
    a, b = await stand.broker(), await stand.broker()
    assert await a.take("one", wanted=False)
    assert await b.take("other", wanted=False)


async def test_taking_ones_own_again_renews_it(stand):
    a, b = await stand.broker(), await stand.broker()
    loop = asyncio.get_running_loop()
    assert await a.take(stand.feed, wanted=False)
    until_s = loop.time() + 1.5 * LEASE_S
    while loop.time() < until_s:
        assert await a.take(stand.feed, wanted=False)
        assert await b.take(stand.feed, wanted=False) is None
        await asyncio.sleep(0.05)


async def test_taking_ones_own_again_fences_whoever_had_it_here(stand):
    """Two terms of one replica must not be mistaken for each other: the later one counts."""
    owner, token = await begun(stand)
    again = await owner.take(stand.feed, wanted=False)
    assert await owner.append(stand.feed, token, "e1", 0, entries(1, 1)) is Verdict.FENCED
    assert not await owner.give(stand.feed, token, if_wanted=False)
    assert await owner.append(stand.feed, again, "e1", 0, entries(1, 1)) is Verdict.TAKEN


async def test_it_runs_out_if_nobody_renews_it(stand):
    a, b = await stand.broker(), await stand.broker()
    loop = asyncio.get_running_loop()
    taken_s = loop.time()
    token = await a.take(stand.feed, wanted=False)
    assert await take_until(b, stand.feed) != token
    assert loop.time() - taken_s >= LEASE_S - 0.05


async def test_a_member_keeps_it_without_asking(stand):
    a, b = await stand.broker(), await stand.broker()
    member = Member(in_use=True)
    a.enter(stand.feed, member)
    member.token = await a.take(stand.feed, wanted=False)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 2 * LEASE_S
    while loop.time() < until_s:
        assert await b.take(stand.feed, wanted=False) is None
        await asyncio.sleep(0.05)
    assert member.lost == 0


async def test_who_has_it_not_hears_who_does(stand):
    a, b = await stand.broker(), await stand.broker()
    token = await a.take(stand.feed, wanted=False)
    owner, other = Member(token=token), Member()
    a.enter(stand.feed, owner)
    b.enter(stand.feed, other)
    await eventually(lambda: other.held)
    assert other.held == {token.partition(":")[0]}
    assert not owner.held


async def test_no_two_tokens_are_equal(stand):
    a, b = await stand.broker(), await stand.broker()
    tokens = []
    for broker in (a, a, b, a, b):
        token = await broker.take(stand.feed, wanted=False)
        tokens.append(token)
        assert await broker.give(stand.feed, token, if_wanted=False)
    assert None not in tokens
    assert len(set(tokens)) == len(tokens)


async def test_the_fence_in_the_token_rises(stand):
    a, b = await stand.broker(), await stand.broker()
    fences = []
    for broker in (a, b, a):
        token = await broker.take(stand.feed, wanted=False)
        fences.append(int(token.split(":")[1]))
        assert await broker.give(stand.feed, token, if_wanted=False)
    assert fences == sorted(set(fences))


async def test_only_its_holder_can_give_it(stand):
    a, b = await stand.broker(), await stand.broker()
    token = await a.take(stand.feed, wanted=False)
    assert not await b.give(stand.feed, "another:1:token", if_wanted=False)
    assert await b.take(stand.feed, wanted=False) is None
    assert await a.give(stand.feed, token, if_wanted=False)
    assert await b.take(stand.feed, wanted=False)


async def test_it_is_given_away_only_if_another_wants_it(stand):
    a, b = await stand.broker(), await stand.broker()
    token = await a.take(stand.feed, wanted=True)
    assert not await a.give(stand.feed, token, if_wanted=True)
    assert await b.take(stand.feed, wanted=False) is None
    assert not await a.give(stand.feed, token, if_wanted=True)
    assert await b.take(stand.feed, wanted=True) is None
    assert await a.give(stand.feed, token, if_wanted=True)


async def test_a_wish_is_forgotten(stand):
    a, b = await stand.broker(), await stand.broker()
    owner = Member(in_use=True)
    a.enter(stand.feed, owner)
    owner.token = await a.take(stand.feed, wanted=True)
    assert await b.take(stand.feed, wanted=True) is None
    await eventually(lambda: owner.wanted, said="the owner hears that it is wanted")
    await asyncio.sleep(2 * LEASE_S)  # a wish lasts as long as a lease
    heard = owner.wanted
    await asyncio.sleep(LEASE_S)
    assert owner.wanted == heard
    assert not await a.give(stand.feed, owner.token, if_wanted=True)


async def test_a_wish_that_came_true_is_none(stand):
    a, b = await stand.broker(), await stand.broker()
    token = await a.take(stand.feed, wanted=True)
    assert await b.take(stand.feed, wanted=True) is None
    assert await a.give(stand.feed, token, if_wanted=True)
    token = await b.take(stand.feed, wanted=True)
    assert not await b.give(stand.feed, token, if_wanted=True)


async def test_a_follower_in_use_goes_on_wanting(stand):
    a, b = await stand.broker(), await stand.broker()
    owner, follower = Member(), Member(in_use=True)
    a.enter(stand.feed, owner)
    owner.token = await a.take(stand.feed, wanted=False)
    b.enter(stand.feed, follower)
    await eventually(lambda: owner.wanted >= 3, said="the owner hears it again and again")
    assert await a.give(stand.feed, owner.token, if_wanted=True)


async def test_a_follower_not_in_use_wants_nothing(stand):
    a, b = await stand.broker(), await stand.broker()
    owner, follower = Member(), Member()
    a.enter(stand.feed, owner)
    owner.token = await a.take(stand.feed, wanted=False)
    b.enter(stand.feed, follower)
    await asyncio.sleep(LEASE_S)  # four times the tick that would have said so
    assert owner.wanted == 0
    assert not await a.give(stand.feed, owner.token, if_wanted=True)


async def test_all_hear_that_it_was_given(stand):
    a, b, c = [await stand.broker() for _ in range(3)]
    followers = [Member(in_use=True), Member()]
    token = await a.take(stand.feed, wanted=False)
    for broker, member in zip((b, c), followers, strict=True):
        broker.enter(stand.feed, member)
        await stand.listening(member)
    assert await a.give(stand.feed, token, if_wanted=False)
    await eventually(lambda: all(one.free for one in followers), said="both hear of it")


async def test_a_member_hears_that_it_ran_out(stand):
    a, b = await stand.broker(), await stand.broker()
    assert await a.take(stand.feed, wanted=False)
    member = Member(in_use=True)
    b.enter(stand.feed, member)
    await eventually(lambda: member.free, said="the lease ran out")
    assert await b.take(stand.feed, wanted=True)


async def test_a_member_hears_that_its_lease_is_anothers(stand):
    a, b = await stand.broker(), await stand.broker()
    member = Member(in_use=True)
    member.token = await a.take(stand.feed, wanted=False)
    token = await take_until(b, stand.feed)
    a.enter(stand.feed, member)  # it has slept through its lease
    await eventually(lambda: member.lost, said="the old owner hears of it")
    assert await a.append(stand.feed, member.token, "e1", 0, entries(1, 1)) is Verdict.FENCED
    assert await b.begin(stand.feed, token, "e2", 0, b"", entries(1, 1)) is Verdict.TAKEN


async def test_a_killed_owner_is_followed(stand):
    a, b = await stand.broker(), await stand.broker()
    member, follower = Member(in_use=True), Member(in_use=True)
    b.enter(stand.feed, follower)
    a.enter(stand.feed, member)
    await eventually(lambda: follower.free, said="nobody has it")
    follower.free = 0
    member.token = await a.take(stand.feed, wanted=False)
    await stand.stop(a)
    await eventually(lambda: follower.free, said="the lease of the killed one is free")
    assert await b.take(stand.feed, wanted=True)


async def test_who_has_left_hears_nothing(stand):
    a, b = await stand.broker(), await stand.broker()
    gone, here = Member(in_use=True), Member(in_use=True)
    a.enter(stand.feed, gone)
    a.leave(stand.feed)
    b.enter(stand.feed, here)
    await eventually(lambda: here.free >= 2, said="the other one's ticks go on")
    assert (gone.free, gone.looks, gone.tops) == (0, 0, [])
