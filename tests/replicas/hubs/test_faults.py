"""What replicas do to each other when something fails: nothing is lost, repeated or reordered in
silence, a stale owner appends nothing, and in the end there is one upstream again.
"""

import pytest
from tests.relay.api import said, unnamed
from tests.replicas.hubs.deployment import CALL_TIMEOUT_S, LEASE_S


def numbers(client) -> list[int]:
    return [int(one) for one in client.ids]


def texts(client) -> list[str]:
    """What upstream said, and the gaps."""
    return [
        block.type if block.type == "relay.gap" else block.data for block in client.reader.blocks
    ]


async def test_without_a_server_everybody_goes_on_alone_and_comes_back_to_one(deploy):
    site = deploy(3)
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2, 3)
    await site.server_goes()
    assert site.roles == ["solo"] * 3
    assert site.upstreams == 3
    await site.emit(4, 5)
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4, 5]] * 3
    await site.server_comes()
    assert sorted(site.roles) == ["follower", "follower", "owner"]
    assert site.upstreams == 1
    await site.emit(6)
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4, 5, 6]] * 3
    assert [one.reader.gaps for one in clients] == [[], [], []]
    assert site.logged[-3:] == ["4", "5", "6"]


async def test_what_came_while_a_follower_was_on_its_way_to_solo_is_asked_for(deploy):
    site = deploy(2)
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2, 3)
    site.server.switch(False)
    site.api.note_ids(4, 5)  # said before anybody had a line of its own
    await site.passes(3.0)
    await site.emit(6)
    assert numbers(clients[1]) == [1, 2, 3, 4, 5, 6]
    assert clients[1].reader.gaps == []


async def test_a_follower_goes_solo_from_a_ring_that_has_let_go_of_its_beginning(deploy, small):
    site = deploy(2, limits=small)
    clients = [await site.join(replica) for replica in site.replicas]
    for one in range(1, 13):
        await site.emit(one)
    await site.server_goes()
    await site.emit(13)
    assert [numbers(one) for one in clients] == [list(range(1, 14))] * 2
    assert clients[1].reader.gaps == []


async def test_a_stale_owner_appends_nothing(deploy):
    site = deploy(2)
    stale, fresh = site.replicas
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2)
    site.part(stale)
    site.api.emit_ids(3)  # its append is on the road, and stays there
    await site.passes(LEASE_S + 1.0)
    assert fresh.role == "owner"
    assert stale.role == "solo"
    await site.emit(4, 5)
    assert site.logged == ["1", "2", "3", "4", "5"]
    await site.heal(stale)
    assert site.logged == ["1", "2", "3", "4", "5"]
    assert site.owner is fresh
    assert site.upstreams == 1
    await site.emit(6)
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4, 5, 6]] * 2
    assert [one.reader.gaps for one in clients] == [[], []]


async def test_an_owner_that_is_replaced_ends_its_upstream_at_once(deploy):
    site = deploy(2)
    here, there = site.replicas
    await site.join(here)
    client = await site.join(there)
    await site.emit(1, 2)
    (feed,) = site.server.feeds.values()
    feed.token = ""  # as if it had slept past its lease
    there.feed.share.lease_free()
    await site.passes(0.1)
    assert there.role == "owner"
    await site.emit(3)  # the old owner's append is refused
    assert here.role == "follower"
    assert here.tap.listening == []
    assert site.upstreams == 1
    assert numbers(client) == [1, 2, 3]
    assert site.logged == ["1", "2", "3"]


async def test_a_flushed_server_gets_its_history_back(deploy):
    site = deploy(3)
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2, 3)
    site.server.flush()
    await site.emit(4, seconds=LEASE_S)
    assert site.logged == ["1", "2", "3", "4"]
    assert site.upstreams == 1
    await site.emit(5)
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4, 5]] * 3
    assert [one.reader.gaps for one in clients] == [[], [], []]


async def test_a_follower_that_knows_less_may_begin_the_log_anew(deploy):
    site = deploy(2)
    _, behind = site.replicas
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2, 3)
    behind.seat.deaf = True
    await site.emit(4, 5)
    behind.seat.deaf = False
    site.server.flush()
    behind.feed.share.lease_free()  # it hears of it first
    await site.passes(LEASE_S)
    assert site.owner is behind
    assert site.logged == ["1", "2", "3", "4", "5"]
    await site.emit(6)
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4, 5, 6]] * 2
    assert [one.reader.gaps for one in clients] == [[], []]


async def test_a_log_that_began_anew_is_not_taken_for_the_old_one(deploy):
    """The new owner knew less and upstream proves nothing, so its offsets mean other events."""
    site = deploy(3)
    _, behind, away = site.replicas
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2, 3)
    behind.seat.deaf = True
    await site.emit(4, 5)
    away.seat.deaf = True
    site.api.known = "live"
    site.server.flush()
    behind.seat.deaf = False
    behind.feed.share.lease_free()
    await site.passes(0.2)
    assert behind.role == "owner"
    await site.emit(6, 7, 8)
    away.seat.deaf = False
    site.api.known = "honours"
    await site.passes(LEASE_S)
    told = clients[2].told
    assert told == ["1", "2", "3", "4", "5", "6", "7", "8"] or "relay.gap" in told


@pytest.mark.parametrize("entries", ["taken", "lost"])
async def test_an_append_of_unknown_outcome_is_neither_lost_nor_doubled(deploy, entries):
    site = deploy(2)
    owner, follower = site.replicas
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2)
    if entries == "taken":
        owner.seat.lost_answers = 1
    else:
        owner.seat.drop = 1
    await site.emit(3, seconds=3 * CALL_TIMEOUT_S)
    assert owner.role == "owner"
    await site.emit(4)
    assert site.logged == ["1", "2", "3", "4"]
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4]] * 2
    assert [one.reader.gaps for one in clients] == [[], []]
    assert follower.role == "follower"


async def test_a_word_that_arrives_late_from_the_owner_itself_does_no_harm(deploy):
    site = deploy(2)
    owner, _ = site.replicas
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2)
    site.part(owner)
    site.api.emit_ids(3)
    await site.passes(1.5 * CALL_TIMEOUT_S)  # given up, still on the road
    site.server.feeds[next(iter(site.server.feeds))].expires_s += 100.0
    await site.heal(owner, 0.1)
    await site.emit(4, seconds=LEASE_S)
    assert site.logged == ["1", "2", "3", "4"]
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4]] * 2
    assert [one.reader.gaps for one in clients] == [[], []]


async def test_a_server_that_was_rolled_back_gets_the_tail_again(deploy):
    site = deploy(2)
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2, 3, 4)
    (feed,) = site.server.feeds.values()
    feed.log.truncate(2)  # as a failover to a replica that lagged
    await site.emit(5, seconds=LEASE_S)
    assert site.logged == ["1", "2", "3", "4", "5"]
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4, 5]] * 2
    assert [one.reader.gaps for one in clients] == [[], []]


async def test_what_the_source_says_while_the_log_begins_anew_reaches_the_log(deploy):
    site = deploy(2)
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2)
    await site.server_goes()
    site.server.switch(True)
    for one in range(3, 600):  # one each half millisecond: some fall into every wait
        site.api.emit_ids(one)
        await site.passes(0.0005)
    await site.passes(LEASE_S)
    assert site.logged == [str(one) for one in range(1, 600)]
    assert [entry.offset for entry in site.log] == list(range(1, 600))
    assert [numbers(one) for one in clients] == [list(range(1, 600))] * 2


async def test_streams_without_ids_are_told_a_gap_where_replicas_went_on_alone(deploy):
    site = deploy(2)
    clients = [await site.join(replica) for replica in site.replicas]
    site.api.emit(unnamed("a"))
    await site.passes()
    await site.server_goes()
    site.api.emit(unnamed("b"))
    await site.passes(2.0)
    await site.server_comes()
    site.api.emit(unnamed("c"))
    await site.passes()
    for client in clients:
        said = texts(client)
        assert [one for one in said if one != "relay.gap"] == ["a", "b", "c"]
    assert any(one.reader.gaps for one in clients), "somebody's place is not what the log says"


async def test_a_place_that_a_replica_named_alone_means_nothing_elsewhere(deploy):
    """A position without upstream's id, said while alone, must not be taken for the log's."""
    site = deploy(2)
    alone, other = site.replicas
    client = await site.join(alone)
    await site.join(other)
    site.api.emit(unnamed("a"))
    await site.passes()
    site.part(alone)
    await site.passes(LEASE_S + 1.0)
    assert other.role == "owner"
    alone.tap.listening[0].cut()  # alone it misses what the other has
    await site.passes(0.01)
    site.api.emit(unnamed("b"))
    await site.passes(5.0)
    site.api.emit(unnamed("c"))
    await site.passes()
    place = client.last_id
    client.leave()
    again = await site.join(other, place)
    await site.passes(3.0)
    site.api.emit(unnamed("d"))
    await site.passes()
    assert texts(again)[0] == "relay.gap"


async def test_a_stale_owner_appends_nothing_even_where_its_word_would_fit(deploy):
    """The log stands where the stale owner left it: only the fence tells them apart."""
    site = deploy(2)
    stale, fresh = site.replicas
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2)
    site.part(stale)
    site.api.emit_ids(3)
    site.api.up.clear()  # whoever takes over has nothing to append yet
    await site.passes(LEASE_S + 1.0)
    assert fresh.role == "owner"
    stale.seat.road.set()
    await site.passes(0.1)
    assert site.logged == ["1", "2"]
    site.api.up.set()
    await site.emit(4, seconds=LEASE_S)
    assert site.logged == ["1", "2", "3", "4"]
    assert [numbers(one) for one in clients] == [[1, 2, 3, 4]] * 2
    assert [one.reader.gaps for one in clients] == [[], []]


async def test_what_a_follower_saw_alone_does_not_hide_what_the_log_says_there(deploy):
    """Alone it counted on; the log's next entry then has a number that it has used."""
    site = deploy(2)
    owner, other = site.replicas
    clients = [await site.join(replica) for replica in site.replicas]
    site.api.emit(unnamed("1"))
    await site.passes()
    site.part(other)
    await site.passes(4.0)
    assert other.role == "solo", "and was told by its own upstream that nobody knows what it missed"
    assert other.feed.history.top == 2
    await site.heal(other)
    assert site.owner is owner
    assert other.feed.history.top == 2
    site.api.emit(unnamed("2"))
    await site.passes()
    assert texts(clients[0]) == ["1", "2"]
    assert texts(clients[1]) == ["1", "relay.gap", "2"]


async def test_what_came_with_a_log_that_was_rolled_back_is_not_lost(deploy):
    """The lease is ours still, so the source goes on: without ids nobody would say it again."""
    site = deploy(1)
    client = await site.join(site.replicas[0])
    site.api.emit(unnamed("1"), unnamed("2"))
    await site.passes()
    (feed,) = site.server.feeds.values()
    feed.log.truncate(1)
    site.api.emit(unnamed("3"))
    await site.passes()
    assert texts(client) == ["1", "2", "3"]
    assert len(site.log) == 3
    assert len(site.api.asks) == 1, "the source goes on"


async def test_an_idle_owner_notices_that_the_log_was_rolled_back(deploy):
    """Whoever comes elsewhere finds its place, though upstream says nothing."""
    site = deploy(2)
    here, there = site.replicas
    await site.join(here)
    await site.emit(1, 2, 3)
    await site.passes(2.0)
    (feed,) = site.server.feeds.values()
    feed.log.truncate(1)
    again = await site.join(there, "3")
    await site.passes(2.0)
    assert site.logged == ["1", "2", "3"]
    await site.emit(4)
    assert numbers(again) == [4]
    assert again.reader.gaps == []


async def test_who_saw_more_than_the_log_waits_for_it_where_the_log_begins_with_a_gap(deploy):
    site = deploy(2)
    owner, other = site.replicas
    await site.join(owner)
    site.api.cut()  # before there is an id to ask for
    await site.passes(2.0)
    site.part(other)
    await site.passes(3.0)
    alone = await site.join(other)
    await site.emit(1, 2)
    assert numbers(alone) == [1, 2]
    (feed,) = site.server.feeds.values()
    feed.log.truncate(2)
    assert feed.log.entry(1).gap is not None
    await site.heal(other, 3.0)
    await site.emit(3)
    assert numbers(alone) == [1, 2, 3]
    assert alone.reader.gaps == []


async def test_a_ring_that_has_outgrown_the_log_does_not_take_it_for_its_own(deploy, small):
    """What the log says at places that a ring has let go can't be compared: it may be news."""
    site = deploy(2, limits=small)
    alone, other = site.replicas
    clients = [await site.join(alone)]
    await site.emit()
    site.server.switch(False)
    await site.passes(2.0)
    for number in range(1, small.max_events + 4):
        await site.emit(number)
    clients.append(await site.join(other))
    site.part(alone)
    site.server.switch(True)
    site.api.cut()
    await site.passes(2 * LEASE_S)
    assert site.owner is other
    assert len(site.log) == 1, "the gap after the cut: the other knew nothing to ask for"
    await site.heal(alone)
    last = small.max_events + 4
    await site.emit(last)
    assert numbers(clients[0])[-1] == last
    assert numbers(clients[1])[-1] == last


@pytest.mark.parametrize("asked", ["while it opens", "while it is read"])
async def test_what_the_log_brings_to_a_running_source_is_not_taken_from_it_again(deploy, asked):
    """Alone it has a line of its own; the log then brings what that line is about to say."""
    site = deploy(2)
    first, alone = site.replicas
    await site.join(first)
    client = await site.join(alone)
    await site.emit(1, 2, 3)
    assert site.owner is first
    if asked == "while it opens":
        site.api.up.clear()
    site.part(alone)
    await site.passes(LEASE_S)
    assert alone.role == "solo"
    late: list[bytes] = []
    if asked == "while it is read":
        (line,) = alone.tap.listening
        line.send = lambda *chunks: late.extend(chunks)
    await site.emit(4)
    await site.stop(first)
    await site.heal(alone)
    assert (alone.role, numbers(client)) == ("owner", [1, 2, 3, 4])
    site.api.up.set()
    if asked == "while it is read":
        del line.send
        line.send(*late)
    await site.emit(5, seconds=LEASE_S)
    assert numbers(client) == [1, 2, 3, 4, 5]
    assert client.reader.gaps == []


async def test_an_id_that_was_used_twice_in_a_row_means_nothing_at_a_replica_that_saw_neither(
    deploy,
):
    site = deploy(2)
    here, other = site.replicas
    client = await site.join(here)
    await site.emit(1)
    site.api.emit(said(2, "first"))
    await site.passes()
    client.leave()
    site.api.emit(said(2, "second"))
    await site.emit(3)
    again = await site.join(other, "2")
    await site.passes()
    assert again.reader.blocks[0].type == "relay.gap"
