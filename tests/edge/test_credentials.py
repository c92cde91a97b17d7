"""What a request says of who asks and from where on, read through a real parser from real bytes."""

import re
from urllib.parse import quote

import pytest
from aiohttp import web

from lebureau_relay.core.credential import CredentialKind
from lebureau_relay.core.event import upstream_cursor
from lebureau_relay.edge.credentials import MAX_KEY_BYTES, NO_CURSOR, CredentialRules, read_ask

PATH = "/api/desktops/stream"


@pytest.fixture
async def ask(serve):
    """Send a request; get what was read from it, or the refusal's code and status."""

    async def start(rules=None):
        asks = []

        async def keep(request, stream):
            asks.append(read_ask(request, rules or CredentialRules(), stream))
            return web.Response()

        edge = await serve(keep, rules=rules)

        async def send(target, *fields):
            asks.clear()
            reply = await edge.get(target, *fields)
            return asks[0] if asks else (reply.problem["code"], reply.status)

        return send

    return start


def secret(ask):
    return (ask.credential.kind, ask.credential.reveal())


KEY = (CredentialKind.KEY, "lb_k_1")


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", ["x-api-key: lb_k_1"]),
        ("", ["X-API-Key:  lb_k_1 \t"]),
        ("", ["Authorization: Bearer lb_k_1"]),
        ("", ["Authorization: bEARER   lb_k_1"]),
        ("", ["Authorization: Basic dXNlcjpwYXNz", "Authorization: Bearer lb_k_1"]),
        ("?apiKey=lb_k_1", []),
        ("?%61pi%4bey=lb%5Fk_1", []),
        ("?apiKey=%20lb_k_1%09", []),
        ("?apikey=other&APIKEY=third&apiKey=lb_k_1", []),
        ("?apiKey=lb_k_1", ["x-api-key: lb_k_1", "Authorization: Bearer lb_k_1"]),
        ("?apiKey=lb_k_1&apiKey=lb_k_1", ["x-api-key: lb_k_1", "x-api-key: lb_k_1"]),
        ("", ["Cookie: __Host-session=s", "x-api-key: lb_k_1"]),
        ("?apiKey=", ["x-api-key: lb_k_1", "Authorization: Bearer"]),
    ],
)
async def test_a_key_is_found_wherever_it_stands(ask, query, fields):
    send = await ask()
    assert secret(await send(PATH + query, *fields)) == KEY


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?apiKey=lb_k_2", ["x-api-key: lb_k_1"]),
        ("?apiKey=lb_k_1&apiKey=lb_k_2", []),
        ("", ["x-api-key: lb_k_1", "x-api-key: lb_k_2"]),
        ("", ["x-api-key: lb_k_1", "Authorization: Bearer lb_k_2"]),
        ("", ["Authorization: Bearer lb_k_1", "Authorization: Bearer lb_k_2"]),
        ("?apiKey=no%0Akey", ["x-api-key: lb_k_1"]),
    ],
)
async def test_two_different_keys_are_refused(ask, query, fields):
    send = await ask()
    assert await send(PATH + query, *fields) == ("conflicting_credentials", 400)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", []),
        ("?apiKey=", []),
        ("?apikey=lb_k_1", []),
        ("?apiKey", ["x-api-key:", "Authorization: Bearer "]),
        ("", ["Authorization: Basic dXNlcjpwYXNz"]),
        ("", ["Authorization: Bearerlb_k_1"]),
        ("", ["Cookie: theme=dark; session=1"]),
        ("", ["Cookie: __Host-session; =__Host-session=1; x__Host-a=1"]),
        ("", [b"Cookie: __Host-session=caf\xe9"]),
    ],
)
async def test_no_credential_is_named_so(ask, query, fields):
    send = await ask()
    assert await send(PATH + query, *fields) == ("missing_credential", 401)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?apiKey=lb_k%0D%0Ax-evil:%201", []),
        ("?apiKey=lb_k%00", []),
        ("?apiKey=lb_k_%C3%A9", []),
        ("?apiKey=%FF%FE", []),
        ("?apiKey=lb+k", []),
        ("", ["x-api-key: lb k"]),
        ("", ["x-api-key: lb_k_é"]),
        ("", ["Authorization: Bearer lb k"]),
        ("", ["x-api-key: " + "k" * (MAX_KEY_BYTES + 1)]),
        ("?apiKey=%7F", ["Cookie: __Host-session=s"]),
    ],
)
async def test_what_can_be_no_key_is_a_wrong_key(ask, query, fields):
    send = await ask()
    assert await send(PATH + query, *fields) == ("invalid_credential", 401)


async def test_the_longest_key_passes(ask):
    send = await ask()
    key = "k" * MAX_KEY_BYTES
    assert secret(await send(PATH, f"x-api-key: {key}")) == (CredentialKind.KEY, key)
    assert secret(await send(f"{PATH}?apiKey={key}")) == (CredentialKind.KEY, key)


@pytest.mark.parametrize(
    ("fields", "canonical"),
    [
        (["Cookie: __Host-session=abc"], "__Host-session=abc"),
        (["Cookie: z=1; __Secure-b=2; __Host-a=1; __host-c=3"], "__Host-a=1; __Secure-b=2"),
        (["Cookie: __Host-b=1", "Cookie: __Host-a=2;theme=dark"], "__Host-a=2; __Host-b=1"),
        (["Cookie: __Host-a=2; __Host-a=1"], "__Host-a=2; __Host-a=1"),
        (["Cookie:\t __Host-a=1 ;; ;__Host-b= 2"], "__Host-a=1; __Host-b= 2"),
        (['Cookie: __Host-a="q\\054uoted"'], '__Host-a="q\\054uoted"'),
        (["Cookie: __Host-a={x[1],y}@%3B==; Path=/"], "__Host-a={x[1],y}@%3B=="),
        (["Cookie: __Host-a=; __Host-b=1"], "__Host-a=; __Host-b=1"),
        (["Cookie: __Host-a=é"], "__Host-a=é"),
    ],
)
async def test_session_cookies_travel_as_they_came_in_order_of_name(ask, fields, canonical):
    send = await ask()
    assert secret(await send(PATH, *fields)) == (CredentialKind.COOKIE, canonical)


async def test_the_order_of_cookies_makes_no_other_credential(ask):
    send = await ask()
    first = await send(PATH, "Cookie: __Host-a=1; __Host-b=2; noise=7")
    second = await send(PATH, "Cookie: noise=8; __Host-b=2; __Host-a=1")
    assert first.credential == second.credential


async def test_cookies_past_all_measure_are_refused(ask):
    send = await ask()
    fields = [f"Cookie: __Host-{n}={'c' * 3000}" for n in range(3)]
    assert await send(PATH, *fields) == ("bad_request", 400)


async def test_names_are_settings(ask):
    rules = CredentialRules("x-token", "token", re.compile("^sid$"))
    send = await ask(rules)
    assert secret(await send(PATH, "x-token: lb_k_1")) == KEY
    assert secret(await send(f"{PATH}?token=lb_k_1")) == KEY
    assert secret(await send(PATH, "Cookie: sid=1; __Host-a=2")) == (CredentialKind.COOKIE, "sid=1")
    assert await send(f"{PATH}?apiKey=lb_k_1", "x-api-key: lb_k_1") == ("missing_credential", 401)


async def test_authorization_as_the_key_header_takes_bearer_tokens_only(ask):
    send = await ask(CredentialRules(api_key_header="Authorization"))
    assert secret(await send(PATH, "Authorization: Bearer lb_k_1")) == KEY
    assert await send(PATH, "Authorization: Basic lb_k_1") == ("missing_credential", 401)


@pytest.mark.parametrize(
    ("query", "fields", "cursor"),
    [
        ("", [], None),
        ("", ["Last-Event-ID:"], None),
        ("&lastEventId=", [], None),
        ("", ["Last-Event-ID: 42"], b"42"),
        ("", ["last-event-id: \t 4 2 \t"], b"4 2"),
        ("", ["Last-Event-ID: é".encode()], "é".encode()),
        ("", [b"Last-Event-ID: \xff\xfe"], b"\xff\xfe"),
        ("&lastEventId=42", [], b"42"),
        ("&last_event_id=42", [], b"42"),
        ("&Last-Event-ID=42", [], b"42"),
        ("&Last-Event-ID=3&last_event_id=2&lastEventId=1", [], b"1"),
        ("&lastEventId=&last_event_id=2", [], b"2"),
        ("&lastEventId=1&lastEventId=2", [], b"1"),
        ("&lastEventId=42", ["Last-Event-ID: 43"], b"43"),
        ("&lastEventId=42", ["Last-Event-ID:"], b"42"),
        ("&lastEventId=%20a%2Bb+c%20", [], b"a+b c"),
        ("&lastEventId=%FF%C3%A9%00%0D%0A1", [], b"\xff\xc3\xa9\x00\r\n1"),
        ("&lastEventId=%ED%B2%80", [], b"\xed\xb2\x80"),
        ("&lastEventId=%zz%", [], b"%zz%"),
        ("&last%45ventId=42", [], b"42"),
        ("&lasteventid=42", [], None),
    ],
)
async def test_the_cursor(ask, query, fields, cursor):
    send = await ask()
    assert (await send(f"{PATH}?apiKey=k{query}", *fields)).cursor == cursor


@pytest.mark.parametrize(
    ("query", "forwarded"),
    [
        ("", ""),
        ("&other=1&VIEW=2&view[]=3", ""),
        ("&view=a", "view=a"),
        ("&view=b&x=1&view=a", "view=b&view=a"),
        ("&v%69ew=%61+b%2f%FF", "view=a+b%2F%FF"),
        ("&view", "view="),
    ],
)
async def test_only_named_parameters_are_forwarded_in_one_form(ask, query, forwarded):
    """The fixture's stream lists `apiKey` too: a key in a forwarded query would be a leak."""
    send = await ask()
    assert (await send(f"{PATH}?apiKey=k{query}")).query == forwarded


BROWSER = ["Accept: text/event-stream", "Sec-Fetch-Mode: cors"]


@pytest.mark.parametrize(
    ("fields", "browser"),
    [
        (BROWSER, True),
        (["Accept: Text/Event-Stream, */*;q=0.1", "Sec-Fetch-Mode: cors"], True),
        (BROWSER[:1], False),
        (["Accept: */*", "Sec-Fetch-Mode: navigate"], False),
        (BROWSER[1:], False),
        ([*BROWSER, "x-api-key: k"], False),
        ([*BROWSER, "Authorization: Bearer k"], False),
    ],
)
async def test_an_event_source_is_told_from_fetch(ask, fields, browser):
    send = await ask()
    assert (await send(f"{PATH}?apiKey=k", *fields)).browser is browser


OWN_KEY, OWN_COOKIE = "0123456789abcdef", "__Host-session=0123456789abcdef"


@pytest.mark.parametrize("field", [f"x-api-key: {OWN_KEY}", f"Cookie: {OWN_COOKIE}"])
@pytest.mark.parametrize("text", [OWN_KEY, f"7{OWN_COOKIE}7", "lb_k_1", "7 lb_k_"])
async def test_a_secret_is_no_cursor_and_is_not_forwarded(ask, field, text):
    send = await ask()
    found = await send(f"{PATH}?lastEventId={quote(text)}&view={quote(text)}&view=1", field)
    assert found.cursor == NO_CURSOR
    assert found.query == "view=1"
    assert (await send(PATH, field, f"Last-Event-ID: {text}")).cursor == found.cursor


async def test_a_short_key_may_stand_in_a_cursor_by_chance(ask):
    send = await ask()
    assert (await send(PATH, "x-api-key: 42", "Last-Event-ID: evt_42")).cursor == b"evt_42"


async def test_the_cursor_that_is_none_goes_nowhere():
    assert upstream_cursor(NO_CURSOR) == b""
