"""Every case of the standard, through upstream's bytes, the relay and each client library: what an
application hears is what the standard says, but for what a library is known to make of it.
"""

import re
import shutil

import pytest
from playwright.async_api import async_playwright
from tests.conformance import stage
from tests.conformance.cases import interpret, named
from tests.conformance.deviations import DEVIATIONS, DOCUMENT, document
from tests.e2e.conftest import CHROMIUM, pages, settings_for

from lebureau_relay.main import Relay

_PLACE = re.compile(r"~lbr[0-9a-f]+-[0-9]+")


@pytest.fixture
async def api():
    made = stage.Api()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def relay(api):
    """It takes upstream's end for one at once, and says nothing of its own in between."""
    settings = settings_for(
        api.url,
        stream={"heartbeat": 60, "retry": 0.2},
        limits={"connects_per_minute": 0, "streams_per_user": 10},
    )
    made = Relay(settings, pages({"/reader": ("text/html", stage.PAGE)}))
    await made.start()
    yield made
    await made.stop()


def expected(number: int) -> list[stage.Heard]:
    """What the standard dispatches; an event without an id has the relay's name for it."""
    _, stream, *_ = stage.CASES[number]
    return [
        stage.Heard(event.type.decode() or "message", event.data.decode(), event.id.decode())
        for event in named(interpret(stream))
    ]


def as_place(heard: list[stage.Heard]) -> list[stage.Heard]:
    """Names that the relay gave by place are as good as none."""
    return [one._replace(last_event_id=_PLACE.sub("", one.last_event_id)) for one in heard]


def judge(reader: str, hearing: stage.Hearing) -> None:
    strange = {
        stage.CASES[number][0]: (as_place(heard), expected(number))
        for number, heard in hearing.items()
        if as_place(heard) != expected(number)
    }
    known = DEVIATIONS[reader]
    unknown = {name: pair for name, pair in strange.items() if name not in known}
    assert not unknown, f"{reader} heard, and should have: {unknown}"
    healed = known.keys() - strange.keys()
    assert not healed, f"{reader} makes of these what it should: {healed}"


async def test_httpx_sse(relay):
    judge("httpx-sse", await stage.by_httpx_sse(relay.public_url))


async def test_sseclient_py(relay):
    judge("sseclient-py", await stage.by_sseclient(relay.public_url))


@pytest.mark.parametrize(
    ("reader", "read"),
    [
        ("requests", stage.by_requests),
        ("aiohttp", stage.by_aiohttp),
        ("curl", stage.by_curl),
    ],
)
async def test_clients_without_a_parser(relay, reader, read):
    judge(reader, await read(relay.public_url))


@pytest.mark.parametrize("library", stage.NODE_LIBRARIES)
async def test_npms_libraries(relay, library):
    if why := stage.why_no_node():
        pytest.skip(why)
    judge(library, await stage.by_node(library)(relay.public_url))


@pytest.mark.browser
async def test_chromium(relay):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM
        )
        hearing = await stage.by_chromium(relay.public_url, browser)
        await browser.close()
    judge("Chromium", hearing)


def test_the_document_is_made_of_these_tables():
    assert DOCUMENT.read_text() == document(), "make it anew: python -m tests.conformance"
