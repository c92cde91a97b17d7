"""Every button of the demo that breaks something: what happens, what is told, and the way back."""

import asyncio

import pytest
from tests.demo.conftest import gaps, logged, more_events, next_event, number, tabs_open, until

from lebureau_relay.demo.stage import Order

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_a_cut_upstream_goes_unnoticed(visit, stage, simulator, complaints) -> None:
    page = await visit()
    await page.click("#more")
    await tabs_open(page, 6)
    await more_events(simulator, page)
    await page.click("[data-order=cut]")
    await logged(page, "asked anew")
    await more_events(simulator, page)
    assert simulator.subscriptions_opened() >= 4
    assert await gaps(stage) == 0
    assert await number(page, "missed") == 0
    assert await page.locator("#log li:has-text('gap')").count() == 0
    assert await page.get_attribute("#connection", "data-state") == "live"
    assert complaints == []


async def test_silence_is_found_out(visit, stage, simulator, complaints) -> None:
    page = await visit()
    # Between two events of its own pace upstream beats, by which the relay learns that it does.
    for _ in range(3):
        await next_event(page)
    await page.click("[data-order=silence]")
    await logged(page, "asked anew")
    await more_events(simulator, page)
    assert await number(page, "missed") == 0
    assert await gaps(stage) == 0
    assert complaints == []


async def test_what_upstream_forgot_is_told_in_plain_words(visit, simulator, complaints) -> None:
    page = await visit()
    await more_events(simulator, page)
    await page.select_option("#by-type", "approval.created")
    await page.click("[data-order=forget]")
    await logged(page, "Mission Control: a gap. Le Bureau could not continue")
    await logged(page, "Desktops: a gap. Le Bureau could not continue")
    # Whatever the feed is filtered by.
    await page.wait_for_selector("#feed li[data-type='relay.gap']")
    await page.wait_for_function("() => Number(document.querySelector('#gaps').textContent) >= 2")
    assert complaints == []


async def test_tabs_survive_a_restart_of_the_relay(visit, stage, simulator) -> None:
    page = await visit()
    await page.click("#more")
    await tabs_open(page, 6)
    await more_events(simulator, page)
    await page.click("[data-order=restart]")
    await logged(page, "Desktops: the relay closes the stream, because the relay is being stopped")
    await logged(page, "Desktops: back, and resumed after event")
    await logged(page, "Mission Control: back, and resumed after event")
    await logged(page, "The relay has restarted")
    await page.wait_for_function(
        "() => document.querySelectorAll('.tab[data-state=live]').length === 6"
    )
    await more_events(simulator, page)
    assert stage.restarts == 1
    assert await number(page, "missed") == 0
    assert await gaps(stage) == 0


async def test_a_revoked_key_ends_the_streams_and_a_new_one_resumes_them(
    visit, simulator, complaints
) -> None:
    page = await visit()
    await more_events(simulator, page)
    await page.click("[data-order=withdraw]:has-text('Revoke the key')")
    await page.wait_for_selector("#connection[data-state=ended]:has-text('no valid key')")
    await page.wait_for_selector("#headline:has-text('No tab is being served')")
    await logged(page, "because the key was revoked")
    await page.click("[data-order=slow]")
    await logged(page, "This tab reads nothing just now")
    simulator.emit(simulator.user().id, "desktops", 3)
    await page.click("[data-order=give-back]:has-text('Give a new key')")
    await page.wait_for_selector("#connection[data-state=live]")
    await logged(page, "Desktops: back, and resumed after event")
    await page.wait_for_selector("[data-order=withdraw]")
    assert await number(page, "missed") == 0
    assert complaints == []


async def test_a_tab_that_stops_reading_holds_up_nobody(visit, stage, simulator, complaints):
    page = await visit()
    await page.click("#more")
    await tabs_open(page, 6)
    await more_events(simulator, page)
    await page.click("[data-order=slow]")
    await page.wait_for_selector("#connection[data-state=slow]:has-text('not reading')")
    assert await page.locator(".wall .stale").is_visible()
    assert await page.locator(".tab.mine[data-state=slow]").count() == 1
    await until(stage._flood.done)
    assert await number(page, "missed") == 0
    assert await gaps(stage) == 0
    await page.click("[data-order=read-on]")
    await logged(page, "Desktops: a gap. This page read too slowly")
    await logged(page, "The other 5 tabs had everything.")
    await page.wait_for_selector("#connection[data-state=live]")
    await page.wait_for_selector("[data-order=slow]")
    assert await gaps(stage) == 1
    assert await number(page, "missed") > 0
    assert complaints == []


@pytest.mark.parametrize("stream_settings", [{"write_timeout": 2}])
async def test_a_tab_that_reads_nothing_for_too_long_is_let_go_and_comes_back(
    visit, simulator
) -> None:
    page = await visit()
    await more_events(simulator, page)
    await page.click("[data-order=slow]")
    await logged(page, "The relay has let this tab’s Desktops go")
    await page.click("[data-order=read-on]")
    await page.wait_for_selector("#connection[data-state=live]")
    await logged(page, "Desktops: back, and resumed after event")
    assert await number(page, "missed") == 0


async def test_numbers_of_before_it_was_held_say_nothing_of_a_tab(visit, simulator) -> None:
    """Its old stream had ended and its new one not begun when the relay counted."""
    page = await visit()
    await more_events(simulator, page)
    counted, held = asyncio.Event(), asyncio.Event()

    async def late(route) -> None:
        answer = await route.fetch()
        state = await answer.json()
        state["relay"]["subscribers"]["desktops"] = 0
        counted.set()
        await held.wait()
        await route.fulfill(response=answer, json=state)

    await page.route("**/demo/state", late, times=1)
    await counted.wait()
    await page.click("[data-order=slow]")
    await page.wait_for_selector("#connection[data-state=slow]")
    for _ in range(2):  # the second is asked for when the first is shown
        async with page.expect_response("**/demo/state"):
            held.set()
    assert await page.locator("#log li:has-text('has let this tab')").count() == 0


async def test_a_short_halt_loses_nothing(visit, stage, simulator, complaints, monkeypatch) -> None:
    monkeypatch.setattr("lebureau_relay.demo.stage._FLOOD_STEPS", 0)
    page = await visit()
    await more_events(simulator, page)
    await page.click("[data-order=slow]")
    await page.wait_for_selector("#connection[data-state=slow]")
    simulator.emit(simulator.user().id, "desktops", 25)
    await page.click("[data-order=read-on]")
    await logged(page, "had waited for this tab; nothing was lost")
    await page.wait_for_selector("#connection[data-state=live]")
    await more_events(simulator, page)
    assert await number(page, "missed") == 0
    assert await gaps(stage) == 0
    assert complaints == []


async def test_a_window_goes_offline_and_comes_back(visit, stage, simulator, complaints) -> None:
    page = await visit()
    await page.click("#more")
    await tabs_open(page, 6)
    await more_events(simulator, page)
    await page.click("[data-order=offline]")
    await page.wait_for_selector("#connection[data-state=offline]:has-text('offline')")
    await page.wait_for_selector("#headline:has-text('No tab is being served')")
    assert simulator.subscriptions_total == 2, "the relay listens on for them"
    for stream in ("desktops", "activity"):
        simulator.emit(simulator.user().id, stream, 30)
    await page.click("[data-order=online]:has-text('Come back')")
    await logged(page, "Desktops: back, and resumed after event")
    await logged(page, "Mission Control: back, and resumed after event")
    await tabs_open(page, 6)
    assert await number(page, "missed") == 0
    assert await gaps(stage) == 0
    assert simulator.subscriptions_opened() == 2
    assert complaints == []


async def test_a_browser_without_network_comes_back(visit, stage, simulator) -> None:
    """Chromium lets open streams be when its network goes, so they end by a restart meanwhile."""
    page = await visit()
    await more_events(simulator, page)
    await page.context.set_offline(True)
    await logged(page, "the network is gone")
    stage.order(Order.RESTART)
    await page.wait_for_selector("#connection[data-state=reconnecting]")
    await page.wait_for_selector("#headline:has-text('This browser has no network')")
    await until(lambda: stage.restarts)
    for stream in ("desktops", "activity"):
        simulator.emit(simulator.user().id, stream, 30)
    await page.context.set_offline(False)
    await logged(page, "the network is back")
    await logged(page, "Desktops: back, and resumed after event")
    await logged(page, "Mission Control: back, and resumed after event")
    await page.wait_for_selector("#connection[data-state=live]")
    assert await number(page, "missed") == 0
    assert await gaps(stage) == 0


async def test_a_demo_that_has_ended_is_told(visit, stage) -> None:
    page = await visit()
    await stage.close()
    await page.wait_for_selector("#headline:has-text('Is the demo still running?')")
    await page.wait_for_selector("#connection[data-state=reconnecting]")


async def test_a_refusal_is_told_once_and_overcome(visit, stage, simulator) -> None:
    page = await visit()
    await more_events(simulator, page)
    simulator.fault("503")  # whatever is asked upstream from now on
    stage.order(Order.RESTART)
    await logged(page, "Desktops: refused for now, because Le Bureau can’t be reached")
    await page.wait_for_selector("#connection[data-state=refused]:has-text('refused for now')")
    async with asyncio.timeout(20):
        while (await stage.state())["relay"]["totals"]["refusals"] < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await page.locator("#log li:has-text('Desktops: refused')").count() == 1
    assert await page.get_attribute("#connection", "data-state") == "refused"
    simulator.clear_faults()
    await page.wait_for_selector("#connection[data-state=live]")
    await more_events(simulator, page)
    assert await number(page, "missed") == 0
