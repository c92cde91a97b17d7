"""The catalogue of faults, the text form that orders one, and the book of those that stand.

One closed set: what a server on the far side can do to the relay, by name. An order is
`name[:argument][,key=value…]`, the same on the command line, in the control API and in tests. Pure:
the book says which orders apply to a request or an event; carrying them out is the work of the
rooms that answer, write and number.

Three kinds. An ANSWER replaces the stream by something else, on connect. A DELIVERY changes the
bytes of one connection, from its start or while it is open. A SOURCE changes the events themselves,
for everybody who listens.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Final, Self

from lebureau_relay.errors import ConfigError


class FaultKind(Enum):
    """Where a fault bites."""

    ANSWER = auto()
    DELIVERY = auto()
    SOURCE = auto()


class Fault(StrEnum):
    """Everything that the simulated API can do wrong: name, kind, form of the argument (N a
    number), one line for people.
    """

    _value_: str
    kind: FaultKind
    argument: str
    description: str

    def __new__(cls, name: str, kind: FaultKind, argument: str, description: str) -> Self:
        """A member whose value is its name alone."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.kind = kind
        member.argument = argument
        member.description = description
        return member

    NO_CONTENT = "204", FaultKind.ANSWER, "", "No Content: the stream is over for good"
    UNAUTHORIZED = "401", FaultKind.ANSWER, "", "Unauthorized, however good the credential"
    FORBIDDEN = "403", FaultKind.ANSWER, "", "Forbidden"
    NOT_FOUND = "404", FaultKind.ANSWER, "", "Not Found"
    TOO_MANY = "429", FaultKind.ANSWER, "N", "Too Many Requests, Retry-After: N (5)"
    BROKEN = "500", FaultKind.ANSWER, "", "Internal Server Error"
    UNAVAILABLE = (
        "503",
        FaultKind.ANSWER,
        "N",
        "Service Unavailable, with Retry-After if N is given",
    )
    REDIRECT = (
        "redirect",
        FaultKind.ANSWER,
        "ORIGIN",
        "307 to /moved on this origin, or to the same path on ORIGIN",
    )
    CONTENT_TYPE = (
        "content_type",
        FaultKind.ANSWER,
        "TYPE",
        "200 with a page of TYPE (text/html), no event stream",
    )
    CURSOR_REJECTED = (
        "cursor_rejected",
        FaultKind.ANSWER,
        "N",
        "status N (400) if Last-Event-ID came",
    )
    STALL = (
        "stall",
        FaultKind.ANSWER,
        "body",
        "accept and send nothing, not even headers; body: headers only",
    )

    CURSOR_IGNORED = (
        "cursor_ignored",
        FaultKind.DELIVERY,
        "live|all",
        "Last-Event-ID not honoured: live only, or all",
    )
    CUT = (
        "cut",
        FaultKind.DELIVERY,
        "N|mid",
        "break the connection at once, after N bytes, or inside the next frame",
    )
    END = "end", FaultKind.DELIVERY, "", "end the answer in good order"
    SILENCE = "silence", FaultKind.DELIVERY, "", "stay open, send neither events nor heartbeats"
    SLOW = "slow", FaultKind.DELIVERY, "N", "send N bytes (1) at a time"
    GARBAGE = "garbage", FaultKind.DELIVERY, "N", "N bytes (256) of noise and a blank line, once"
    CR = "cr", FaultKind.DELIVERY, "", "lines end in CR"
    CRLF = "crlf", FaultKind.DELIVERY, "", "lines end in CR LF"
    MIXED = "mixed", FaultKind.DELIVERY, "", "lines end in LF, CR and CR LF by turns"
    BOM = "bom", FaultKind.DELIVERY, "", "a byte order mark first"

    OVERSIZE = "oversize", FaultKind.SOURCE, "N", "the next event is padded by N bytes (2 MiB)"
    NO_IDS = "no_ids", FaultKind.SOURCE, "", "events carry no id"
    SOME_IDS = "some_ids", FaultKind.SOURCE, "N", "one event in N (3) carries an id"
    DOUBLED_IDS = (
        "doubled_ids",
        FaultKind.SOURCE,
        "same",
        "two events share one id; same: every event comes twice",
    )
    RENUMBER = "renumber", FaultKind.SOURCE, "", "numbering starts again at 1, now"
    AMNESIA = "amnesia", FaultKind.SOURCE, "", "the log is forgotten, now; numbering goes on"

    @property
    def once(self) -> bool:
        """Whether an order without `times` or `every` is meant for one event, rather than until it
        is cleared.
        """
        return self is Fault.OVERSIZE


_BY_NAME: Final = {fault.value: fault for fault in Fault}
# What can be done to a stream that is open already.
_WHILE_OPEN: Final = frozenset(
    {
        Fault.CUT,
        Fault.END,
        Fault.SILENCE,
        Fault.SLOW,
        Fault.GARBAGE,
        Fault.CR,
        Fault.CRLF,
        Fault.MIXED,
    }
)
_FORMS: Final = {"N": r"[0-9]{1,9}", "ORIGIN": r"https?://\S+", "TYPE": r"\S+/.+"}
_PLACES: Final = ("desktops", "activity", "me", "list")


@dataclass(frozen=True, slots=True)
class FaultOrder:
    """One fault, and where it applies.

    `user` None is everybody. `place` is a stream's name, `me` or `list` (those two take ANSWER
    faults only), and empty for both streams. `times` bounds the connects or events it applies to,
    None until cleared; `every` takes one in so many.
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
        here = self.place == place if self.place else place in {"desktops", "activity"}
        return here and self.user in {None, user}


def parse_fault(
    text: str,
    *,
    user: str | None = None,
    stream: str | None = None,
    times: int | None = None,
    every: int | None = None,
) -> FaultOrder:
    """The order that `name[:argument][,times=N][,every=N][,user=ID][,stream=NAME]` spells. Raises
    ConfigError.

    The arguments, where given, win over what the text says.
    """
    name, _, rest = text.partition(":")
    try:
        order = FaultOrder(_BY_NAME[name.strip()])
    except KeyError:
        names = ", ".join(Fault)
        raise ConfigError(
            [f"fault {text!r}: no fault is called {name!r}; choose from {names}"]
        ) from None
    for part in filter(None, rest.split(",")):
        order = _with(order, part.strip(), text)
    order = replace(
        order,
        user=order.user if user is None else user,
        place=order.place if stream is None else stream,
        times=order.times if times is None else times,
        every=order.every if every is None else every,
    )
    if order.fault.once and order.times is None and order.every == 1:
        order = replace(order, times=1)
    return _checked(order)


def _with(order: FaultOrder, part: str, text: str) -> FaultOrder:
    key, _, value = part.partition("=")
    match key:
        case "times" | "every":
            if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
                raise ConfigError([f"fault {text!r}: {key} is {value!r}; give a number from 1"])
            return (
                replace(order, times=int(value))
                if key == "times"
                else replace(order, every=int(value))
            )
        case "user":
            return replace(order, user=value)
        case "stream":
            return replace(order, place=value)
        case _:
            return replace(order, argument=part)


def _checked(order: FaultOrder) -> FaultOrder:
    """The order itself, if it can be carried out. Raises ConfigError."""
    fault = order.fault
    mistakes = []
    forms = [_FORMS.get(form, form) for form in fault.argument.split("|") if form]
    if order.argument and not any(re.fullmatch(form, order.argument) for form in forms):
        wanted = f"give {fault.argument}" if forms else "it takes none"
        mistakes.append(f"fault {fault}: argument {order.argument!r} can't be used; {wanted}")
    if fault in {Fault.SLOW, Fault.SOME_IDS} and order.argument and not int(order.number(1)):
        mistakes.append(f"fault {fault}: 0 can't be used; give a number from 1")
    if order.place and order.place not in _PLACES:
        mistakes.append(
            f"fault {fault}: no stream {order.place!r}; choose from {', '.join(_PLACES)}"
        )
    elif order.place in {"me", "list"} and fault.kind is not FaultKind.ANSWER:
        mistakes.append(f"fault {fault}: {order.place} is no stream; choose desktops or activity")
    if mistakes:
        raise ConfigError(mistakes)
    return order


def checked_while_open(order: FaultOrder) -> FaultOrder:
    """The order itself, if an open stream can be given it. Raises ConfigError."""
    if order.fault not in _WHILE_OPEN:
        names = ", ".join(sorted(_WHILE_OPEN))
        raise ConfigError(
            [f"fault {order.fault}: can't be done to an open stream; choose from {names}"]
        )
    return order


def describe_faults() -> str:
    """The catalogue for people: a line for each fault."""
    heads = {
        fault: f"{fault}[:{fault.argument}]" if fault.argument else str(fault) for fault in Fault
    }
    width = max(map(len, heads.values()))
    return "\n".join(f"{head:<{width}}  {fault.description}" for fault, head in heads.items())


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
        """What a request gets instead of what it asked for: the oldest order that concerns it,
        others unspent.
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
        """What happens to the next event of a user's stream."""
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
