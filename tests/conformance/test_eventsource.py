"""What the standard asks of an EventSource (sections 9.2.2 and 9.2.3), in a real Chromium through
the relay: when it comes back, with what, and when it never does.

Reconnects, cursors, soft refusals and foreign origins: tests/e2e/test_browser.py.
"""

import pytest
from aiohttp import web
from tests.e2e.clients import DESKTOPS
from tests.e2e.conftest import pages
from tests.e2e.test_browser import PAGE, Stream

from lebureau_relay.errors import CloseReason

pytestmark = pytest.mark.browser

CLOSED = "tab.source.readyState == EventSource.CLOSED"


@pytest.fixture
async def tab_at(browser, serve):
    """Opens a page's EventSource at a relay: `tab_at(upstream_url, path, extra=…)`."""

    async def start(upstream_url: str, path: str, extra=None):
        def routes(app: web.Application) -> None:
            pages({"/tab": ("text/html", PAGE)})(app)
            if extra is not None:
                extra(app)

        relay = await serve(upstream_url, routes)
        page = await browser.new_page()
        await page.goto(f"{relay.public_url}/tab")
        await page.evaluate("(u) => open('one', u, {})", path)
        return relay, Stream(page, "one")

    return start


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_the_relay_is_followed(simulator, user, tab_at, status):
    asked = []

    def moved(app: web.Application) -> None:
        async def elsewhere(_request):
            asked.append(1)
            return web.Response(
                status=status, headers={"Location": f"{DESKTOPS}?apiKey={user.key}"}
            )

        app.router.add_get("/moved", elsewhere)

    relay, tab = await tab_at(simulator.url, "/moved", moved)
    await tab.until("tab.opened == 1")
    simulator.emit(user.id, "desktops", 1)
    await tab.until("tab.seen.length == 1")
    relay.hub.end(None, CloseReason.OPERATOR)
    await tab.until("tab.opened == 2")
    simulator.emit(user.id, "desktops", 1)
    await tab.until("tab.seen.length == 2")
    assert await tab.get("seen") == [one.id for one in simulator.log(user.id, "desktops")]
    # The standard has it come back by the redirect again; Chromium goes where that led last time.
    assert asked


async def test_204_ends_it_for_good(simulator, veneer, user, tab_at):
    relay, tab = await tab_at(veneer.url, f"{DESKTOPS}?apiKey={user.key}")
    await tab.until("tab.opened == 1")
    veneer.answers(DESKTOPS, lambda _: web.Response(status=204))
    simulator.cut_all()
    await tab.until(CLOSED)
    told = await tab.get("told")
    assert [payload.get("reason") for _, _, payload in told] == ["upstream_ended"]
    assert relay.hub.streams == 0


async def test_parameters_and_case_of_the_content_type_do_not_matter(raw_upstream, user, tab_at):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream;charset=latin1\r\n\r\n"
    raw_upstream.answers = [head + b"id: 1\ndata: a\n\n"]
    _, tab = await tab_at(raw_upstream.url, f"{DESKTOPS}?apiKey={user.key}")
    await tab.until("tab.seen.length == 1")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/event-stream-x"])
async def test_what_is_no_event_stream_never_opens(veneer, user, tab_at, content_type):
    def wrong(_secret):
        answer = web.Response(body=b"data: x\n\n")
        answer.headers["Content-Type"] = content_type
        return answer

    veneer.answers(DESKTOPS, wrong)
    _, tab = await tab_at(veneer.url, f"{DESKTOPS}?apiKey={user.key}")
    await tab.until(CLOSED)
    assert await tab.get("opened") == 0
    assert await tab.get("seen") == []


async def test_a_last_id_beyond_ascii_comes_back_as_it_was(raw_upstream, user, tab_at):
    """The header's value is the id in UTF-8 (section 9.2.4)."""
    raw_upstream.answers = [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        + "id: a\ndata: 1\n\nid: é🖥\ndata: 2\n\n".encode()
    ]
    relay, tab = await tab_at(raw_upstream.url, f"{DESKTOPS}?apiKey={user.key}")
    await tab.until("tab.seen.length == 2")
    relay.hub.end(None, CloseReason.OPERATOR)
    await tab.until("tab.opened == 2")
    (writer,) = raw_upstream.writers
    writer.write("id: ü\ndata: 3\n\n".encode())
    await tab.until("tab.seen.length >= 3")
    assert await tab.get("seen") == ["a", "é🖥", "ü"]
    assert [kind for kind, *_ in await tab.get("told")] == ["closing"], "no gap: it was found"


async def test_a_stream_is_read_as_utf_8_whatever_the_page_is(simulator, user, tab_at):
    _, tab = await tab_at(simulator.url, f"{DESKTOPS}?apiKey={user.key}")
    await tab.until("tab.opened == 1")
    await tab.page.evaluate(
        "() => { streams.one.source.onmessage = (event) => streams.one.seen.push(event.data); }"
    )
    simulator.emit_event(user.id, "desktops", "desktop.status", {"name": "Zoë 🖥"})
    await tab.until("tab.seen.length == 1")
    assert "Zoë 🖥" in (await tab.get("seen"))[0]
