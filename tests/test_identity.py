"""The register against a real server that answers what a test tells it to."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.identity import AuthRules, Register, asking, gate, register, table
from lebureau_relay.identity.asking import MissingFieldError, identity_name
from lebureau_relay.relay.ports import Identity
from lebureau_relay.simulator import Simulator, SimulatorOptions

HASH_KEY = b"a key that replicas share"
FIELDS = ("id", "capabilities")
SECRET = "lb_k_canary"


def key(text: str = SECRET) -> Credential:
    return Credential(CredentialKind.KEY, text)


def cookie(text: str = f"__Host-s={SECRET}") -> Credential:
    return Credential(CredentialKind.COOKIE, text)


class Api:
    """An upstream: counts questions by credential, answers while `doors` are open."""

    def __init__(self):
        self.asked = Counter()
        self.headers = []
        self.inside = self.most_inside = 0
        self.doors = asyncio.Event()
        self.doors.set()
        self.answer: Callable[[str], web.StreamResponse] = lambda _: web.json_response([])
        self.url = ""

    async def handle(self, request):
        secret = request.headers.get("x-api-key") or request.headers.get("Cookie", "")
        self.asked[secret] += 1
        self.headers.append(request.headers)
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        try:
            await self.doors.wait()
            return self.answer(secret)
        finally:
            self.inside -= 1


class Notebook:
    """An observer that keeps its notes."""

    def __init__(self):
        self.notes = []

    def note(self, level, event, **facts):
        self.notes.append((level, event, facts))

    def events(self):
        return [event for _, event, _ in self.notes]


class House:
    """A register with its surroundings; `now` is its clock."""

    def __init__(self, api):
        self.api = api
        self.now = 1000.0
        self.notebook = Notebook()
        self.revoked = []
        self.changed = []

    @asynccontextmanager
    async def register(self, *, run=False, clock=None, **rules):
        rules = {"base_url": self.api.url, "upstream_auth_failures_per_minute": 8} | rules
        connector = aiohttp.TCPConnector(limit=0)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:
            made = Register(
                AuthRules(**rules),
                HASH_KEY,
                session,
                self.notebook,
                on_revoked=self.revoked.append,
                on_changed=self.changed.append,
                clock=clock or (lambda: self.now),
            )
            task = asyncio.create_task(made.run()) if run else None
            yield made
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def api(aiohttp_server):
    api = Api()
    app = web.Application()
    app.router.add_get("/{path:.*}", api.handle)
    server = await aiohttp_server(app)
    api.url = f"http://127.0.0.1:{server.port}"
    yield api
    api.doors.set()


@pytest.fixture
def house(api):
    return House(api)


async def until(condition, timeout_s=10):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is mere state
            await asyncio.sleep(0.005)


async def refused(awaitable) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await awaitable
    return caught.value


def status(code, **headers):
    return lambda _: web.Response(status=code, headers=headers)


def me(**document):
    return lambda _: web.json_response(document)


# -- who somebody is


def name_of(document, fields=FIELDS, hash_key=HASH_KEY):
    return identity_name(json.dumps(document).encode(), fields, hash_key)


def test_arrays_are_sets_and_other_fields_do_not_count():
    a = {"id": "u1", "capabilities": ["read", {"b": 1, "a": [2, 1]}], "email": "x"}
    b = {"capabilities": [{"a": [1, 2], "b": 1}, "read"], "id": "u1"}
    assert name_of(a) == name_of(b)
    assert len(bytes.fromhex(name_of(a))) == 16


@pytest.mark.parametrize(
    "other",
    [
        {"id": "u2", "capabilities": ["read"]},
        {"id": "u1", "capabilities": []},
        {"id": "u1", "capabilities": ["read", "write"]},
        {"id": ["u1"], "capabilities": "read"},
        {"id": "U1", "capabilities": ["read"]},
        {"id": "u1 ", "capabilities": ["read"]},
        {"id": {"u1": None}, "capabilities": ["read"]},
        {"id": "u1", "capabilities": ["read", None]},
        {"id": "u1", "capabilities": ["read", ["read"]]},
        {"id": "u1", "capabilities": {"read": True}},
    ],
)
def test_whoever_differs_in_a_field_is_somebody_else(other):
    assert name_of(other) != name_of({"id": "u1", "capabilities": ["read"]})


@pytest.mark.parametrize(
    "ids",
    [
        (1, 1.0, True, "1", "1.0", [1]),
        (0, False, -0.0, "0", [], [0]),
        (9007199254740992, 9007199254740993),
        ("\u00e9", "e\u0301", "\ufffd", "e"),
        ("u1", "u1\x00", "u1\u200b", "\uff551"),
        ({"a": 1}, {"a": "1"}, {"A": 1}, [["a", 1]]),
    ],
)
def test_what_looks_alike_is_not_the_same(ids):
    assert len({name_of({"id": one}, ("id",)) for one in ids}) == len(ids)


def test_an_identity_is_keyed_and_no_credential_can_be_called_like_it():
    document = {"id": "u1"}
    assert name_of(document, ("id",)) != name_of(document, ("id",), b"another key")
    assert name_of(document, ("id",)) != key('{"id":"u1"}').keyed(HASH_KEY)


@pytest.mark.parametrize("document", [{}, {"id": None}, {"id": ""}, {"ID": "u1"}])
def test_an_absent_null_or_empty_field_is_missing(document):
    with pytest.raises(MissingFieldError) as caught:
        name_of(document, ("id",))
    assert caught.value.field == "id"


def test_nought_and_nothing_in_an_array_are_values():
    assert name_of({"id": 0, "capabilities": []})


# -- asking


async def test_without_an_identity_path_a_credential_is_who_it_is(house):
    async with house.register() as made:
        first = await made.identify(key())
        assert first == Identity(key().keyed(HASH_KEY))
        assert first != await made.identify(key("lb_k_other"))
        assert not made.known_good(key())
    assert house.api.asked == {}


async def test_a_verdict_lasts_for_the_recheck_interval(house):
    async with house.register(recheck_interval_s=60) as made:
        await made.ensure_fresh(key())
        assert made.known_good(key())
        house.now += 59.9
        await made.ensure_fresh(key())
        assert house.api.asked[SECRET] == 1
        house.now += 0.1
        assert made.known_good(key()), "whoever was good does not wait behind guesses"
        await made.ensure_fresh(key())
        assert house.api.asked[SECRET] == 2


async def test_who_was_good_once_is_known_until_upstream_says_otherwise(house):
    async with house.register() as made:
        made.accepted(key())
        house.now += 100_000
        assert made.known_good(key())
        house.api.answer = status(401)
        await refused(made.ensure_fresh(key()))
        assert not made.known_good(key())


async def test_a_stream_that_upstream_accepted_is_a_verdict(house):
    async with house.register() as made:
        made.accepted(key())
        await made.ensure_fresh(key())
    assert house.api.asked == {}


async def test_what_goes_upstream(house):
    async with house.register(probe_path="/api/desktops") as made:
        await made.ensure_fresh(key())
        await made.ensure_fresh(cookie())
    by_key, by_cookie = house.api.headers
    assert by_key["x-api-key"] == SECRET
    assert "Cookie" not in by_key
    assert by_cookie["Cookie"] == f"__Host-s={SECRET}"
    assert "x-api-key" not in by_cookie
    assert by_key["Accept-Encoding"] == "identity"


async def test_questions_about_one_credential_are_one_request(house):
    house.api.doors.clear()
    async with house.register(identity_path="/v1/me") as made:
        house.api.answer = me(id="u1", capabilities=[])
        asking_now = [asyncio.create_task(made.identify(key())) for _ in range(100)]
        await until(lambda: house.api.asked[SECRET])
        asking_now[0].cancel()  # the one that began it
        house.api.doors.set()
        answers = await asyncio.gather(*asking_now, return_exceptions=True)
    assert house.api.asked[SECRET] == 1
    assert isinstance(answers[0], asyncio.CancelledError)
    assert len(set(answers[1:])) == 1
    assert isinstance(answers[1], Identity)


async def test_the_identity_is_what_upstream_says(house):
    users = {"k1": "u1", "k2": "u1", "k3": "u2"}
    house.api.answer = lambda secret: web.json_response({"id": users[secret], "email": secret})
    async with house.register(identity_path="/v1/me", identity_fields=("id",)) as made:
        first, second, other = [await made.identify(key(k)) for k in users]
        assert first == second != other
        await made.identify(key("k1"))
        await made.ensure_fresh(key("k1"))
    assert house.api.asked == {"k1": 1, "k2": 1, "k3": 1}


async def test_a_stream_does_not_say_who_somebody_is(house):
    house.api.answer = me(id="u1", capabilities=[])
    async with house.register(identity_path="/v1/me") as made:
        made.accepted(key())
        assert not made.known_good(key())
        await made.identify(key())
    assert house.api.asked[SECRET] == 1


async def test_a_401_is_remembered_for_a_minute(house):
    house.api.answer = status(401)
    async with house.register() as made:
        for _ in range(3):
            assert (await refused(made.ensure_fresh(key()))).code is RefusalCode.INVALID_CREDENTIAL
        house.now += 59
        assert (await refused(made.identify(key()))).code is RefusalCode.INVALID_CREDENTIAL
        assert house.api.asked[SECRET] == 1
        house.now += 1
        house.api.answer = status(200)
        await made.ensure_fresh(key())
        assert made.known_good(key())


async def test_a_403_is_remembered_as_what_it_is(house):
    house.api.answer = status(403)
    async with house.register() as made:
        for _ in range(3):
            assert (await refused(made.ensure_fresh(key()))).code is RefusalCode.FORBIDDEN
        assert not made.known_good(key())
    assert house.api.asked[SECRET] == 1


OUTAGES = {
    "500": status(500),
    "404": status(404),
    "a redirect": status(302, Location="/login"),
    "a web page": lambda _: web.Response(text="<p>hello", content_type="text/html"),
    "a cache": lambda _: web.json_response({"id": "u1", "capabilities": []}, headers={"Age": "7"}),
    "no JSON": lambda _: web.Response(text="}{"),
    "no object": lambda _: web.json_response(["id"]),
    "a deep one": lambda _: web.Response(text="[" * 60_000),
    "no UTF-8": lambda _: web.Response(body=b'{"id":"\xff"}'),
    "a big one": lambda _: web.Response(text='{"id":"u1","capabilities":"' + "x" * 70_000 + '"}'),
    "a missing field": lambda _: web.json_response({"id": "u1"}),
}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
async def test_an_outage_is_no_refusal_and_no_acceptance(house, outage):
    house.api.answer = outage
    async with house.register(identity_path="/v1/me") as made:
        refusal = await refused(made.identify(key()))
        assert refusal.code is RefusalCode.IDENTITY_UNAVAILABLE
        assert refusal.retry_after_s == 5
        assert not made.known_good(key())
        house.api.answer = me(id="u1", capabilities=[])
        await made.identify(key())
    assert [level for level, *_ in house.notebook.notes] == ["warning"]


async def test_a_redirect_does_not_get_the_credential(house):
    house.api.answer = status(307, Location=f"{house.api.url}/elsewhere")
    async with house.register() as made:
        await refused(made.ensure_fresh(key()))
    assert house.api.asked[SECRET] == 1


async def test_nobody_there(house, unused_tcp_port):
    async with house.register(base_url=f"http://127.0.0.1:{unused_tcp_port}") as made:
        refusal = await refused(made.ensure_fresh(key()))
    assert refusal.code is RefusalCode.IDENTITY_UNAVAILABLE


async def test_no_answer(house, monkeypatch):
    monkeypatch.setattr(asking, "ASK_TIMEOUT_S", 0.05)
    house.api.doors.clear()
    async with house.register() as made:
        refusal = await refused(made.ensure_fresh(key()))
    assert refusal.code is RefusalCode.IDENTITY_UNAVAILABLE


@pytest.mark.parametrize(("header", "seconds"), [("30", 30), ("9" * 400, 300), ("soon", 5)])
async def test_upstreams_own_wait_is_passed_on(house, header, seconds):
    house.api.answer = status(429, **{"Retry-After": header})
    async with house.register() as made:
        assert (await refused(made.ensure_fresh(key()))).retry_after_s == seconds


async def test_the_missing_field_is_named_in_the_log(house):
    house.api.answer = me(id="u1")
    async with house.register(identity_path="/v1/me") as made:
        await refused(made.identify(key()))
        await refused(made.identify(key("k2")))
    facts = {"path": "/v1/me", "field": "capabilities"}
    assert house.notebook.notes == [("warning", "identity.field_missing", facts)]


async def test_a_line_that_no_header_can_carry_is_never_sent(house):
    async with house.register() as made:
        await refused(made.ensure_fresh(key("lb\r\nx-evil: 1")))
    assert house.api.asked == {}


async def test_with_no_path_to_ask_a_stream_is_opened_and_closed(house, aiohttp_server):
    gone = asyncio.Event()

    async def stream(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b":\n")
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    app = web.Application()
    app.router.add_get("/stream", stream)
    server = await aiohttp_server(app)
    url = f"http://127.0.0.1:{server.port}"
    async with house.register(base_url=url, probe_path="", stream_path="/stream") as made:
        await made.ensure_fresh(key())
        async with asyncio.timeout(10):
            await gone.wait()


async def test_what_is_no_stream_vouches_for_nobody(house):
    async with house.register(probe_path="") as made:
        refusal = await refused(made.ensure_fresh(key()))
    assert refusal.code is RefusalCode.IDENTITY_UNAVAILABLE


# -- cookies that upstream changes


def rotating(_):
    return web.json_response(
        {"id": "u1", "capabilities": []}, headers={"Set-Cookie": "__Host-s=new; Secure"}
    )


@pytest.mark.parametrize("rules", [{}, {"identity_path": "/v1/me"}], ids=["probe", "identity"])
async def test_a_set_cookie_ends_probing_for_that_cookie(house, rules):
    house.api.answer = rotating
    async with house.register(**rules) as made:
        await made.ensure_fresh(cookie())
        made.hold(cookie(), await made.identify(cookie()))
        house.now += 3600
        await made.ensure_fresh(cookie())  # as good as the stream that holds it
        made.release(cookie())
        refusal = await refused(made.ensure_fresh(cookie()))
        assert refusal.code is RefusalCode.IDENTITY_UNAVAILABLE
        await made.identify(cookie())
        made.hold(cookie())
        made._look_around(0.0)
    assert sum(house.api.asked.values()) == 1
    assert house.notebook.events() == ["identity.probing_ended"]


async def test_a_key_is_probed_whatever_upstream_sets(house):
    house.api.answer = rotating
    async with house.register() as made:
        await made.ensure_fresh(key())
        house.now += 60
        await made.ensure_fresh(key())
    assert house.api.asked[SECRET] == 2


# -- the budget of 401s


@pytest.mark.parametrize("rules", [{}, {"identity_path": "/v1/me"}], ids=["probe", "identity"])
async def test_twenty_thousand_bad_keys_cost_upstream_no_more_than_eight(house, rules):
    known = {"good", "stale"}

    def answer(secret):
        if secret in known:
            return web.json_response({"id": "u1", "capabilities": []})
        return web.Response(status=401)

    house.api.answer = answer
    async with house.register(**rules) as made:
        await made.ensure_fresh(key("stale"))
        house.now += 61
        await made.ensure_fresh(key("good"))
        bad = [made.ensure_fresh(key(f"bad{n}")) for n in range(20_000)]
        outcomes = await asyncio.gather(*bad, return_exceptions=True)
        codes = Counter(refusal.code for refusal in outcomes)
        assert codes[RefusalCode.INVALID_CREDENTIAL] == 8
        assert codes[RefusalCode.TOO_MANY_FAILURES] + codes[RefusalCode.IDENTITY_UNAVAILABLE] == (
            20_000 - 8
        )
        assert len(made._table) == 10

        late = await refused(made.ensure_fresh(key("late")))
        assert (late.code, late.limit) == (RefusalCode.TOO_MANY_FAILURES, 8)
        assert late.retry_after_s == 60
        assert (await refused(made.identify(key("late")))).code is RefusalCode.TOO_MANY_FAILURES
        await made.ensure_fresh(key("good"))
        await made.ensure_fresh(key("stale"))  # was good, so it is asked about
        assert house.api.asked["stale"] == 2

        house.now += 60
        known.add("late")
        await made.ensure_fresh(key("late"))
    assert sum(count for secret, count in house.api.asked.items() if "bad" in secret) == 8
    assert "identity.failures_spent" in house.notebook.events()


async def test_newcomers_queue_for_the_places_that_are_left(house):
    async with house.register() as made:
        await asyncio.gather(*(made.ensure_fresh(key(f"k{n}")) for n in range(300)))
    assert len(house.api.asked) == 300
    assert house.api.most_inside <= 8


@pytest.mark.parametrize("ending", ["accepted", "undecided"])
async def test_who_may_open_a_stream_holds_a_place_until_it_is_told(house, ending):
    async with house.register(upstream_auth_failures_per_minute=1) as made:
        await made.identify(key("first"))
        second = asyncio.create_task(made.identify(key("second")))
        third = asyncio.create_task(made.identify(key("third")))
        await until(lambda: len(made._gate._queue) == 2)
        getattr(made, ending)(key("first"))
        assert await second
        assert not third.done()
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        assert not made._gate._queue


async def test_a_stream_that_was_refused_turns_the_queue_away(house):
    async with house.register(upstream_auth_failures_per_minute=1) as made:
        await made.identify(key("first"))
        second = asyncio.create_task(made.identify(key("second")))
        await until(lambda: made._gate._queue)
        made.rejected(key("first"))
        assert (await refused(second)).code is RefusalCode.TOO_MANY_FAILURES
        assert (await refused(made.identify(key("first")))).code is RefusalCode.INVALID_CREDENTIAL


async def tabs_of(made, size: int = 5):
    """The first request with a new key has come, and others that wait for how it goes."""
    await made.identify(key())
    tabs = [asyncio.create_task(made.identify(key())) for _ in range(size)]
    await asyncio.sleep(0.05)
    assert not any(tab.done() for tab in tabs)
    return tabs


async def test_who_comes_with_the_same_new_key_waits_for_the_first(house):
    async with house.register() as made:
        tabs = await tabs_of(made)
        made.accepted(key())
        assert len(set(await asyncio.gather(*tabs))) == 1
        assert not made._gate._inside


async def test_one_bad_key_is_one_401(house):
    async with house.register() as made:
        tabs = await tabs_of(made)
        made.rejected(key())
        codes = {(await refused(tab)).code for tab in tabs}
        assert codes == {RefusalCode.INVALID_CREDENTIAL}
        assert len(made._gate._places.failures) == 1


async def test_where_nothing_was_decided_the_next_one_tries(house):
    async with house.register() as made:
        tabs = await tabs_of(made, 2)
        for _ in tabs:
            waiting = [tab for tab in tabs if not tab.done()]
            made.undecided(key())
            await until(lambda waiting=waiting: any(tab.done() for tab in waiting))
            assert sum(tab.done() for tab in waiting) == 1


async def test_who_queues_for_one_credential_shares_its_turn(house):
    async with house.register(upstream_auth_failures_per_minute=1) as made:
        await made.identify(key("first"))
        tabs = [asyncio.create_task(made.identify(key("second"))) for _ in range(5)]
        await until(lambda: made._gate._queue)
        tabs[0].cancel()
        await asyncio.gather(tabs[0], return_exceptions=True)
        made.accepted(key("first"))
        await until(lambda: sum(tab.done() for tab in tabs[1:]) == 1)
        made.accepted(key("second"))
        assert len({await tab for tab in tabs[1:]}) == 1


async def test_a_verdict_of_elsewhere_ends_the_queueing(house):
    async with house.register(upstream_auth_failures_per_minute=1) as made:
        await made.identify(key("first"))
        second = asyncio.create_task(made.identify(key("second")))
        await until(lambda: made._gate._queue)
        made.accepted(key("second"))
        assert await second
        assert key("second").digest not in made._gate._inside


async def test_a_turn_is_worth_nothing_to_who_was_found_bad_meanwhile(house):
    async with house.register(upstream_auth_failures_per_minute=2) as made:
        await made.identify(key("first"))
        await made.identify(key("second"))
        third = asyncio.create_task(made.identify(key("third")))
        await until(lambda: made._gate._queue)
        made.accepted(key("first"))
        made.rejected(key("third"))
        assert (await refused(third)).code is RefusalCode.INVALID_CREDENTIAL
        assert key("third").digest not in made._gate._inside


async def test_a_place_that_nobody_gives_back_lapses(house, monkeypatch):
    monkeypatch.setattr(gate, "PLACE_LAPSES_S", 0.05)
    async with house.register(upstream_auth_failures_per_minute=1) as made:
        await made.identify(key("first"))
        async with asyncio.timeout(10):
            await made.identify(key("second"))


async def test_the_queue_is_short_and_patient_to_a_point(house, monkeypatch):
    monkeypatch.setattr(gate, "WAIT_S", 0.05)
    monkeypatch.setattr(gate, "MAX_WAITING", 1)
    async with house.register(upstream_auth_failures_per_minute=1) as made:
        await made.identify(key("first"))
        second = asyncio.create_task(made.identify(key("second")))
        await until(lambda: made._gate._queue)
        full = await refused(made.identify(key("third")))
        assert full.code is RefusalCode.IDENTITY_UNAVAILABLE
        assert (await refused(second)).code is RefusalCode.IDENTITY_UNAVAILABLE


# -- live streams


async def test_exactly_the_revoked_credential_is_told(house):
    bad = set()
    house.api.answer = lambda secret: web.Response(status=401 if secret in bad else 200)
    async with house.register(
        run=True, clock=asyncio.get_running_loop().time, recheck_interval_s=0.3
    ) as made:
        for name in ("k1", "k2"):
            await made.ensure_fresh(key(name))
            made.hold(key(name))
        bad.add("k1")
        revoked_at = asyncio.get_running_loop().time()
        await until(lambda: house.revoked)
        assert asyncio.get_running_loop().time() - revoked_at < 2
        before = house.api.asked["k2"]
        await until(lambda: house.api.asked["k2"] >= before + 2)
    assert set(house.revoked) == {key("k1")}
    assert house.changed == []


async def test_a_403_revokes_as_well(house):
    async with house.register(run=True, recheck_interval_s=0.2) as made:
        await made.ensure_fresh(key())
        made.hold(key())
        house.api.answer = status(403)
        house.now += 1
        await until(lambda: house.revoked)


async def test_an_outage_revokes_nobody_until_max_stale(house):
    async with house.register(run=True, recheck_interval_s=0.2, max_stale_s=100) as made:
        await made.ensure_fresh(key())
        made.hold(key())
        house.api.answer = status(500)
        for _ in range(5):
            asked = house.api.asked[SECRET]
            house.now += 10
            await until(lambda asked=asked: house.api.asked[SECRET] > asked)
        assert house.revoked == []
        assert (await refused(made.ensure_fresh(key()))).code is RefusalCode.IDENTITY_UNAVAILABLE
        house.now += 51
        await until(lambda: house.revoked)
    assert house.notebook.events() == ["identity.unavailable", "identity.stale"]


async def test_max_stale_may_be_shorter_than_the_recheck_interval(house):
    async with house.register(recheck_interval_s=60, max_stale_s=10) as made:
        made.accepted(key())
        made.hold(key())
        house.now += 9.9
        made._look_around(0.0)
        await asyncio.sleep(0)
        assert house.revoked == []
        house.now += 0.1
        made._look_around(0.0)
        await asyncio.sleep(0)
        assert house.revoked == [key()]


async def test_without_max_stale_streams_outlast_any_outage(house):
    async with house.register(run=True, recheck_interval_s=0.2) as made:
        await made.ensure_fresh(key())
        made.hold(key())
        house.api.answer = status(500)
        for _ in range(3):
            asked = house.api.asked[SECRET]
            house.now += 1_000_000
            await until(lambda asked=asked: house.api.asked[SECRET] > asked)
    assert house.revoked == []


async def test_an_identity_that_reads_differently_is_told(house):
    house.api.answer = me(id="u1", capabilities=["read"])
    async with house.register(run=True, recheck_interval_s=0.2, identity_path="/v1/me") as made:
        before = await made.identify(key())
        made.hold(key(), before)
        house.api.answer = me(id="u1", capabilities=[])
        house.now += 1
        await until(lambda: house.changed)
        assert await made.identify(key()) != before
    assert house.changed == [key()]
    assert house.revoked == []


async def test_a_401_on_a_stream_reaches_all_streams_that_hold_it(house):
    async with house.register() as made:
        made.accepted(key())
        made.hold(key())
        made.rejected(key())
        assert house.revoked == []  # never from within a call
        await until(lambda: house.revoked)
    assert house.revoked == [key()]


async def test_a_verdict_between_identify_and_hold_is_not_lost(house):
    house.api.answer = me(id="u1", capabilities=["read"])
    async with house.register(identity_path="/v1/me") as made:
        before = await made.identify(key())
        house.now += 60
        house.api.answer = me(id="u2", capabilities=["read"])
        after = await made.identify(key())
        assert not made.hold(key(), before), "it is somebody else by now"
        assert made.hold(key(), after)
        made.rejected(key())
        assert not made.hold(key(), after)


async def test_who_was_forgotten_is_still_compared_with_whom_the_stream_is_for(house):
    """A record may be gone from the table by the time that its stream begins."""
    house.api.answer = me(id="u2", capabilities=["read"])
    async with house.register(run=True, recheck_interval_s=0.2, identity_path="/v1/me") as made:
        assert made.hold(key(), Identity("whoever it was"))
        await until(lambda: house.changed)


@pytest.mark.parametrize("age_s", [1, 30, 59.9])
async def test_a_recheck_is_due_from_the_verdict_and_not_from_the_join(house, age_s):
    """Or a key that was revoked right after the verdict would read for nearly two intervals."""
    async with house.register(recheck_interval_s=60) as made:
        await made.ensure_fresh(key())
        house.api.answer = status(401)
        house.now += age_s
        await made.ensure_fresh(key())
        assert made.hold(key())
        house.now = max(house.now, 1000.0 + 54)
        made._look_around(0.0)
        await until(lambda: house.revoked)


async def test_a_verdict_counts_from_the_question(house):
    house.api.doors.clear()
    async with house.register(recheck_interval_s=60) as made:
        asking_now = asyncio.create_task(made.ensure_fresh(key()))
        await until(lambda: house.api.inside)
        house.now += 9
        house.api.doors.set()
        await asking_now
        house.now += 51
        await made.ensure_fresh(key())
        made.accepted(key("k2"), 9)
        house.now += 51
        await made.ensure_fresh(key("k2"))
    assert house.api.asked == {SECRET: 2, "k2": 1}


async def test_a_slow_acceptance_does_not_undo_a_refusal_that_came_after_its_question(house):
    house.api.doors.clear()
    async with house.register() as made:
        made.accepted(key())
        house.now += 60
        asking_now = asyncio.create_task(made.ensure_fresh(key()))
        await until(lambda: house.api.inside)
        house.now += 1
        made.rejected(key())
        house.now += 1
        house.api.doors.set()
        await asking_now
        made.accepted(key(), 1.5)
        assert not made.hold(key())
        assert (await refused(made.ensure_fresh(key()))).code is RefusalCode.INVALID_CREDENTIAL
        made.accepted(key(), 0.5)
        assert made.known_good(key())


async def test_what_no_stream_holds_is_not_rechecked(house):
    async with house.register(run=True, recheck_interval_s=0.2) as made:
        for name in ("kept", "left"):
            await made.ensure_fresh(key(name))
            made.hold(key(name))
        made.hold(key("left"))
        made.release(key("left"))
        made.release(key("left"))
        made.release(key("left"))  # once too often
        for _ in range(3):
            asked = house.api.asked["kept"]
            house.now += 1
            await until(lambda asked=asked: house.api.asked["kept"] > asked)
    assert house.api.asked["left"] == 1


async def test_a_verdict_that_came_otherwise_saves_a_recheck(house):
    async with house.register(recheck_interval_s=60) as made:
        made.accepted(key())
        made.hold(key())
        for _ in range(10):
            house.now += 30
            made.accepted(key())
            made._look_around(0.0)
        assert made._questions == {}
        house.now += 54
        made._look_around(0.0)
        assert len(made._questions) == 1
        await made.ensure_fresh(key())


async def test_few_rechecks_at_once_and_all_in_the_end(house):
    house.api.doors.clear()
    async with house.register(run=True, recheck_interval_s=0.2) as made:
        for n in range(100):
            made.accepted(key(f"k{n}"))
            made.hold(key(f"k{n}"))
        house.now += 1
        await until(lambda: house.api.inside == register.MAX_RECHECKING)
        house.api.doors.set()
        async with asyncio.timeout(20):
            while len(house.api.asked) < 100:
                house.now += 0.01
                await asyncio.sleep(0.01)
        assert len(made._due) == 100
    assert house.api.most_inside == register.MAX_RECHECKING


async def test_an_end_leaves_no_question_behind(house):
    house.api.doors.clear()
    async with house.register(run=True) as made:
        waiting = asyncio.create_task(made.ensure_fresh(key()))
        await until(lambda: house.api.inside)
    assert made._questions == {}
    assert isinstance(
        (await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError
    )


# -- against the simulated API


@pytest.fixture
async def simulator():
    simulator = Simulator(SimulatorOptions(users=2, rate=0))
    await simulator.start()
    yield simulator
    await simulator.stop()


async def test_users_and_capabilities_of_the_api(house, simulator):
    first, other = simulator.users
    async with house.register(base_url=simulator.url, identity_path="/v1/me") as made:
        identity = await made.identify(key(first.key))
        assert await made.identify(key(first.keys[1])) == identity
        assert await made.identify(cookie(first.cookie)) == identity
        assert await made.identify(key(other.key)) != identity
        assert await made.identify(key(first.limited_key)) != identity


async def test_a_key_revoked_at_the_api_is_told(house, simulator):
    first, other = simulator.users
    async with house.register(run=True, base_url=simulator.url, recheck_interval_s=0.2) as made:
        for secret in (first.key, other.key):
            await made.ensure_fresh(key(secret))
            made.hold(key(secret))
        simulator.revoke(first.key)
        house.now += 1
        await until(lambda: house.revoked)
        house.now += 1
        again = await refused(made.ensure_fresh(key(first.key)))
        assert again.code is RefusalCode.INVALID_CREDENTIAL
        await made.ensure_fresh(key(other.key))
    assert house.revoked == [key(first.key)]


async def test_bad_keys_do_not_make_the_api_lock_the_relay_out(house, simulator):
    async with house.register(base_url=simulator.url) as made:
        bad = [made.ensure_fresh(key(f"lb_k_bad{n}")) for n in range(1000)]
        outcomes = await asyncio.gather(*bad, return_exceptions=True)
        assert all(isinstance(outcome, Refusal) for outcome in outcomes)
        house.now += 60
        await made.ensure_fresh(key(simulator.user().key))


# -- bounds and secrets


def test_the_table_forgets_the_least_recently_used_and_never_what_is_held(monkeypatch):
    monkeypatch.setattr(table, "MAX_RECORDS", 10)
    records = table.Table()
    for n in range(3):
        records.enter(b"held%d" % n).holders = 1
    for n in range(100):
        records.enter(b"%d" % n)
        records.find(b"0")
    assert len(records) == 10
    assert records.find(b"0")
    assert records.find(b"1") is None
    assert all(records.find(b"held%d" % n) for n in range(3))


def test_a_table_of_held_records_grows_rather_than_searching(monkeypatch):
    monkeypatch.setattr(table, "MAX_RECORDS", 10)
    records = table.Table()
    for n in range(30):
        records.enter(b"%d" % n).holders = 1
    assert len(records) == 30


async def test_what_was_forgotten_is_not_looked_at(house, monkeypatch):
    monkeypatch.setattr(table, "MAX_RECORDS", 1)
    async with house.register() as made:
        made.hold(key())
        made.release(key())
        made.accepted(key("another"))
        house.now += 60
        made._look_around(0.0)
        assert made._due == []


async def test_a_secret_is_kept_only_while_it_is_held(house):
    async with house.register() as made:
        await made.ensure_fresh(key())
        record = made._table.find(key().digest)
        assert record.credential is None
        made.hold(key())
        assert record.credential == key()
        made.release(key())
        assert record.credential is None


@pytest.mark.parametrize("answer", [status(401), status(403), status(500), me(id="u1")])
@pytest.mark.parametrize("credential", [key(), cookie()], ids=["key", "cookie"])
async def test_no_secret_in_refusals_notes_or_reprs(house, answer, credential, caplog):
    caplog.set_level("DEBUG")
    house.api.answer = answer
    told = []
    async with house.register(identity_path="/v1/me") as made:
        made.hold(credential)
        try:
            await made.identify(credential)
        except Refusal as refusal:
            told += [refusal, refusal.__context__, refusal.__cause__]
        told += [made, made._table.find(credential.digest), made._questions, *house.notebook.notes]
        made.release(credential)
    assert SECRET not in repr(told) + str(told) + caplog.text
    assert house.notebook.notes
