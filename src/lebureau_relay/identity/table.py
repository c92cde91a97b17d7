"""The records of the register: one per credential, found by its digest, bounded.

It stands apart so that the bound has one keeper. A secret itself is in here only while a live
stream holds it.
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import Final

from lebureau_relay.core.credential import Credential
from lebureau_relay.identity.asking import Outcome
from lebureau_relay.relay.ports import Identity

# At some 400 bytes each: 20 MB. Held ones come on top, bounded by `limits.streams_total`.
MAX_RECORDS: Final = 50_000
# How many held records eviction may meet before it gives up: it must not walk the table for every
# newcomer.
_EVICTION_LOOKS: Final = 8


@dataclass(slots=True)
class Record:
    """What is known of one credential. Times are on the register's clock, -inf for never.

    `credential` is set while streams hold it, to ask again. `queued` says that its recheck stands
    in the heap, once.
    """

    accepted_at: float = -inf
    refused_at: float = -inf
    refused_with: Outcome = Outcome.UNAUTHORIZED
    identity: Identity | None = None
    probing_ended: bool = False
    holders: int = 0
    held_since: float = -inf
    credential: Credential | None = None
    queued: bool = False

    @property
    def vouched(self) -> bool:
        """Whether upstream's last word on it was good, however long ago."""
        return self.accepted_at > -inf

    @property
    def vouched_at(self) -> float:
        """Since when a live stream has gone without a verdict."""
        return max(self.accepted_at, self.held_since)


class Table:
    """Records by credential, the least recently used forgotten first, held ones never."""

    __slots__ = ("_records",)

    def __init__(self) -> None:
        self._records: OrderedDict[bytes, Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def find(self, digest: bytes) -> Record | None:
        """The record, if there is one."""
        record = self._records.get(digest)
        if record is not None:
            self._records.move_to_end(digest)
        return record

    def enter(self, digest: bytes) -> Record:
        """The record, a blank one if there was none."""
        record = self.find(digest)
        if record is None:
            record = self._records[digest] = Record()
            if len(self._records) > MAX_RECORDS:
                self._forget_one()
        return record

    def _forget_one(self) -> None:
        for _ in range(_EVICTION_LOOKS):
            digest = next(iter(self._records))
            if not self._records[digest].holders:
                del self._records[digest]
                return
            self._records.move_to_end(digest)
