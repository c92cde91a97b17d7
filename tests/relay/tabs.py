"""A browser tab over all its connections, and what it may believe: that no event is lost, repeated
or reordered unless a relay.gap was told before (contract, section 8).
"""

import asyncio

from tests.relay.api import Api
from tests.relay.house import ALICE, Client, House, credential
from tests.relay.reader import Block

from lebureau_relay.errors import Refusal


def serial_of(data: str) -> int:
    """Events are counted in the order in which upstream says them, whatever ids they get."""
    return int(data.split(" ", 1)[0])


def canonical(api: Api) -> dict[str, int]:
    """The serial of every event of the log by the name that a relay which saw all would give it."""
    names: dict[str, int] = {}
    base, since = "", 0
    for one in api.log:
        base, since = (base, since + 1) if one.id is None else (one.id, 0)
        if base:
            names[f"{base}~lbr{since}" if since else base] = serial_of(one.data)
    return names


class Tab:
    """One reader. `serial` is the newest event that it has; None where nothing can be compared."""

    def __init__(self, cursor: str | None, serial: int | None, *, chunked: bool) -> None:
        self.cursor = cursor
        self.serial = serial
        self.loose = False  # a gap was told: the next event need not follow on `serial`
        self.believes = False  # a stream was opened for it that nothing proves
        self.chunked = chunked
        self.who = ALICE
        self.client: Client | None = None
        self.gaps = 0  # told on this connection
        self.cursor_sent = cursor
        self._joining: asyncio.Task[Client] | None = None
        self._checked = 0

    @property
    def connected(self) -> bool:
        return self.client is not None and not self.client.wire.lost

    @property
    def idle(self) -> bool:
        """Whether it may connect."""
        return self._joining is None and not self.connected

    def connect(self, house: House, **facts: object) -> None:
        if self.who in house.api.refused:
            self.change_key(house.api)
        self.client = None
        self.gaps = 0
        self.cursor_sent = self.cursor
        self.believes = False
        self._checked = 0
        self._joining = house.joining(self.cursor, self.who, chunked=self.chunked, **facts)

    def change_key(self, api: Api) -> None:
        """Take the one that is good for now."""
        self.who = credential(f"key{len(api.refused)}")

    def disconnect(self) -> None:
        """Leave, or give up joining."""
        if self._joining is not None:
            self._joining.cancel()
        elif self.connected:
            self.client.leave()

    def look(self) -> list[Block]:
        """What has come since the last look."""
        if self._joining is not None and self._joining.done():
            joining, self._joining = self._joining, None
            if not joining.cancelled():
                if joining.exception() is None:
                    self.client = joining.result()
                else:
                    assert isinstance(joining.exception(), Refusal)
        if self.client is None:
            return []
        blocks = self.client.reader.blocks[self._checked :]
        self._checked += len(blocks)
        if blocks:
            self.cursor = blocks[-1].id
        return blocks
