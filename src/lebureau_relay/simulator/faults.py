"""The text form that orders a fault, and the book of the orders that stand.

An order is `name[:argument][,key=value…]`, the same on the command line, in the control API and in
tests. Pure: the book says which orders apply to a request or an event; carrying them out is the
work of the rooms that answer, write and number.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from lebureau_relay.errors import ConfigError
from lebureau_relay.simulator.catalogue import Fault, FaultKind

_BY_NAME: Final = {fault.value: fault for fault in Fault}
_FORMS: Final = {
    "N": "[0-9]{1,9}",
    "ORIGIN": r"https?://\S+",
    "TYPE": r"\S+/.+",
    "STATUS": "4[0-9]{2}",
}
_STREAMS: Final = ("desktops", "activity")
_PLACES: Final = (*_STREAMS, "me", "list")


@dataclass(frozen=True, slots=True)
class FaultOrder:
    """One fault, and where it applies.

    `user` None is everybody. `place` is a stream's name, `me` or `list` (these two take ANSWER
    faults only), and empty for both streams. `times` bounds the connects or events that get the
    fault, None until cleared; `every` gives it to one in so many.
    """

    fault: Fault
    argument: str = ""
    user: str | None = None
    place: str = ""
    times: int | None = None
    every: int = 1

    def number(self, default: int) -> int:
        """The argument as a number, `default` if there is none."""
        return int(self.argument) if self.argument else default

    def concerns(self, user: str | None, place: str) -> bool:
        """Whether a request by `user` for `place`, or an event there, is meant."""
        here = self.place == place if self.place else place in _STREAMS
        return here and self.user in {None, user}


def parse_fault(
    text: str,
    *,
    user: str | None = None,
    stream: str | None = None,
    times: int | None = None,
    every: int | None = None,
) -> FaultOrder:
    """The order that `name[:argument][,times=N][,every=N][,user=ID][,stream=NAME]` spells.

    The arguments, where given, win over what the text says. Raises ConfigError.
    """
    name, *rest = re.split("[:,]", text, maxsplit=1)
    fault = _BY_NAME.get(name.strip())
    if fault is None:
        names = ", ".join(Fault)
        raise ConfigError([f"fault {text!r}: no fault is called {name!r}; choose from {names}"])
    order = FaultOrder(fault)
    for part in filter(None, "".join(rest).split(",")):
        order = _with(order, part.strip(), text)
    order = replace(
        order,
        user=order.user if user is None else user,
        place=order.place if stream is None else stream,
        times=order.times if times is None else times,
        every=order.every if every is None else every,
    )
    if fault.once and order.times is None and order.every == 1:
        order = replace(order, times=1)
    return _checked(order)


def _with(order: FaultOrder, part: str, text: str) -> FaultOrder:
    key, _, value = part.partition("=")
    match key:
        case "times" | "every":
            if not re.fullmatch("[0-9]{1,9}", value):
                raise ConfigError([f"fault {text!r}: {key} is {value!r}; give a number from 1"])
            number = int(value)
            return replace(order, times=number) if key == "times" else replace(order, every=number)
        case "user":
            return replace(order, user=value)
        case "stream":
            return replace(order, place=value)
        case _:
            return replace(order, argument=part)


def _checked(order: FaultOrder) -> FaultOrder:
    """The order itself, if it can be carried out. Raises ConfigError with every mistake."""
    fault, argument = order.fault, order.argument
    mistakes = []
    forms = [_FORMS.get(form, form) for form in fault.argument.split("|") if form]
    if argument and not any(re.fullmatch(form, argument) for form in forms):
        wanted = f"give {fault.argument}" if forms else "it takes none"
        mistakes.append(f"fault {fault}: argument {argument!r} can't be used; {wanted}")
    elif fault in {Fault.SLOW, Fault.SOME_IDS} and order.number(1) < 1:
        mistakes.append(f"fault {fault}: argument 0 can't be used; give a number from 1")
    if order.place and order.place not in _PLACES:
        choice = ", ".join(_PLACES)
        mistakes.append(f"fault {fault}: no stream is called {order.place!r}; take {choice}")
    elif order.place not in {"", *_STREAMS} and fault.kind is not FaultKind.ANSWER:
        mistakes.append(f"fault {fault}: {order.place} is no stream; take desktops or activity")
    mistakes += [
        f"fault {fault}: {name} is {value}; give a number from 1"
        for name, value in (("times", order.times), ("every", order.every))
        if value is not None and value < 1
    ]
    if mistakes:
        raise ConfigError(mistakes)
    return order


@dataclass(slots=True)
class _Standing:
    order: FaultOrder
    met: int = 0

    @property
    def spent(self) -> bool:
        times = self.order.times
        return times is not None and self.met // self.order.every >= times

    def strikes(self) -> bool:
        """Count one connect or event that the order concerns: does it get the fault?"""
        self.met += 1
        return self.met % self.order.every == 0


class FaultBook:
    """The orders that stand, oldest first."""

    __slots__ = ("_standing",)

    def __init__(self) -> None:
        self._standing: list[_Standing] = []

    def __iter__(self) -> Iterator[FaultOrder]:
        return (standing.order for standing in self._standing)

    def __bool__(self) -> bool:
        return bool(self._standing)

    def add(self, order: FaultOrder) -> None:
        """Let it stand until its `times` are spent or the book is cleared."""
        self._standing.append(_Standing(order))

    def clear(self) -> None:
        """Forget every order."""
        self._standing.clear()

    def answer(self, user: str | None, place: str, *, has_cursor: bool) -> FaultOrder | None:
        """What a request gets instead of what it asked for, if anything.

        The oldest order that concerns it; the ones behind it stay unspent, so that orders given
        one after the other are met one after the other.
        """
        for standing in self._concerned(FaultKind.ANSWER, user, place):
            if standing.order.fault is Fault.CURSOR_REJECTED and not has_cursor:
                continue
            if standing.strikes():
                self._drop_spent()
                return standing.order
        return None

    def deliveries(self, user: str, place: str) -> list[FaultOrder]:
        """How a new stream misbehaves: every order that concerns it."""
        return self._all(FaultKind.DELIVERY, user, place)

    def sources(self, user: str, place: str) -> list[FaultOrder]:
        """What happens to the next event of a user's stream: every order that concerns it."""
        return self._all(FaultKind.SOURCE, user, place)

    def _all(self, kind: FaultKind, user: str, place: str) -> list[FaultOrder]:
        found = [each.order for each in self._concerned(kind, user, place) if each.strikes()]
        self._drop_spent()
        return found

    def _concerned(self, kind: FaultKind, user: str | None, place: str) -> list[_Standing]:
        return [
            each
            for each in self._standing
            if each.order.fault.kind is kind and each.order.concerns(user, place)
        ]

    def _drop_spent(self) -> None:
        self._standing = [each for each in self._standing if not each.spent]
