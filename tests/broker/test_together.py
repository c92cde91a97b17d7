"""Parts of one life that end together: what is told, a failure or the end that was asked for."""

import asyncio

import pytest

from lebureau_relay.broker.redis import connect
from lebureau_relay.broker.redis.ears import Ears
from lebureau_relay.broker.redis.together import together


async def for_ever() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise OSError


async def test_who_is_cancelled_in_the_moment_in_which_a_part_fails_is_cancelled():
    async def part() -> None:
        task.cancel()
        raise OSError

    task = asyncio.ensure_future(together(part(), for_ever()))
    await asyncio.wait({task})
    assert task.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_part_that_fails_is_told_and_no_other_goes_on():
    with pytest.raises(OSError):  # noqa: PT011 - it has no words
        await together(for_ever(), fails(), for_ever())
    assert not asyncio.current_task().cancelling()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_time_limit_around_them_is_one():
    async def fails_late() -> None:
        try:
            await for_ever()
        finally:
            raise OSError

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await together(fails_late())
    assert not asyncio.current_task().cancelling()


async def test_nothing_together_is_done_at_once():
    await together()


@pytest.mark.server
async def test_ears_that_go_deaf_in_the_moment_in_which_they_are_stopped_do_stop(server):
    """As after a sleep, when all is due at once: the drain is over, and words were not heard. A
    replica whose ears went on would never end.
    """
    client, words = connect(server.url), 0

    async def speak() -> None:  # nobody hears it
        nonlocal words
        words += 1
        if words == 3:
            listening.cancel()

    ears = Ears(client, lambda: ["own"], speak, lambda *_: None, lambda _: None, 0.001)
    listening = asyncio.ensure_future(ears.run())
    done, _ = await asyncio.wait({listening}, timeout=5.0)
    listening.cancel()
    await client.close()
    assert done
    assert words == 3
