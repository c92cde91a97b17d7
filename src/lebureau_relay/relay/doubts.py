"""What an owner asks upstream once more, because it doubts an answer: whether it knows the one id
that is left (decision 0010), and whether it takes the cursor after all.

Short requests, which take their turn with the feed's catch-up.
"""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lebureau_relay.core.credential import Credential
from lebureau_relay.core.event import Event, split_derived, trim
from lebureau_relay.errors import SourceFailure, SourceProblem
from lebureau_relay.relay.group import Outcome
from lebureau_relay.relay.ports import Subscription
from lebureau_relay.relay.words import words_of

if TYPE_CHECKING:
    from lebureau_relay.relay.feed import Feed
    from lebureau_relay.relay.owner import Outside, Owner

# What may be over in a moment, while whoever is told a gap has lost what upstream still has.
PASSING = (
    SourceProblem.UNAVAILABLE,
    SourceProblem.THROTTLED,
    SourceProblem.CUT,
    SourceProblem.IDLE,
)


@dataclass(frozen=True, slots=True)
class Doubt:
    """One question: what follows `cursor`, on behalf of `credential`?"""

    feed: "Feed"
    outside: "Outside"
    credential: Credential
    cursor: bytes

    async def proves(self, event: Event) -> bool:
        """Whether upstream says `event` first, and not the cursor's own: mostly one that knows the
        cursor. Without an id of its own one greeting is like another, so that is not asked about.
        """
        if not event.id or split_derived(event.id)[1]:
            return False
        outcome = await self.feed.catchup.in_turn(partial(self._says_first, event))
        return outcome is Outcome.FILLED

    async def opens(self) -> Subscription | None:
        """What follows, for the owner to go on with; None if upstream will not. Waits for its turn,
        since without it there is a gap.
        """
        await self.feed.catchup.at_rest()
        opened: list[Subscription] = []
        try:
            outcome = await self.feed.catchup.in_turn(partial(self._open, opened))
        except asyncio.CancelledError:
            for subscription in opened:
                subscription.close()
            raise
        return opened[0] if outcome is Outcome.FILLED else None

    async def _open(self, opened: list[Subscription]) -> Outcome:
        try:
            async with asyncio.timeout(self.feed.host.timings.catchup_timeout_s):
                opened.append(await self._ask())
        except TimeoutError:
            return Outcome.TIMEOUT
        except SourceFailure as failure:
            withdraw(self.feed.owner, failure, self.credential)
            return Outcome.FAILED
        return Outcome.FILLED

    async def _ask(self) -> Subscription:
        return await self.outside.source.open(self.feed.key, self.credential, self.cursor)

    async def _says_first(self, event: Event) -> Outcome:
        try:
            async with asyncio.timeout(self.feed.host.timings.catchup_timeout_s):
                said = await self._first_words()
        except TimeoutError:
            return Outcome.TIMEOUT
        except SourceFailure as failure:
            withdraw(self.feed.owner, failure, self.credential)
            return Outcome.FAILED
        # Who answers any cursor with all that there is says the same first, and in it the cursor's
        # event.
        ignored = any(trim(one.id) == trim(self.cursor) for one in said)
        return Outcome.FILLED if said[0] == event and not ignored else Outcome.IGNORED

    async def _first_words(self) -> Sequence[Event]:
        """What upstream says first, asked again where it fails for a moment: not by a credential
        that has lost its right meanwhile.
        """
        attempt = 0
        while self.feed.owner.accepted == self.credential:
            try:
                request = await self._ask()
                try:
                    with closing(words_of(request, self.feed.host.timings)) as words:
                        return await words.come()
                finally:
                    request.close()
            except SourceFailure as failure:
                if failure.problem not in PASSING:
                    raise
                hint_s = failure.retry_after_s
            backoff = self.outside.backoff
            await asyncio.sleep(backoff.delay_s(attempt, hint_s, self.outside.uniform))
            attempt += 1
        raise SourceFailure(SourceProblem.REPLACED, "its credential was withdrawn")


def withdraw(owner: "Owner", failure: SourceFailure, credential: Credential) -> bool:
    """Upstream's no to a credential is final, whatever was asked. Whether it was that."""
    if failure.problem is SourceProblem.UNAUTHORIZED:
        owner.reject(credential)
    elif failure.problem is SourceProblem.FORBIDDEN:
        owner.forbid(credential)
    else:
        return False
    return True
