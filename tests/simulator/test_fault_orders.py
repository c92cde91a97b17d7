"""The text form of orders, and the book that says to whom they apply. No sockets."""

import pytest

from lebureau_relay.errors import ConfigError
from lebureau_relay.simulator import Fault, describe_faults
from lebureau_relay.simulator.catalogue import FaultKind
from lebureau_relay.simulator.faults import FaultBook, FaultOrder, parse_fault


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("401", FaultOrder(Fault.UNAUTHORIZED)),
        ("429:7", FaultOrder(Fault.TOO_MANY, "7")),
        ("cut:mid,times=2", FaultOrder(Fault.CUT, "mid", times=2)),
        ("503:every=3", FaultOrder(Fault.UNAVAILABLE, every=3)),
        ("503,every=3", FaultOrder(Fault.UNAVAILABLE, every=3)),
        ("oversize", FaultOrder(Fault.OVERSIZE, times=1)),
        ("oversize:9,every=5", FaultOrder(Fault.OVERSIZE, "9", every=5)),
        ("redirect:http://a.b:80/x=y", FaultOrder(Fault.REDIRECT, "http://a.b:80/x=y")),
        ("stall:body,stream=me,user=u1", FaultOrder(Fault.STALL, "body", "u1", "me")),
        ("content_type:text/plain", FaultOrder(Fault.CONTENT_TYPE, "text/plain")),
    ],
)
def test_what_a_text_orders(text, order):
    assert parse_fault(text) == order


def test_arguments_win_over_the_text():
    order = parse_fault("500:user=a,times=1,every=1", user="b", stream="list", times=5, every=2)
    assert order == FaultOrder(Fault.BROKEN, "", "b", "list", 5, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("explode", "choose from 204, 401"),
        ("429:soon", "argument 'soon' can't be used; give N"),
        ("401:5", "it takes none"),
        ("explode,every=2", "no fault is called 'explode'"),
        ("cut:half", r"give N\|mid"),
        ("slow:0", "give a number from 1"),
        ("some_ids:0", "give a number from 1"),
        ("cut:times=no", "times is 'no'"),
        ("cut:every=0", "every is 0"),
        ("401:stream=tasks", "no stream is called 'tasks'"),
        ("cut:stream=me", "me is no stream"),
        ("cursor_rejected:200", "give STATUS"),
        ("redirect:elsewhere", "give ORIGIN"),
    ],
)
def test_what_is_wrong_is_said_with_the_mend(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_fault(text)


def test_every_fault_can_be_ordered_by_its_name_and_is_described():
    lines = describe_faults().splitlines()
    assert [parse_fault(fault).fault for fault in Fault] == list(Fault)
    assert [line.split("[")[0].split()[0] for line in lines] == [f.value for f in Fault]
    assert all(fault.description for fault in Fault)
    assert {fault.kind for fault in Fault} == set(FaultKind)


def answers(book: FaultBook, count: int, user: str = "u", place: str = "desktops") -> list[str]:
    found = [book.answer(user, place, has_cursor=False) for _ in range(count)]
    return [order.fault.value if order else "" for order in found]


def test_answers_are_met_one_after_the_other():
    book = FaultBook()
    book.add(parse_fault("429:times=1"))
    book.add(parse_fault("500:times=2"))
    assert answers(book, 4) == ["429", "500", "500", ""]
    assert not book


def test_every_third_gets_it():
    book = FaultBook()
    book.add(parse_fault("503:every=3,times=2"))
    assert answers(book, 8) == ["", "", "503", "", "", "503", "", ""]


def test_an_order_concerns_whom_it_names():
    book = FaultBook()
    book.add(parse_fault("401:user=a"))
    book.add(parse_fault("403:stream=activity"))
    book.add(parse_fault("404:stream=me"))
    assert answers(book, 1, "a") == ["401"]
    assert answers(book, 1, "b", "activity") == ["403"]
    assert answers(book, 1, "b") == [""]
    assert answers(book, 1, "b", "me") == ["404"]
    assert answers(book, 1, "a", "list") == [""]


def test_a_rejected_cursor_needs_a_cursor():
    book = FaultBook()
    book.add(parse_fault("cursor_rejected:times=1"))
    assert book.answer("u", "desktops", has_cursor=False) is None
    assert book.answer("u", "desktops", has_cursor=True) == parse_fault("cursor_rejected:times=1")
    assert not book


def test_deliveries_and_sources_add_up():
    book = FaultBook()
    for text in ("bom", "crlf:times=1", "no_ids", "500"):
        book.add(parse_fault(text))
    assert [o.fault for o in book.deliveries("u", "desktops")] == [Fault.BOM, Fault.CRLF]
    assert [o.fault for o in book.deliveries("u", "desktops")] == [Fault.BOM]
    assert [o.fault for o in book.sources("u", "desktops")] == [Fault.NO_IDS]
    book.clear()
    assert list(book) == []
