"""The budgets, on a clock that stands still until it is moved, and whose address a request has."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.edge import admission as admission_module
from lebureau_relay.edge.admission import Admission, ClientAddresses, budget_name
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.relay.budgets import BudgetLimits, LocalBudgets, OnExcess
from lebureau_relay.relay.ports import Identity

GOOD = Credential(CredentialKind.KEY, "good")
STRANGE = Credential(CredentialKind.KEY, "strange")
ANNA, BERT = Identity("anna"), Identity("bert")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self):
        return self.now


class Known:
    """Identities as far as admission asks them."""

    def known_good(self, credential):
        return credential == GOOD


@dataclass
class Bench:
    """An admission, its clock, and streams that remember that they were retired."""

    limits: BudgetLimits = field(default_factory=BudgetLimits)
    streams_total: int = 0
    clock: Clock = field(default_factory=Clock)
    retired: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.budgets = LocalBudgets(self.limits, self.clock)
        self.admission = Admission(self.streams_total, Known(), self.budgets)

    async def sit(self, identity=ANNA, name=""):
        return await self.admission.admit_identity(identity, lambda: self.retired.append(name))

    async def refused(self, identity=ANNA):
        with pytest.raises(Refusal) as caught:
            await self.sit(identity)
        return caught.value


async def comes(admission, address, credential):
    async with admission.attempt(address, credential):
        pass


async def fails(admission, address, credential=STRANGE):
    with suppress(Refusal):
        async with admission.attempt(address, credential):
            raise Refusal(RefusalCode.INVALID_CREDENTIAL, "no such key")


async def address_refused(admission, address, credential):
    with pytest.raises(Refusal) as caught:
        await comes(admission, address, credential)
    return caught.value


async def test_an_address_may_fail_a_few_times():
    bench = Bench(BudgetLimits(failed_auth_per_minute=5))
    admission = bench.admission
    for _ in range(5):
        await comes(admission, "a", STRANGE)
        await fails(admission, "a")
    refusal = await address_refused(admission, "a", STRANGE)
    assert (refusal.code.value, refusal.limit) == ("too_many_failures", 5)
    assert refusal.retry_after_s == pytest.approx(12)
    await comes(admission, "a", GOOD)
    await comes(admission, "b", STRANGE)
    bench.clock.now += 12
    await comes(admission, "a", STRANGE)


async def test_asking_alone_is_no_failure():
    admission = Bench(BudgetLimits(failed_auth_per_minute=1)).admission
    for _ in range(100):
        await comes(admission, "a", STRANGE)
    await fails(admission, "a")
    assert (await address_refused(admission, "a", STRANGE)).code.value == "too_many_failures"


async def test_many_failures_under_way_together_cost_a_minute_at_most():
    bench = Bench(BudgetLimits(failed_auth_per_minute=5))
    for _ in range(20_000):
        await fails(bench.admission, "a", GOOD)  # nobody waits for those, so all are on their way
    bench.clock.now += 12
    await comes(bench.admission, "a", STRANGE)


@dataclass
class Crowd:
    """Requests of one address that are found out about for as long as `doors` are shut."""

    admission: Admission
    inside: int = 0
    most_inside: int = 0
    doors: asyncio.Event = field(default_factory=asyncio.Event)

    async def comes(self, *, bad: bool) -> str:
        try:
            async with self.admission.attempt("a", STRANGE):
                self.inside += 1
                self.most_inside = max(self.most_inside, self.inside)
                try:
                    async with asyncio.timeout(5):
                        await self.doors.wait()
                    await asyncio.sleep(0)
                finally:
                    self.inside -= 1
                if bad:
                    raise Refusal(RefusalCode.INVALID_CREDENTIAL, "no such key")
        except Refusal as refusal:
            return refusal.code.value
        return "in"

    async def gather(self, *bad: bool) -> list[str]:
        waiting = [asyncio.ensure_future(self.comes(bad=each)) for each in bad]
        await asyncio.sleep(0.01)
        self.doors.set()
        return await asyncio.gather(*waiting)


async def test_guesses_of_one_instant_cost_as_much_as_one_after_the_other():
    admission = Bench(BudgetLimits(failed_auth_per_minute=5)).admission
    codes = await Crowd(admission).gather(*[True] * 100)
    assert codes == ["invalid_credential"] * 5 + ["too_many_failures"] * 95
    assert admission._lines == {}


async def test_an_office_that_comes_back_at_once_waits_for_its_turn_and_gets_in():
    admission = Bench(BudgetLimits(failed_auth_per_minute=5)).admission
    crowd = Crowd(admission)
    codes = await crowd.gather(*[False] * 60, True, *[False] * 39)
    assert codes == ["in"] * 60 + ["invalid_credential"] + ["in"] * 39
    assert crowd.most_inside == 5
    assert admission._lines == {}


async def test_who_gives_up_in_the_line_holds_up_nobody():
    admission = Bench(BudgetLimits(failed_auth_per_minute=1)).admission
    crowd = Crowd(admission)
    first, second, third = [asyncio.ensure_future(crowd.comes(bad=False)) for _ in range(3)]
    await asyncio.sleep(0.01)
    second.cancel()
    first.cancel()
    crowd.doors.set()
    assert await third == "in"
    await asyncio.gather(first, second, return_exceptions=True)
    assert admission._lines == {}


async def test_nobody_waits_in_the_line_for_long(monkeypatch):
    monkeypatch.setattr(admission_module, "ATTEMPT_WAIT_S", 0.05)
    admission = Bench(BudgetLimits(failed_auth_per_minute=1)).admission
    crowd = Crowd(admission)
    first, second = [asyncio.ensure_future(crowd.comes(bad=False)) for _ in range(2)]
    assert await second == "identity_unavailable"
    crowd.doors.set()
    assert await first == "in"
    assert admission._lines == {}


async def test_an_identity_may_connect_so_often():
    bench = Bench(BudgetLimits(connects_per_minute=3))
    for _ in range(3):
        (await bench.sit()).release()
    refusal = await bench.refused()
    assert (refusal.code.value, refusal.limit) == ("rate_limited", 3)
    assert refusal.retry_after_s == pytest.approx(20)
    for _ in range(100):
        await bench.refused()
    await bench.sit(BERT)
    bench.clock.now += 20
    await bench.sit()


async def test_the_newest_is_refused():
    bench = Bench(BudgetLimits(streams_per_user=2))
    first, _ = await bench.sit(), await bench.sit()
    refusal = await bench.refused()
    assert (refusal.code.value, refusal.limit) == ("too_many_streams", 2)
    await bench.sit(BERT)
    first.release()
    await bench.sit()
    assert bench.retired == []


async def test_who_is_refused_for_another_reason_spends_no_connection():
    bench = Bench(BudgetLimits(connects_per_minute=2, streams_per_user=1))
    seat = await bench.sit()
    for _ in range(10):
        assert (await bench.refused()).code.value == "too_many_streams"
    seat.release()
    (await bench.sit()).release()
    assert (await bench.refused()).code.value == "rate_limited"


async def test_the_oldest_is_retired():
    bench = Bench(BudgetLimits(streams_per_user=2, on_excess=OnExcess.RETIRE_OLDEST))
    seats = {name: await bench.sit(name=name) for name in "abcd"}
    assert bench.retired == ["a", "b"]
    assert bench.admission.taken == 4  # those two are still ending
    seats["a"].release()
    seats["c"].release()
    await bench.sit(name="e")
    assert bench.retired == ["a", "b"]
    await bench.sit(name="f")
    assert bench.retired == ["a", "b", "d"]


async def test_a_retired_stream_may_give_its_seat_back_at_once():
    bench = Bench(BudgetLimits(streams_per_user=1, on_excess=OnExcess.RETIRE_OLDEST))
    seats = []

    def retire():
        seats[-1].release()

    for _ in range(5):
        seats.append(await bench.admission.admit_identity(ANNA, retire))
        assert bench.admission.taken == 1


async def test_who_is_rate_limited_retires_nobody():
    limits = BudgetLimits(
        connects_per_minute=1, streams_per_user=1, on_excess=OnExcess.RETIRE_OLDEST
    )
    bench = Bench(limits)
    await bench.sit(name="a")
    assert (await bench.refused()).code.value == "rate_limited"
    assert bench.retired == []


async def test_the_process_is_full():
    bench = Bench(streams_total=2)
    seat = await bench.sit()
    await comes(bench.admission, "a", STRANGE)
    await bench.sit(BERT)
    assert (await bench.refused()).code.value == "at_capacity"
    assert (await address_refused(bench.admission, "a", GOOD)).code.value == "at_capacity"
    seat.release()
    seat.release()
    assert bench.admission.taken == 1
    await bench.sit()


async def test_zeros_are_no_limits():
    bench = Bench(BudgetLimits(0, 0, 0))
    for _ in range(500):
        await bench.sit()
        await fails(bench.admission, "a")
    await comes(bench.admission, "a", STRANGE)
    assert bench.admission.taken == 500


async def test_nothing_is_kept_of_who_has_left():
    bench = Bench()
    seats = [await bench.sit(Identity(f"user {n}")) for n in range(100)]
    for seat in seats:
        seat.release()
    assert bench.budgets.seats == {}
    assert bench.admission.taken == 0


class Slow(LocalBudgets):
    """Budgets that somebody else counts, who takes his time."""

    def __init__(self):
        super().__init__(BudgetLimits(), Clock())
        self.answer = asyncio.Event()
        self.asked = 0

    async def peek(self, address):
        self.asked += 1
        return await super().peek(address)

    async def sit(self, identity, retire):
        await self.answer.wait()
        return await super().sit(identity, retire)


async def test_nobody_is_asked_about_who_is_known_to_be_good():
    budgets = Slow()
    admission = Admission(0, Known(), budgets)
    await comes(admission, "a", GOOD)
    assert budgets.asked == 0
    await comes(admission, "a", STRANGE)
    assert budgets.asked == 1


async def test_room_is_taken_while_a_seat_is_asked_for():
    budgets = Slow()
    admission = Admission(1, Known(), budgets)
    waiting = asyncio.ensure_future(admission.admit_identity(ANNA, lambda: None))
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as caught:
        await admission.admit_identity(BERT, lambda: None)
    assert caught.value.code.value == "at_capacity"
    budgets.answer.set()
    (await waiting).release()
    assert admission.taken == 0


async def test_who_gives_up_while_asking_for_a_seat_leaves_the_room():
    budgets = Slow()
    admission = Admission(1, Known(), budgets)
    waiting = asyncio.ensure_future(admission.admit_identity(ANNA, lambda: None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.taken == 0


@pytest.fixture
async def address_of(serve):
    """Whose address a request over a real socket is told to be."""

    async def start(*trusted):
        found = []

        async def handler(request, stream):
            found.append(budget_name(addresses.of(request)))
            return web.Response()

        edge = await serve(handler)
        addresses = ClientAddresses(trusted, edge.observer)

        async def of(*forwarded):
            await edge.get("/api/desktops/stream", *(f"X-Forwarded-For: {f}" for f in forwarded))
            return found.pop()

        return of, edge.observer

    return start


async def test_without_a_trusted_proxy_the_peer_is_the_client(address_of):
    of, observer = await address_of("10.0.0.0/8")
    assert await of() == "127.0.0.1"
    assert observer.notes == []
    for _ in range(3):
        assert await of("203.0.113.7") == "127.0.0.1"
    ((level, event, facts),) = observer.notes
    assert (level, event, facts["peer"]) == ("warning", "proxy.untrusted", "127.0.0.1")
    assert "203.0.113.7" not in str(facts)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([], "127.0.0.1"),
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7 ,10.1.2.3"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7", "10.1.2.3, 10.1.2.4"], "203.0.113.7"),
        (["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["198.51.100.1, rubbish"], "127.0.0.1"),
        (["rubbish, 10.1.2.3"], "10.1.2.3"),
        (["unknown"], "127.0.0.1"),
        ([","], "127.0.0.1"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (["[2001:db8:1:2:ffff::1]:4711"], "2001:db8:1:2::/64"),
        (["2001:db8:1:2::7, fd00::1"], "2001:db8:1:2::/64"),
        (["::1"], "::/64"),
    ],
)
async def test_a_trusted_proxy_says_who_the_client_is(address_of, forwarded, address):
    of, observer = await address_of("127.0.0.0/8", "10.0.0.0/8", "fd00::/8")
    assert await of(*forwarded) == address
    assert observer.notes == []


async def test_a_peer_without_an_address_is_one_client(serve, tmp_path):
    found = []

    async def handler(request, stream):
        addresses = ClientAddresses(["127.0.0.0/8"], edge.observer)
        found.append(budget_name(addresses.of(request)))
        return web.Response()

    edge = await serve(handler)
    path = str(tmp_path / "relay.sock")
    await web.UnixSite(edge.runner, path).start()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(
        b"GET /api/desktops/stream HTTP/1.1\r\nHost: a\r\n"
        b"X-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n"
    )
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert found == [""]


@pytest.mark.parametrize("cidr", ["10.0.0.0/33", "proxy", ""])
def test_a_network_that_is_none_is_told_at_once(cidr):
    with pytest.raises(ValueError, match="appear"):
        ClientAddresses([cidr], None)
