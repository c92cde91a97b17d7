"""The demo page in a real Chromium: what it shows of desktops, of Mission Control, of the relay."""

import pytest
from tests.demo.conftest import more_events, number, tabs_open

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

CREATED = "#feed li[data-type='task.created'] p"
COUNT = "Number(document.querySelector('#count').textContent.match(/(\\d+) events?$/)?.[1] ?? 0)"


async def test_desktops_come_to_life(visit, simulator, complaints) -> None:
    page = await visit()
    await page.wait_for_function("() => document.querySelectorAll('.desktop').length === 3")
    ready = ".desktop[data-status=running] .agent[data-ready=true]:has-text('agent ready')"
    await page.wait_for_selector(ready)
    for meter in ("cpu", "memory", "disk"):
        chart = f"document.querySelector('.desktop .{meter} .line').getAttribute('d')"
        before = await page.evaluate(chart)
        simulator.emit(simulator.user().id, "desktops", 20)
        await page.wait_for_function(f"before => {chart} !== before", arg=before)
        await page.wait_for_function(
            f"() => /^\\d+ %$/.test(document.querySelector('.desktop .{meter} span').textContent)"
        )
    await page.wait_for_selector(f"#curl:has-text('{simulator.user().key}')")
    assert complaints == []


@pytest.mark.parametrize("status", ["running", "booting", "stopped", "error", "hibernating"])
async def test_a_state_is_told_by_word_shape_and_colour(visit, simulator, status) -> None:
    page = await visit()
    told = {"id": "clx-new", "name": "nouveau", "status": status}
    simulator.emit_event(simulator.user().id, "desktops", "desktop.status", told)
    shown = "unknown" if status == "hibernating" else status
    card = page.locator(f".desktop[data-status={shown}]:has(h3:text-is('nouveau'))")
    await card.wait_for()
    assert await card.locator(".status span").inner_text() == shown
    assert await card.locator(".status use").get_attribute("href") == f"#s-{shown}"
    assert await page.locator(f"#s-{shown}").count() == 1


async def test_a_desktop_of_which_nothing_is_known_shows_nothing(visit, simulator) -> None:
    page = await visit()
    simulator.emit_event(
        simulator.user().id, "desktops", "desktop.status", {"id": "clx-new", "name": "nouveau"}
    )
    card = page.locator(".desktop:has(h3:text-is('nouveau'))")
    await card.wait_for()
    assert await card.locator(".disk dd").inner_text() == "–"
    assert await card.locator(".disk .line").get_attribute("d") is None


async def test_a_task_is_followed_from_its_creation_to_its_end(visit, simulator) -> None:
    page = await visit()
    user = simulator.user().id
    task = {"taskId": "t1", "desktopId": "d1"}
    steps = (
        ("task.created", {"content": "Ranger", "requiresApproval": True}, "Task created: Ranger"),
        ("task.started", {}, "Started: Ranger"),
        ("task.review", {}, "Waits for review: Ranger"),
        ("approval.created", {"summary": "Ranger"}, "Approval asked for: Ranger"),
        ("approval.resolved", {"decision": "reject"}, "Approval refused: Ranger"),
        ("task.failed", {"error": "rejected"}, "Failed: Ranger"),
    )
    places = []
    for kind, facts, words in steps:
        simulator.emit_event(user, "activity", kind, task | facts)
        row = page.locator(f"#feed li[data-type='{kind}']:has(p:text-is('{words}'))")
        await row.wait_for()
        places.append(await row.locator(".way .behind").count())
    assert places == [0, 1, 2, 2, 3, 4]
    # A tick beside a refusal would say the opposite to whoever reads shapes.
    refusal = page.locator("#feed li[data-type='approval.resolved']", has_text="refused: Ranger")
    assert await refusal.locator("use").first.get_attribute("href") == "#i-rejected"


async def test_the_feed_is_filtered_by_desktop_and_by_type(visit, simulator, complaints) -> None:
    page = await visit()
    await page.wait_for_function("() => document.querySelectorAll('#by-desktop option').length > 3")
    simulator.emit(simulator.user().id, "desktops", 60)  # or the others are off, and idle
    simulator.emit(simulator.user().id, "activity", 150)
    await page.wait_for_function(f"() => {COUNT} >= 150")
    desktop = await page.locator("#by-desktop option").nth(2).get_attribute("value")

    async def seen(attribute: str) -> set[str]:
        return set(
            await page.eval_on_selector_all(
                "#feed li:not(.nothing)",
                "(all, name) => all.map((each) => each.dataset[name])",
                attribute,
            )
        )

    assert len(await seen("desktop")) > 1
    await page.select_option("#by-desktop", desktop)
    assert await seen("desktop") == {desktop}
    await page.select_option("#by-type", "task.")
    assert all(each.startswith("task.") for each in await seen("type"))
    await page.select_option("#by-type", "task.started")
    assert await seen("type") == {"task.started"}
    # What comes later is held to it, too.
    simulator.emit(simulator.user().id, "activity", 60)
    await page.select_option("#by-desktop", "")
    await page.wait_for_function("() => document.querySelectorAll('#feed li').length > 20")
    assert await seen("type") == {"task.started"}
    await page.select_option("#by-type", "desktop.error")
    simulator.emit_event(simulator.user().id, "activity", "agent.replied", {"desktopId": desktop})
    await page.wait_for_selector("#by-type option[value='agent.replied']", state="attached")
    await page.select_option("#by-type", "agent.replied")
    assert await seen("type") == {"agent.replied"}
    assert complaints == []


def create(simulator, first: int, last: int) -> None:
    for n in range(first, last):
        task = {"taskId": f"n{n}", "desktopId": "d1", "content": f"n{n}"}
        simulator.emit_event(simulator.user().id, "activity", "task.created", task)


async def created(page) -> list[str]:
    """The tasks that `create` made, as the feed shows them, oldest first."""
    await page.select_option("#by-type", "task.created")
    while await page.locator("#older").is_visible():
        await page.click("#older")
    texts = await page.eval_on_selector_all(CREATED, "all => all.map((each) => each.textContent)")
    return [text[14:] for text in reversed(texts) if text.startswith("Task created: n")]


async def test_a_pause_loses_nothing(visit, simulator, complaints) -> None:
    page = await visit()
    create(simulator, 0, 30)
    await page.wait_for_selector(f"{CREATED}:text-is('Task created: n29')")
    await page.click("#pause")
    before = await page.inner_text("#feed")
    create(simulator, 30, 200)
    await page.wait_for_function(
        "() => Number(document.querySelector('#pause').textContent.match(/\\d+/)?.[0]) >= 170"
    )
    assert await page.inner_text("#feed") == before
    await page.click("#pause:has-text('waiting')")
    create(simulator, 200, 210)
    await page.wait_for_selector(f"{CREATED}:text-is('Task created: n209')")
    assert await created(page) == [f"n{n}" for n in range(210)]
    assert complaints == []


async def test_a_pause_that_would_lose_something_ends_by_itself(visit, simulator) -> None:
    page = await visit()
    await page.click("#pause")
    create(simulator, 0, 2000)
    await page.wait_for_selector("#pause:text-is('Pause')")
    await page.wait_for_function(f"() => {COUNT} === 2000")


async def test_six_tabs_are_one_subscription_a_stream(visit, simulator, complaints) -> None:
    page = await visit()
    await page.click("#more")
    await page.wait_for_selector("#headline:has-text('6 tabs open. Le\u00a0Bureau sees one.')")
    await more_events(simulator, page)
    assert await number(page, "upstream") == 2
    assert await number(page, "tabs") == 6
    assert await page.inner_text("#factor") == "× 6"
    assert await number(page, "missed") == 0
    assert await page.locator(".tab[data-state=live]").count() == 6
    await page.wait_for_function(
        """() => {
          const part = (id) => Number(document.getElementById(id).style.getPropertyValue("--part"));
          return part("delivered-bar") === 1 && part("received-bar") < 0.9;
        }"""
    )
    await page.click("#fewer")
    await tabs_open(page, 1)
    assert complaints == []


async def test_twenty_tabs_are_one_subscription_a_stream(visit, simulator, complaints) -> None:
    """All in one browser over HTTP/1.1: each reads under a name of its own, or six would be all."""
    page = await visit()
    for _ in range(4):
        await page.click("#more")
    await tabs_open(page, 21)
    assert await page.is_disabled("#more")
    await more_events(simulator, page)
    await page.wait_for_function(
        "() => document.querySelectorAll('.tab[data-state=live]').length === 21"
    )
    assert {
        simulator.subscriptions_peak(simulator.user().id, s) for s in ("desktops", "activity")
    } == {1}
    assert simulator.subscriptions_opened() == 2
    assert await number(page, "missed") == 0
    assert complaints == []


async def test_a_second_window_is_counted(visit, simulator, complaints) -> None:
    page = await visit()
    async with page.context.expect_page() as opened:
        await page.click("#window")
    second = await opened.value
    await tabs_open(second, 2)
    await tabs_open(page, 2)
    assert await page.locator(".tab.other").count() == 1
    assert simulator.subscriptions_total == 2
    assert complaints == []
