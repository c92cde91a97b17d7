"""The catalogue of faults: one closed set of all that the simulated API can do wrong, by name.

Three kinds. An ANSWER replaces the stream by something else, on connect. A DELIVERY changes the
bytes of one connection, from its start or while it is open. A SOURCE changes the events
themselves, for everybody who listens.
"""

from enum import Enum, StrEnum, auto
from typing import Final, Self


class FaultKind(Enum):
    """Where a fault bites."""

    ANSWER = auto()
    DELIVERY = auto()
    SOURCE = auto()


_ANSWER: Final = FaultKind.ANSWER
_DELIVERY: Final = FaultKind.DELIVERY
_SOURCE: Final = FaultKind.SOURCE


class Fault(StrEnum):
    """One thing that can go wrong: its name, kind, form of argument, and a line for people.

    In the form N stands for a number, ORIGIN, TYPE and STATUS for what they say, all else for
    itself; a form in round brackets in the line is the default.
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

    NO_CONTENT = "204", _ANSWER, "", "No Content: the stream is over for good"
    UNAUTHORIZED = "401", _ANSWER, "", "Unauthorized, however good the credential"
    FORBIDDEN = "403", _ANSWER, "", "Forbidden"
    NOT_FOUND = "404", _ANSWER, "", "Not Found"
    TOO_MANY = "429", _ANSWER, "N", "Too Many Requests, Retry-After: N (5)"
    BROKEN = "500", _ANSWER, "", "Internal Server Error"
    UNAVAILABLE = "503", _ANSWER, "N", "Service Unavailable, with Retry-After: N if given"
    REDIRECT = "redirect", _ANSWER, "ORIGIN", "307 to /moved… here, or to the same path on ORIGIN"
    CONTENT_TYPE = "content_type", _ANSWER, "TYPE", "200 with a page of TYPE (text/html)"
    CURSOR_REJECTED = "cursor_rejected", _ANSWER, "STATUS", "STATUS (400) if Last-Event-ID came"
    STALL = "stall", _ANSWER, "body", "accept, then nothing, not even headers; body: these alone"

    CURSOR_IGNORED = "cursor_ignored", _DELIVERY, "live|all", "whatever Last-Event-ID says: (live)"
    CUT = "cut", _DELIVERY, "N|mid", "break off now, after N bytes, or inside the next frame"
    END = "end", _DELIVERY, "", "end the answer in good order"
    SILENCE = "silence", _DELIVERY, "", "stay open, send neither events nor heartbeats"
    SLOW = "slow", _DELIVERY, "N", "send N bytes (1) at a time"
    GARBAGE = "garbage", _DELIVERY, "N", "N bytes (256) of noise and a blank line, once"
    CR = "cr", _DELIVERY, "", "lines end in CR"
    CRLF = "crlf", _DELIVERY, "", "lines end in CR LF"
    MIXED = "mixed", _DELIVERY, "", "lines end in LF, CR and CR LF by turns"
    BOM = "bom", _DELIVERY, "", "a byte order mark first"

    OVERSIZE = "oversize", _SOURCE, "N", "the next event is padded by N bytes (2 MiB)"
    NO_IDS = "no_ids", _SOURCE, "", "events carry no id"
    SOME_IDS = "some_ids", _SOURCE, "N", "one event in N (3) carries an id"
    DOUBLED_IDS = "doubled_ids", _SOURCE, "same", "two events share one id; same: all come twice"
    RENUMBER = "renumber", _SOURCE, "", "numbering starts again at 1, now"
    AMNESIA = "amnesia", _SOURCE, "", "the log is forgotten, now; numbering goes on"

    @property
    def once(self) -> bool:
        """Whether an order without `times` or `every` is for one event, not until it is cleared."""
        return self is Fault.OVERSIZE

    @property
    def at_once(self) -> bool:
        """Whether it is done to the logs at the moment of the order."""
        return self in {Fault.RENUMBER, Fault.AMNESIA}

    @property
    def while_open(self) -> bool:
        """Whether it can be done to a stream that is open already."""
        return self.kind is _DELIVERY and self not in {Fault.CURSOR_IGNORED, Fault.BOM}


def describe_faults() -> str:
    """The catalogue for people: a line for each fault."""
    heads = {f: f"{f}[:{f.argument}]" if f.argument else str(f) for f in Fault}
    width = max(map(len, heads.values()))
    return "\n".join(f"{head:<{width}}  {fault.description}" for fault, head in heads.items())
