"""Other origins and session cookies, from a browser's first byte to what upstream sees.

The rules one by one are held by tests/edge/test_cors.py and test_credentials.py; this is the whole
relay, with upstream counting, and a real Chromium with pages of two sites.
"""

import json
import shutil

import pytest
from playwright.async_api import async_playwright
from tests.e2e.clients import DESKTOPS, SseClient, ask, eventually
from tests.e2e.conftest import CHROMIUM, pages
from tests.hardening.conftest import who

PAGE = "https://app.example"
SESSION = "__Secure-lebureau.session"
CORS_FIELDS = ("access-control-allow-origin", "access-control-allow-credentials")
BROWSER = [("Accept", "text/event-stream"), ("Sec-Fetch-Mode", "cors")]


@pytest.fixture
async def relay(serve, simulator):
    return await serve(
        simulator.url,
        cors={"allowed_origins": [PAGE]},
        limits={"streams_per_user": 1},
        auth={"identity_path": "/v1/me"},
    )


def asked(simulator, path=DESKTOPS):
    return [request for request in simulator.requests if request.path == path]


async def every_answer(relay, user, origin):
    """A reply of each kind there is, as a page of this origin would get it; and its name."""
    sent = [("Origin", origin)] if origin else []
    stream = await SseClient.connect(relay.public_url, key=user.key, headers=sent)
    await eventually(lambda: stream.status or stream.closed)
    yield "stream", stream.headers
    for name, request in {
        "too many": {"key": user.key},
        "softly": {"path": f"{DESKTOPS}?apiKey={user.key}", "headers": BROWSER},
        "missing": {},
        "invalid": {"key": "lb_k_of_no_use"},
        "forbidden": {"key": user.limited_key},
        "conflicting": {"key": user.key, "path": f"{DESKTOPS}?apiKey=x"},
        "head": {"key": user.key, "method": "HEAD"},
        "preflight": {"method": "OPTIONS"},
        "method": {"method": "POST", "key": user.key},
        "path": {"path": "/nowhere"},
        "expect": {"headers": [("Expect", "the unexpected")]},
    }.items():
        headers = (*request.pop("headers", ()), *sent)
        yield name, (await ask(relay.public_url, headers=headers, **request)).headers
    stream.close()


async def test_every_answer_to_an_allowed_page_may_be_read_by_it(relay, user):
    async for name, headers in every_answer(relay, user, PAGE):
        assert [headers.get(field) for field in CORS_FIELDS] == [PAGE, "true"], name
        assert headers["vary"] == "Origin", name


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "*", "https://app.example.evil.example", ""]
)
async def test_no_answer_may_be_read_by_others_and_caches_are_warned(relay, user, origin):
    async for name, headers in every_answer(relay, user, origin):
        assert not any(field in headers for field in CORS_FIELDS), name
        assert headers["vary"] == "Origin", name


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://app.example"])
@pytest.mark.parametrize("credential", ["key", "cookie"])
async def test_a_foreign_page_causes_nothing_upstream(simulator, user, relay, origin, credential):
    lent = {credential: getattr(user, credential)}
    reply = await ask(relay.public_url, headers=[("Origin", origin)], **lent)
    assert (reply.status, reply.code) == (403, "origin_not_allowed")
    assert simulator.requests == ()


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_cookie_is_not_lent_to_other_sites(simulator, user, relay, connect, site):
    fields = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "no-cors")]
    for method in ("GET", "HEAD"):
        reply = await ask(relay.public_url, cookie=user.cookie, headers=fields, method=method)
        assert reply.status == 403
    assert simulator.requests == ()
    allowed = await connect(relay, cookie=user.cookie, headers=[("Origin", PAGE), *fields])
    assert allowed.headers["access-control-allow-origin"] == PAGE


# Cookies upstream


async def test_only_session_cookies_travel_and_in_order_of_name(simulator, user, relay, connect):
    jar = [
        ("Cookie", f"zz=1; {SESSION}={user.cookies[0]}; _ga=GA1.2.3"),
        ("Cookie", "__Host-b=2; lb_k_theme=x; __Host-a=1; __host-c=3; __SecureX=4"),
    ]
    await connect(relay, headers=jar)
    expected = f"__Host-a=1; __Host-b=2; {SESSION}={user.cookies[0]}"
    assert {request.headers["Cookie"] for request in simulator.requests} == {expected}
    assert {request.path for request in simulator.requests} == {DESKTOPS, "/v1/me"}


async def test_an_explicit_key_leaves_the_cookies_at_home(simulator, user, relay, connect):
    other = simulator.user(2)
    await connect(relay, key=user.key, cookie=other.cookie)
    for request in simulator.requests:
        assert request.headers["x-api-key"] == user.key
        assert "Cookie" not in request.headers


async def test_production_names_the_one_cookie(serve, simulator, user, connect):
    relay = await serve(simulator.url, auth={"cookie_pattern": f"^{SESSION.replace('.', '[.]')}$"})
    await connect(relay, cookie=f"__Host-a=1; {user.cookie}")
    assert asked(simulator)[0].headers["Cookie"] == user.cookie
    reply = await ask(relay.public_url, cookie="__Host-a=1")
    assert reply.code == "missing_credential"


async def test_a_rotated_cookie_keeps_the_feed(serve, simulator, user, connect):
    relay = await serve(simulator.url, auth={"identity_path": "/v1/me"})
    old, new = (f"{SESSION}={value}" for value in user.cookies)
    first = await connect(relay, cookie=old)
    simulator.emit(user.id, "desktops", 2)
    await first.has(2)
    second = await connect(relay, cookie=new, cursor=first.ids[0])
    assert [block.id for block in await second.has(1)] == first.ids[1:]
    assert second.gaps == []
    assert simulator.subscriptions_opened() == 1
    # The old one goes, as rotation has it; upstream goes on with the new one, and nobody is cut.
    first.close()
    await eventually(lambda: relay.hub.streams == 1)
    simulator.revoke(user.cookies[0], cut=True)
    await simulator.until(lambda: simulator.open_subscriptions(user.id, "desktops") == 1)
    simulator.emit(user.id, "desktops", 1)
    await second.has(2)
    assert asked(simulator)[-1].headers["Cookie"] == new
    assert simulator.subscriptions_peak(user.id, "desktops") == 1


async def test_without_an_identity_path_another_cookie_is_another_feed(
    simulator, user, serve, connect
):
    relay = await serve(simulator.url)
    for value in user.cookies:
        await connect(relay, cookie=f"{SESSION}={value}")
    assert simulator.subscriptions_opened() == 2


@pytest.mark.parametrize("path", ["identity_path", "probe_path"])
async def test_a_probe_that_sets_a_cookie_is_the_last_one(upstream, program, path):
    """Each would rotate the session unseen by its browser, which would be logged out."""

    def answer(head: bytes) -> bytes:
        if b"Cookie:" in head:
            return who("anna", "Set-Cookie: __Host-session=rotated-unseen; Path=/; Secure")
        return who("bert")

    upstream.answer = answer
    settings = {"AUTH__IDENTITY_PATH": "", "AUTH__RECHECK_INTERVAL": 0.2}
    settings[f"AUTH__{path.upper()}"] = "/v1/ask"
    relay = await (await program(upstream.url, settings=settings)).started()
    clients = [
        await SseClient.connect(relay.public_url, cookie="__Host-session=of-the-browser"),
        await SseClient.connect(relay.public_url, key="lb_k_of_bert"),
    ]
    for client in clients:
        await client.opened()

    def probes(of: bytes) -> int:
        return sum(of in head for head in upstream.questions)

    await eventually(lambda: probes(b"of-the-browser"))
    seen = probes(b"lb_k_of_bert")
    await eventually(lambda: probes(b"lb_k_of_bert") >= seen + 4, 10, "others are asked about")
    assert probes(b"of-the-browser") == 1
    (warning,) = relay.said("identity.probing_ended")
    assert warning["level"] == "warning"
    assert warning["path"] == "/v1/ask"
    assert "rotated-unseen" not in relay.stderr
    assert not any(b"rotated-unseen" in head for head in upstream.questions + upstream.streams)
    for client in clients:
        assert not client.closed
        assert b"rotated-unseen" not in client.raw
        client.close()


# In a real browser: one relay, its own page, and a page of another site

TAB = """<!doctype html><title>tab</title><link rel="icon" href="data:,"><script>
const tab = { opened: 0, seen: [], state: () => tab.source.readyState };
function open(url, withCredentials) {
  tab.source = new EventSource(url, { withCredentials });
  tab.source.onopen = () => { tab.opened += 1; };
  tab.source.onmessage = (event) => tab.seen.push(event.lastEventId);
}
function image(url) {
  return new Promise((done) => {
    const image = new Image();
    image.onerror = image.onload = () => done();
    image.src = url;
  });
}
</script>"""
CLOSED = "tab.source && tab.source.readyState === EventSource.CLOSED"


@pytest.fixture
def lending(tmp_path):
    """A browser's profile whose user lets cookies go along with what other sites ask for: this
    Chromium would not, many browsers do.
    """
    preferences = tmp_path / "Default" / "Preferences"
    preferences.parent.mkdir()
    choice = {"cookie_controls_mode": 0, "block_third_party_cookies": False}
    preferences.write_text(json.dumps({"profile": choice}))
    return tmp_path


@pytest.fixture
async def profile(lending):
    """A Chromium with that profile."""
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            lending, executable_path=shutil.which("chromium"), args=CHROMIUM
        )
        yield context
        await context.close()


@pytest.fixture
async def web(profile, serve, simulator, user):
    """`127.0.0.1` is the relay's site, where the user is logged in, and `localhost` another one.

    Chromium sends secure cookies to both, since nobody can listen in between.
    """
    page = pages({"/tab": ("text/html", TAB)})

    async def start(*allowed: str):
        other = await serve(simulator.url, page)
        foreign = other.public_url.replace("127.0.0.1", "localhost")
        sibling = other.public_url
        origins = {"localhost": foreign, "127.0.0.1": sibling}
        relay = await serve(
            simulator.url,
            page,
            cors={"allowed_origins": [origins[name] for name in allowed]},
            auth={"identity_path": "/v1/me"},
        )
        await log_in(profile, relay, user.cookies[0])
        tabs = {}
        for name, url in {"own": relay.public_url, **origins}.items():
            tabs[name] = await profile.new_page()
            await tabs[name].goto(f"{url}/tab")
        return relay, tabs

    return start


async def log_in(context, relay, value):
    """Give the browser a session cookie that goes along from everywhere."""
    cookie = {"name": SESSION, "value": value, "url": relay.public_url.replace("http:", "https:")}
    await context.add_cookies([{**cookie, "secure": True, "httpOnly": True, "sameSite": "None"}])


async def until(page, condition):
    await page.wait_for_function(condition, timeout=15_000)


@pytest.mark.browser
async def test_the_relays_own_page_is_logged_in_by_its_cookie(web, simulator, user):
    relay, tabs = await web()
    await tabs["own"].evaluate("url => open(url, false)", relay.public_url + DESKTOPS)
    await until(tabs["own"], "tab.opened === 1")
    simulator.emit(user.id, "desktops", 2)
    await until(tabs["own"], "tab.seen.length === 2")
    assert asked(simulator)[0].headers["Cookie"] == user.cookie


@pytest.mark.browser
@pytest.mark.parametrize("site", ["localhost", "127.0.0.1"])
async def test_a_page_elsewhere_needs_leave_to_use_the_cookie(web, simulator, user, counts, site):
    relay, tabs = await web(site)
    url = relay.public_url + DESKTOPS
    refused = next(name for name in ("localhost", "127.0.0.1") if name != site)
    await tabs[refused].evaluate("url => open(url, true)", url)
    await until(tabs[refused], CLOSED)
    await counts(relay, 1, "connects_total", outcome="origin_not_allowed")
    assert simulator.requests == ()
    await tabs[site].evaluate("url => open(url, true)", url)
    await until(tabs[site], "tab.opened === 1")
    simulator.emit(user.id, "desktops", 2)
    await until(tabs[site], "tab.seen.length === 2")
    assert asked(simulator)[0].headers["Cookie"] == user.cookie
    assert await tabs[refused].evaluate("tab.opened") == 0


@pytest.mark.browser
@pytest.mark.parametrize("site", ["localhost", "127.0.0.1"])
async def test_an_image_or_a_silent_fetch_elsewhere_spends_none_of_the_users_streams(
    web, simulator, counts, site
):
    relay, tabs = await web()
    url = relay.public_url + DESKTOPS
    await tabs[site].evaluate("url => image(url)", url)
    await tabs[site].evaluate(
        "url => fetch(url, { mode: 'no-cors', credentials: 'include' }).then(() => 0, () => 0)", url
    )
    await counts(relay, 2, "connects_total", outcome="origin_not_allowed")
    assert simulator.requests == ()


@pytest.mark.browser
async def test_a_rotated_cookie_keeps_the_feed_in_a_browser(web, simulator, user):
    relay, tabs = await web()
    url = relay.public_url + DESKTOPS
    await tabs["own"].evaluate("url => open(url, false)", url)
    await until(tabs["own"], "tab.opened === 1")
    await log_in(tabs["own"].context, relay, user.cookies[1])
    second = await tabs["own"].context.new_page()
    await second.goto(f"{relay.public_url}/tab")
    await second.evaluate("url => open(url, false)", url)
    await until(second, "tab.opened === 1")
    assert simulator.subscriptions_opened() == 1
    sent = {request.headers["Cookie"] for request in simulator.requests}
    assert sent == {f"{SESSION}={value}" for value in user.cookies}
    simulator.emit(user.id, "desktops", 1)
    for page in (tabs["own"], second):
        await until(page, "tab.seen.length === 1")
