"""A timer wheel: many coarse deadlines for the price of one clock tick.

An event loop timer costs some 600 bytes each; a feed and a slow subscriber need only "in about a
second".
"""

from typing import Generic, TypeVar

Item = TypeVar("Item")


class Wheel(Generic[Item]):
    """Items in slots of `slot_s` seconds. An item may stand in several slots; nothing is ever taken
    out early.
    """

    def __init__(self, slot_s: float) -> None:
        self.slot_s = slot_s
        self._slots: dict[int, list[Item]] = {}
        self._next: int | None = None  # the oldest slot not yet handed out

    def add(self, due_s: float, item: Item) -> None:
        """Hand out `item` at the first tick after `due_s`."""
        slot = int(due_s / self.slot_s) + 1
        if self._next is not None and slot < self._next:
            slot = self._next
        self._slots.setdefault(slot, []).append(item)

    def due(self, now_s: float) -> list[Item]:
        """Take out everything that is due, oldest first."""
        now = int(now_s / self.slot_s)
        first = self._next if self._next is not None else min(self._slots, default=now)
        self._next = now + 1
        # a long pause: look at what there is, not at every moment that passed
        if now - first > len(self._slots):
            slots = sorted(slot for slot in self._slots if slot <= now)
        else:
            slots = [slot for slot in range(first, now + 1) if slot in self._slots]
        return [item for slot in slots for item in self._slots.pop(slot)]
