"""Clients of a deployment of yours, their roads and the witnesses, and nothing else.

What upstream says nobody tells the kit, so two clients on a road that nothing touches are the
witnesses (`witness`); the crowd and the real libraries go by roads that break, and are held against
them.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from bench.chaos.crowd import Tab
from bench.chaos.foreign import SIZE, Deployment, ForeignStage
from bench.chaos.judge import Diary, Judgement, judge
from bench.chaos.library import LIBRARIES, Library, Reader, Target
from bench.chaos.look import look
from bench.chaos.road import Road
from bench.chaos.stage import Size
from bench.chaos.witness import ALL, BY_NAME, Chronicle, Sightings
from bench.machine import BenchError

PATIENCE_S = 60.0
_INTERRUPTED_S = 5.0
# Who has the newest event may still be sent an older one, by a relay that mixes them up.
_SETTLE_S = 0.5
_WITNESSES = 2
_RECENT = 50


class ObservedStage(ForeignStage):
    """Clients, roads, and nothing that is ours beyond them."""

    def __init__(
        self,
        deployment: Deployment,
        seed: int,
        *,
        size: Size = SIZE,
        libraries: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(deployment, seed, size=size, libraries=libraries)
        self.patience_s = patience_s
        self.sightings = Sightings()
        self.chronicle = Chronicle(self.sightings)
        self.witnesses: list[Tab] = []
        self.kinds: set[str] = {"message"}
        self.left_out: list[str] = []
        self.deaf: set[str] = set()  # libraries that have got no event yet

    async def _set_up(self) -> None:
        life = self._life
        self.folder = Path(life.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        self.session = await life.enter_async_context(aiohttp.ClientSession())
        await look(self.session, self._target(ALL), self._deployment.url)
        await self._set_up_relays()
        untouched = await self._new_front()
        self._life.push_async_callback(self._close_witnesses)
        for _ in range(_WITNESSES):
            self.witnesses.append(Tab(self._errand(ALL), [untouched.port], 0))
            self.witnesses[-1].diary.name = "witness"
        await self._open_tabs()

    async def _close_witnesses(self) -> None:
        await asyncio.gather(*(one.close() for one in self.witnesses))

    def _target(self, feed: int) -> Target:
        return replace(
            super()._target(feed),
            kinds=tuple(self.kinds),
            silence_s=self.size.silence_s,
            number=self.sightings.number,
        )

    async def _open_reader(self, library: Library, target: Target) -> None:
        await super()._open_reader(library, target)
        self.deaf.add(library.name)

    async def _open_readers(self) -> None:
        for library in LIBRARIES if self.setting.libraries else ():
            target = self._target(BY_NAME if library.by_name else ALL)
            if why := library.missing():
                self.left_out.append(f"{library.name}: {why}")
            elif library.by_query and target.headers and not target.query:
                self.left_out.append(f"{library.name}: can't send headers, and there is no --query")
            else:
                await self._open_reader(library, target)

    async def opened(self) -> bool:
        """Every client streams; whether anything was said. Raises BenchError if some can't."""
        crowd = (*self.witnesses, *self.tabs)
        try:
            await self.wait_for(lambda: all(one.open for one in crowd), "", self.patience_s)
        except TimeoutError:
            there = sum(one.open for one in crowd)
            raise BenchError(
                f"only {there} of {len(crowd)} clients could open the stream{self.refused()}"
            ) from None
        with suppress(TimeoutError):
            await self.wait_for(lambda: self.heard, "", self.patience_s)
            await self._one_story()
            self.kinds |= {self.sightings.kinds[seen] for seen in self.heard}
            await _to_its_end(self._open_readers())
            await self.wait_for(self._all_in, "", self.patience_s)
        return bool(self.heard)

    async def _one_story(self) -> None:
        """Raises BenchError where each connection is told something of its own."""
        first, *others = (one.diary for one in (*self.witnesses, *self.tabs))
        share = self.sightings.share
        try:
            await self.wait_for(
                lambda: any(share(_recent(first), _recent(one)) for one in others),
                "",
                self.patience_s,
            )
        except TimeoutError:
            raise BenchError(
                "no two clients got the same event (id and data): each connection is told "
                "something of its own, so nobody can be held against another"
            ) from None

    @property
    def there(self) -> int:
        """How many of the kit's own clients stream."""
        return sum(tab.open for tab in self.tabs)

    async def wait_for(self, true: Any, said: str, timeout_s: float = 0.0) -> None:
        """As any stage does; a client that sits on a dead connection finds it out by silence."""
        await super().wait_for(true, said, timeout_s or self.patience_s + self.size.silence_s)

    @property
    def _clients(self) -> "list[Tab | Reader]":
        return [*self.witnesses, *self.tabs, *self.readers]

    @property
    def diaries(self) -> list[Diary]:
        return [client.diary for client in self._clients]

    @property
    def heard(self) -> "Sequence[int]":
        """By the first witness, since the last page."""
        return self.witnesses[0].diary.numbers

    def _all_in(self) -> bool:
        return all(one.diary.numbers or one.given_up for one in self._clients)

    def refused(self) -> str:
        """How often clients got another status than 200 since the last page, as a clause."""
        statuses = Counter(status for tab in self.tabs for status in tab.diary.refusals)
        said = ", ".join(f"{status} {times} times" for status, times in sorted(statuses.items()))
        return f"; refused with {said}" if said else ""

    async def turn_page(self, *, interrupted: bool = False) -> Judgement | None:
        """Wait until something is said and everybody has it, and judge all since the last time;
        None if that is nothing. Who has not got it after long has lost it, unless it was
        interrupted.
        """
        heard = len(self.heard)
        if not interrupted:
            with suppress(TimeoutError):
                await self.wait_for(lambda: len(self.heard) > heard, "", self.patience_s)
        # Who sits on a dead connection finds it out by its silence, and then lacks what was said
        # in the meantime: that belongs to this page, too.
        patience_s = _INTERRUPTED_S if interrupted else self.patience_s + self.size.silence_s
        for _ in range(2):
            mark = self._mark()
            with suppress(TimeoutError):
                await self.wait_for(lambda at=mark: all(self._up_to_date(at)), "", patience_s)
        await asyncio.sleep(_SETTLE_S)
        if interrupted:
            for client, has_all in zip(self._clients, self._up_to_date(mark), strict=True):
                client.diary.gone |= not has_all
        self.deaf -= {one.diary.name for one in self.readers if one.diary.numbers}
        said = self.chronicle.write(self.diaries, mark, self.kinds)
        pages = [self.chronicle.page(tab.diary) for tab in (*self.witnesses, *self.tabs)]
        for reader, road in zip(self.readers, self.reader_roads, strict=True):
            pages.append(self._reader_page(reader, road))
        return judge(pages, self.chronicle.said, self.chronicle.name_of) if said else None

    async def begin_again(self) -> None:
        """Run those anew that have given up."""
        for reader in self.readers:
            if reader.diary.gone:
                await _to_its_end(reader.begin_again())

    def _reader_page(self, reader: Reader, road: Road) -> Diary:
        """Its road has seen with which cursors it came back."""
        diary = reader.diary
        diary.gone |= reader.given_up
        diary.connections = len(road.arrivals)
        diary.claims = [
            (at_s, self.chronicle.number(diary.feed, cursor)) for at_s, cursor in road.arrivals
        ]
        page = self.chronicle.page(diary)
        # Those that came after the page's end belong to the next.
        road.arrivals = road.arrivals[len(road.arrivals) - len(diary.claims) :]
        return page

    def _mark(self) -> int:
        """Up to where the witness's diary is judged: an event that can't be taken for another."""
        often = Counter(self.heard)
        for at in range(len(self.heard), 0, -1):
            seen = self.heard[at - 1]
            if often[seen] == 1 or self.sightings.events[seen][0]:
                return at
        return len(self.heard)

    def _up_to_date(self, mark: int) -> list[bool]:
        """Which clients have the last event before a mark, of the types that they hear, or any
        after it; who has given up has all that it will have.
        """
        late = [self._late(mark, set(self.sightings.kinds)), self._late(mark, self.kinds)]
        return [
            client.given_up
            or not late[client.diary.feed]
            or self.sightings.share(_recent(client.diary), late[client.diary.feed])
            for client in self._clients
        ]

    def _late(self, mark: int, kinds: set[str]) -> list[int]:
        all_kinds = self.sightings.kinds
        last = next((seen for seen in self.heard[:mark][::-1] if all_kinds[seen] in kinds), None)
        return [] if last is None else [last, *self.heard[mark:]]


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Half a browser can't be ended in good order: whoever cancels this waits for it. Ctrl-C may
    have reached its driver, too, which then fails.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        with suppress(Exception):
            task.result()
        raise


def _recent(diary: Diary) -> Sequence[int]:
    return diary.numbers[-_RECENT:]
