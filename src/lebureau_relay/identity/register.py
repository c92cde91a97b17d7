"""The register of credentials: what upstream said of each, when, and which live streams use.

Every verdict arrives through `_settle`, whoever asked. State changes between awaits only. Questions
about one credential are shared, and no waiter's end disturbs another's.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush
from math import inf
from typing import Final

from aiohttp import ClientSession

from lebureau_relay.core.credential import Credential
from lebureau_relay.errors import Refusal
from lebureau_relay.identity.asking import Answer, Asker, Outcome, refusal
from lebureau_relay.identity.gate import Gate
from lebureau_relay.identity.rules import AuthRules
from lebureau_relay.identity.table import Record, Table
from lebureau_relay.relay.budgets import LocalPlaces
from lebureau_relay.relay.observer import Observer
from lebureau_relay.relay.ports import Clock, Identity, Places

# How long a refusal answers for upstream: the contract, section 5.
REFUSAL_HOLDS_S: Final = 60.0
# Rechecks on their way at once: at 50 ms a question some 14 000 credentials within the default
# interval. They share the asker's bound with joiners, who must not wait behind them.
MAX_RECHECKING: Final = 16
# A recheck is due after this share of the interval: spread by a fifth to both sides, and early
# enough that one that was revoked is found out within the whole of it.
_DUE_FROM, _DUE_TO = 0.6, 0.9
# One outage is one line in the log a minute, not one per credential.
_NOTE_EVERY_S: Final = 60.0


class Register:
    """`relay.ports.Identities` by asking upstream.

    The caller owes a session whose cookie jar keeps nothing, a `hash_key` of 1 to 64 bytes that all
    replicas share, and a task for `run`. Both callbacks come from the loop, never from within a
    call to the register: `on_revoked` when upstream refused a held credential or gave no verdict
    for `max_stale_s`, `on_changed` when it now says that a held credential is somebody else. The
    caller ends the streams that hold it, and releases it for each. `places` is the deployment's
    budget of 401s; without it this process has one of its own.
    """

    def __init__(
        self,
        rules: AuthRules,
        hash_key: bytes,
        session: ClientSession,
        observer: Observer,
        *,
        on_revoked: Callable[[Credential], None],
        on_changed: Callable[[Credential], None],
        clock: Clock = time.monotonic,
        places: Places | None = None,
    ) -> None:
        self._rules = rules
        self._hash_key = hash_key
        self._observer = observer
        self._on_revoked = on_revoked
        self._on_changed = on_changed
        self._clock = clock
        self._asker = Asker(rules, hash_key, session)
        limit = rules.upstream_auth_failures_per_minute
        self._gate = Gate(places or LocalPlaces(limit, clock), limit, clock)
        self._table = Table()
        self._questions: dict[bytes, asyncio.Task[Answer]] = {}
        self._due: list[tuple[float, bytes]] = []  # a heap: when to look at what is held
        self._rechecking: set[asyncio.Task[Answer]] = set()
        self._noted: dict[str, float] = {}

    async def identify(self, credential: Credential) -> Identity:
        """Who this is. Raises Refusal.

        Without an identity path that asks nobody: the credential is the identity, and the stream it
        opens will tell whether it is good. An unknown one then takes a place at the gate, which
        `accepted`, `rejected` or `undecided` give back.
        """
        record = self._table.find(credential.digest)
        self._check_refused(record)
        if not self._rules.identity_path:
            if not (record and record.vouched):
                await self._pass_gate(credential)
            return Identity(credential.keyed(self._hash_key))
        if record and record.identity and (record.probing_ended or self._fresh(record)):
            return record.identity
        answer = await self._ask(credential)
        if answer.identity is None:
            raise self._refusal(answer)
        return answer.identity

    async def ensure_fresh(self, credential: Credential) -> None:
        """Return once upstream has accepted the credential within the recheck interval. Raises
        Refusal.

        A cookie whose probing has ended passes while a live stream holds it: that one goes on
        unchecked, and whoever brings the same cookie reads no more than it does.
        """
        record = self._table.find(credential.digest)
        self._check_refused(record)
        if record and (self._fresh(record) or (record.probing_ended and record.holders)):
            return
        if record and record.probing_ended:
            raise refusal(Answer(Outcome.UNDECIDED))
        answer = await self._ask(credential)
        if answer.outcome is not Outcome.ACCEPTED:
            raise self._refusal(answer)

    def known_good(self, credential: Credential) -> bool:
        """Whether upstream's last word on it was good, however long ago; asks nobody.

        It frees from the budgets for guesses, not from being checked.
        """
        record = self._table.find(credential.digest)
        return record is not None and record.vouched

    def accepted(self, credential: Credential, took_s: float = 0.0) -> None:
        """Upstream has just accepted it on a stream, `took_s` after it was asked.

        With an identity path that is no verdict: it doesn't say whose the credential is.
        """
        if not self._rules.identity_path:
            self._settle(credential, Answer(Outcome.ACCEPTED), self._clock() - took_s)
        self._gate.leave(credential.digest)

    def rejected(self, credential: Credential) -> None:
        """Upstream has just answered 401 for it on a stream: all that hold it are to end."""
        self._settle(credential, Answer(Outcome.UNAUTHORIZED), self._clock())
        self._gate.leave(credential.digest)

    def undecided(self, credential: Credential) -> None:
        """The stream that was to tell about it came to nothing: the next newcomer may try."""
        self._gate.leave(credential.digest)

    def hold(self, credential: Credential, identity: Identity | None = None) -> bool:
        """A stream depends on this credential from now on: recheck it. `identity` is whom it was
        opened for.

        False if upstream has said otherwise between `identify` and now. That can't wait for a
        callback: what the stream has missed would be on its way by then.
        """
        now = self._clock()
        record = self._table.enter(credential.digest)
        if not record.holders:
            record.credential, record.held_since = credential, now
        record.holders += 1
        if not record.queued:
            # From the verdict that let it in, which may be almost as old as one may be.
            after = max(record.accepted_at, now - self._rules.recheck_interval_s)
            self._queue(credential.digest, record, after)
        record.identity = record.identity or identity
        return not self._refused(record) and identity in (None, record.identity)

    def release(self, credential: Credential) -> None:
        """One stream fewer depends on it."""
        record = self._table.find(credential.digest)
        if record and record.holders:
            record.holders -= 1
            if not record.holders:
                record.credential = None

    async def run(self) -> None:
        """Recheck what is held, until cancelled; then no question is left on its way."""
        # Rechecks are spread over more than a tick anyway, and so `hold` needs to wake nobody.
        tick_s = min(1.0, self._rules.recheck_interval_s / 20)
        try:
            while True:
                await asyncio.sleep(tick_s)
                self._look_around(tick_s)
        finally:
            questions = tuple(self._questions.values())
            for task in questions:
                task.cancel()
            await asyncio.gather(*questions, return_exceptions=True)

    async def _pass_gate(self, credential: Credential) -> None:
        """Return with a place, or with none once another request has shown that it is good."""
        digest = credential.digest
        held_back = await self._gate.enter(digest, lambda: self._is_settled(digest))
        if held_back is not None:
            raise self._refusal(held_back)
        if self._is_settled(digest):  # found out while it waited
            self._gate.leave(digest)
            self._check_refused(self._table.find(digest))

    def _is_settled(self, digest: bytes) -> bool:
        record = self._table.find(digest)
        return record is not None and (record.vouched or self._refused(record))

    def _refusal(self, answer: Answer) -> Refusal:
        if answer.outcome is Outcome.HELD_BACK:
            self._note_seldom("identity.failures_spent", why="unknown credentials have to wait")
        return refusal(answer)

    async def _ask(self, credential: Credential) -> Answer:
        """The answer to a question that is shared by all who want it now."""
        return await asyncio.shield(self._question(credential))

    def _question(self, credential: Credential) -> asyncio.Task[Answer]:
        task = self._questions.get(credential.digest)
        if task is None:
            # A context of its own: the question is nobody's request, and its log lines are not
            # either.
            task = asyncio.create_task(self._inquire(credential), context=Context())
            self._questions[credential.digest] = task
        return task

    async def _inquire(self, credential: Credential) -> Answer:
        record = self._table.find(credential.digest)
        try:
            if not (record and record.vouched):
                held_back = await self._gate.enter(credential.digest)
                if held_back is not None:
                    return held_back
                record = self._table.find(credential.digest)
                if record and self._refused(record):  # found out while it waited
                    return Answer(record.refused_with)
            asked_at = self._clock()
            answer = await self._asker.ask(credential)
            self._settle(credential, answer, asked_at)
            return answer
        finally:
            self._gate.leave(credential.digest)
            del self._questions[credential.digest]

    def _settle(self, credential: Credential, answer: Answer, asked_at: float) -> None:
        """Write a verdict down and tell whom it concerns: the one way in for all of them."""
        match answer.outcome:
            case Outcome.ACCEPTED:
                self._accept(credential, answer, asked_at)
            case Outcome.UNAUTHORIZED | Outcome.FORBIDDEN:
                self._refuse(credential, answer.outcome)
            case _ if answer.missing:
                self._note_seldom("identity.field_missing", field=answer.missing)
            case _:
                self._note_seldom("identity.unavailable", why=answer.why)

    def _accept(self, credential: Credential, answer: Answer, asked_at: float) -> None:
        """It was good when upstream was asked: an answer may be slow, and a refusal overtake it."""
        record = self._table.enter(credential.digest)
        if asked_at < record.refused_at:
            return
        before, record.identity = record.identity, answer.identity or record.identity
        record.accepted_at, record.refused_at = max(record.accepted_at, asked_at), -inf
        if before not in (None, record.identity) and record.holders:
            self._note("warning", "identity.changed", credential)
            _soon(self._on_changed, credential)
        if answer.sets_cookie and not record.probing_ended:
            record.probing_ended = True
            why = (
                "the answer sets a cookie, which would rotate the session unseen by its browser; "
                "name a path that sets none in auth.probe_path or auth.identity_path"
            )
            path = self._rules.asked_path
            self._note("warning", "identity.probing_ended", credential, path=path, why=why)

    def _refuse(self, credential: Credential, outcome: Outcome) -> None:
        record = self._table.enter(credential.digest)
        record.accepted_at, record.identity = -inf, None
        record.refused_at, record.refused_with = self._clock(), outcome
        if outcome is Outcome.UNAUTHORIZED:
            self._gate.failed(credential.digest)
        if record.holders:
            self._note("info", "identity.revoked", credential, why=outcome.value)
            _soon(self._on_revoked, credential)

    def _fresh(self, record: Record) -> bool:
        return self._clock() - record.accepted_at < self._rules.recheck_interval_s

    def _refused(self, record: Record) -> bool:
        return self._clock() - record.refused_at < REFUSAL_HOLDS_S

    def _check_refused(self, record: Record | None) -> None:
        if record and self._refused(record):
            raise refusal(Answer(record.refused_with))

    def _queue(self, digest: bytes, record: Record, after: float) -> None:
        """Look at it when its recheck is due after `after`, or when it goes stale."""
        share = random.uniform(_DUE_FROM, _DUE_TO)  # noqa: S311 - spreads load, guards nothing
        due_at = after + share * self._rules.recheck_interval_s
        stale_at = record.vouched_at + self._rules.max_stale_s
        if self._rules.max_stale_s and after < stale_at < due_at:
            due_at = stale_at
        record.queued = True
        heappush(self._due, (due_at, digest))

    def _look_around(self, tick_s: float) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            digest = heappop(self._due)[1]
            record = self._table.find(digest)
            if record is None:
                continue
            record.queued = False
            if record.credential is not None:
                after = self._look_at(record.credential, record, now, tick_s)
                self._queue(digest, record, after)

    def _look_at(self, credential: Credential, record: Record, now: float, tick_s: float) -> float:
        """Do what one held credential needs; from when its next recheck counts."""
        rules = self._rules
        if rules.max_stale_s and now - record.vouched_at >= rules.max_stale_s:
            self._note("warning", "identity.stale", credential)
            _soon(self._on_revoked, credential)
            return now
        if now - record.accepted_at < _DUE_FROM * rules.recheck_interval_s:
            return record.accepted_at  # accepted meanwhile, by a joiner's question or on a stream
        if record.probing_ended or self._refused(record):
            return now
        if len(self._rechecking) >= MAX_RECHECKING:
            return now + tick_s - _DUE_FROM * rules.recheck_interval_s  # as soon as there is room
        task = self._question(credential)
        self._rechecking.add(task)
        task.add_done_callback(self._rechecking.discard)
        return now

    def _note(self, level: str, event: str, credential: Credential, **facts: object) -> None:
        # Called `hash`: the log would mask whatever is called by a word like credential.
        name = credential.keyed(self._hash_key)
        self._observer.note(level, event, hash=name, kind=credential.kind.value, **facts)

    def _note_seldom(self, event: str, **facts: object) -> None:
        now = self._clock()
        if now - self._noted.get(event, -inf) >= _NOTE_EVERY_S:
            self._noted[event] = now
            self._observer.note("warning", event, path=self._rules.asked_path, **facts)


def _soon(callback: Callable[[Credential], None], credential: Credential) -> None:
    asyncio.get_running_loop().call_soon(callback, credential)
