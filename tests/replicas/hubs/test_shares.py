"""What replicas do to each other when nothing fails: one upstream, one history, and hand-overs."""

import asyncio

import pytest
from tests.replicas.hubs.deployment import LEASE_S

from lebureau_relay.core.history import History, HistoryLimits


def numbers(client) -> list[int]:
    return [int(one) for one in client.ids]


async def test_one_upstream_serves_all_replicas(deploy):
    site = deploy(3)
    clients = [await site.join(replica) for replica in site.replicas]
    await site.emit(1, 2)
    await site.emit(3)
    assert site.upstreams == 1
    assert len(site.api.asks) == 1, "nobody else has even asked"
    assert sorted(site.roles) == ["follower", "follower", "owner"]
    assert [numbers(one) for one in clients] == [[1, 2, 3]] * 3
    assert site.logged == ["1", "2", "3"]


async def test_a_client_goes_on_at_a_replica_that_never_saw_its_feed(deploy):
    site = deploy(2)
    here, there = site.replicas
    client = await site.join(here)
    await site.emit(1, 2, 3)
    client.leave()
    again = await site.join(there, "1")
    assert numbers(again) == [2, 3]
    await site.emit(4)
    assert numbers(again) == [2, 3, 4]
    assert again.reader.gaps == []


async def test_the_last_local_subscriber_hands_the_feed_to_a_replica_that_has_some(deploy):
    site = deploy(2)
    here, there = site.replicas
    client = await site.join(here)
    stays = await site.join(there)
    await site.emit(1, 2)
    assert site.owner is here
    client.leave()
    await site.passes(0.2)
    assert site.owner is there
    assert here.role == "follower"
    assert here.tap.listening == []
    assert site.upstreams == 1
    await site.emit(3)
    assert numbers(stays) == [1, 2, 3]
    assert stays.reader.gaps == []


async def test_an_owner_that_nobody_wants_to_replace_keeps_the_feed_warm(deploy):
    site = deploy(2)
    here, there = site.replicas
    client = await site.join(here)
    await site.emit(1)
    client.leave()
    await site.passes(LEASE_S)
    assert here.role == "owner"
    await site.emit(2)
    late = await site.join(there, "1")
    assert numbers(late) == [2], "what came while nobody was there"
    await site.passes(LEASE_S)
    assert site.owner is there, "its owner noticed that somebody else has a use for it"
    await site.emit(3)
    assert numbers(late) == [2, 3]
    assert site.upstreams == 1


async def test_a_clean_stop_hands_over_at_once(deploy):
    site = deploy(2)
    here, there = site.replicas
    client = await site.join(here)
    stays = await site.join(there)
    await site.emit(1, 2)
    await site.stop(here)
    assert client.reader.cut is False
    assert there.role == "owner"
    assert there.journal.takeovers[0] < 0.2
    await site.emit(3)
    assert numbers(stays) == [1, 2, 3]
    assert stays.reader.gaps == []


async def test_a_lease_that_runs_out_is_taken_over(deploy):
    site = deploy(2)
    here, there = site.replicas
    await site.join(here)
    stays = await site.join(there)
    await site.emit(1, 2)
    here.seat.road.clear()
    site.api.note_ids(3)  # nobody heard this one: it must come by replay
    here.tap.listening[0].cut()
    await site.passes(LEASE_S + 1.0)
    assert there.role == "owner"
    await site.emit(4)
    assert numbers(stays) == [1, 2, 3, 4]
    assert stays.reader.gaps == []


async def test_the_history_outlives_every_replica(deploy):
    site = deploy(2)
    client = await site.join(site.replicas[0])
    await site.emit(1, 2, 3)
    client.leave()
    for replica in list(site.replicas):
        await site.stop(replica)
    site.api.note_ids(4)
    fresh = site.start()
    again = await site.join(fresh, "1")
    assert numbers(again) == [2, 3, 4]
    assert again.reader.gaps == []
    assert site.api.cursors[-1] == "2", "it proves itself to upstream by what it found"


async def test_a_client_without_an_event_resumes_elsewhere(deploy):
    site = deploy(2)
    here, there = site.replicas
    await site.join(there)
    quiet = await site.join(here)
    draining = asyncio.ensure_future(here.hub.drain(0.0))
    await site.passes(1.0)
    await draining
    place = quiet.last_id
    assert place is not None, "a goodbye carries a position"
    await site.emit(1, 2)
    again = await site.join(there, place)
    assert numbers(again) == [1, 2]
    assert again.reader.gaps == []


async def test_a_follower_that_missed_every_word_reads_the_log(deploy):
    site = deploy(2)
    here, there = site.replicas
    await site.join(here)
    client = await site.join(there)
    there.seat.deaf = True
    await site.emit(1, 2, 3)
    assert numbers(client) == []
    there.seat.deaf = False
    await site.passes(LEASE_S)
    assert numbers(client) == [1, 2, 3]


async def test_a_hole_that_the_log_has_let_go_is_filled_from_upstream(deploy, small):
    site = deploy(2, limits=small)
    here, there = site.replicas
    await site.join(here)
    client = await site.join(there)
    await site.emit(1, 2)
    there.seat.deaf = True
    for one in range(3, 13):
        await site.emit(one)
    there.seat.deaf = False
    await site.passes(LEASE_S)
    assert numbers(client) == list(range(1, 13))
    assert client.reader.gaps == []


async def test_a_followers_client_with_an_older_cursor_catches_up(deploy):
    site = deploy(2)
    here, there = site.replicas
    site.api.note_ids(1, 2, 3, 4)
    first = await site.join(here, "3")
    late = await site.join(there, "1")
    await site.passes(3.0)
    assert numbers(first) == [4]
    assert numbers(late) == [2, 3, 4]
    assert late.reader.gaps == []
    assert site.upstreams == 1


async def test_a_cursor_that_comes_to_a_follower_of_an_empty_log_is_asked_of_upstream(deploy):
    site = deploy(2)
    here, there = site.replicas
    site.api.note_ids(1, 2, 3)
    await site.join(here)  # without a cursor: what it opened starts from now
    late = await site.join(there, "1")
    await site.passes(3.0)
    await site.emit(4)
    await site.passes(3.0)
    assert late.told == ["2", "3", "relay.gap", "4"], "nothing proves that this was all"
    assert site.upstreams == 1


async def test_a_cursor_that_is_on_its_way_to_the_log_is_no_gap(deploy):
    """Upstream answers both the feed's own question and the cursor's before the log has taken
    what the first one brought.
    """
    site = deploy(2)
    here, there = site.replicas
    client = await site.join(here)
    await site.emit(1, 2, 3)
    client.leave()
    for replica in (here, there):
        await site.stop(replica)
    site.api.note_ids(4, 5, 6, 7, 8)
    back = site.start()
    joining = [back.joining(), back.joining("6")]
    await site.passes()
    fresh, again = [await one for one in joining]
    assert numbers(fresh) == [4, 5, 6, 7, 8]
    assert numbers(again) == [7, 8]
    assert again.reader.gaps == []


async def test_what_follows_a_cursor_that_is_on_its_way_to_the_log_is_not_sent_before(
    deploy, small
):
    """A full ring takes the rest only when readers have had the first part; what it lacks then
    is no news of the catch-up's.
    """
    site = deploy(1, limits=small)
    count = small.max_events
    client = await site.join(site.replicas[0])
    await site.emit(*range(1, count))
    client.leave()
    await site.stop(site.replicas[0])
    site.api.note_ids(*range(count, 2 * count + 1))
    back = site.start()
    cursor = count + 1
    joining = [back.joining(), back.joining(str(cursor))]
    await site.passes()
    for one in joining:
        client = await one
        assert numbers(client) == list(range(numbers(client)[0], 2 * count + 1))
    assert numbers(client)[0] == cursor + 1
    assert client.reader.gaps == []


@pytest.mark.parametrize("turns", range(4))
async def test_what_comes_while_a_feed_is_closed_is_not_counted_for_ever(deploy, turns):
    site = deploy(1)
    (here,) = site.replicas
    client = await site.join(here)
    await site.emit(1)
    feed = here.feed
    site.api.emit_ids(2)
    for _ in range(turns):
        await asyncio.sleep(0)
    here.hub._close_feed(feed)
    await site.passes(1.0)
    assert client.told == ["1", "relay.closing"]
    assert (here.hub.history_bytes, len(feed.history)) == (0, 0)


async def test_what_upstream_brings_before_the_log_has_even_the_cursor_is_no_gap(deploy):
    site = deploy(2)
    here, behind = site.replicas
    ahead = await site.join(here)
    stays = await site.join(behind)
    await site.emit(1, 2, 3)
    behind.seat.deaf = True  # its next look at the log is due with a tick
    await site.emit(4, 5, seconds=0.01)
    assert numbers(stays) == [1, 2, 3]
    comes = await site.join(behind, "4")
    await site.emit(6, 7, seconds=0.01)
    assert numbers(comes) == [5, 6, 7], "upstream brings them while the ring ends at 3"
    await site.passes(LEASE_S)
    await site.emit(8)
    await site.passes(LEASE_S)
    assert comes.reader.gaps == []
    assert numbers(comes) == [5, 6, 7, 8]
    assert numbers(stays) == numbers(ahead) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_an_upstream_that_ignores_a_cursor_which_the_log_lacks_is_found_out(deploy):
    site = deploy(2)
    here, behind = site.replicas
    await site.join(here)
    await site.join(behind)
    await site.emit(1, 2, 3)
    behind.seat.deaf = True
    await site.emit(4, 5, seconds=0.01)
    site.api.known = "live"
    comes = await site.join(behind, "4")
    await site.emit(6, seconds=0.01)
    assert numbers(comes) == [6], "5 is missing"
    await site.passes(LEASE_S)
    assert [block.payload["cause"] for block in comes.reader.gaps] == ["unknown_id"]


async def test_what_was_brought_after_an_ignored_cursor_is_not_believed_in_a_new_history(deploy):
    site = deploy(2)
    here, behind = site.replicas
    await site.join(here)
    await site.join(behind)
    await site.emit(1, 2, 3)
    site.api.known = "live"
    behind.seat.deaf = True
    await site.emit(4, 5, 6, 7, 8, seconds=0.01)
    comes = await site.join(behind, "7")
    await site.emit(9, seconds=0.01)
    assert numbers(comes) == [9], "upstream ignores the cursor, which nobody can know yet"
    held = here.feed.history
    other = History(HistoryLimits(), "another")
    other.load(0, b"", held.top, held.since(0))
    behind.feed.share._ledger._rebase(other)
    await site.passes(LEASE_S)
    assert comes.told[:2] == ["9", "relay.gap"], "8 is missing, and that is told"
