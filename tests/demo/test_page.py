"""The demo page in a real Chromium: what it shows, and that what it shows is so."""

import re

import pytest

pytestmark = pytest.mark.browser


async def number(page, name: str) -> int:
    return int(re.sub(r"\D", "", await page.inner_text(f"#{name}")))


async def gaps(stage) -> int:
    """What the relay has told; the page's own number may be a second old."""
    return (await stage.state())["relay"]["totals"]["gaps"]


async def logged(page, words: str) -> None:
    await page.wait_for_selector(f"#log li:has-text('{words}')")


async def more_events(simulator, page) -> None:
    """Let something happen on both streams, and see it arrive."""
    for stream in ("desktops", "activity"):
        simulator.emit(simulator.user().id, stream, 10)
    await next_event(page)


async def next_event(page) -> None:
    """Wait until Mission Control has something new."""
    await page.evaluate("document.querySelector('#feed').firstElementChild.id = 'seen'")
    await page.wait_for_selector("#feed li:first-child:not(#seen)")


async def test_desktops_and_tasks_come_to_life(visit, simulator, complaints) -> None:
    page = await visit()
    await page.wait_for_function("() => document.querySelectorAll('.desktop').length === 3")
    await page.wait_for_selector(".desktop[data-status=running] .agent[data-ready=true]")
    await page.wait_for_function(
        "() => /\\d+ %/.test(document.querySelector('.desktop .cpu span').textContent)"
    )
    await page.wait_for_selector("#feed li[data-type^='task.']")
    for _ in range(10):
        simulator.emit(simulator.user().id, "activity", 20)
    await page.wait_for_function("() => document.querySelectorAll('#feed li').length === 60")
    await page.wait_for_selector(f"#curl:has-text('{simulator.user().key}')")
    assert complaints == []


async def test_a_disk_of_which_nothing_is_known_is_not_shown_as_full(visit) -> None:
    page = await visit()
    track, used = await page.evaluate("""() => {
      const card = document.querySelector("template").content.firstElementChild.cloneNode(true);
      document.querySelector("#desktops").append(card);
      return [".track", ".track i"].map((part) => card.querySelector(part).clientWidth);
    }""")
    assert track > 20
    assert used == 0


async def test_six_tabs_are_one_subscription_a_stream(visit, simulator, complaints) -> None:
    page = await visit()
    await page.click("#more")
    await page.wait_for_selector("#headline:has-text('6 tabs open. Le\u00a0Bureau sees one.')")
    await more_events(simulator, page)
    assert await number(page, "upstream") == 2
    assert await number(page, "tabs") == 6
    assert {
        simulator.subscriptions_peak(simulator.user().id, s) for s in ("desktops", "activity")
    } == {1}
    assert await number(page, "missed") == 0
    assert await page.locator(".tab[data-state=live]").count() == 6
    await page.click("#fewer")
    await page.wait_for_selector("#headline:has-text('1 tab open')")
    assert complaints == []


async def test_a_second_window_is_counted(visit, simulator, complaints) -> None:
    page = await visit()
    async with page.context.expect_page() as opened:
        await page.click("#window")
    second = await opened.value
    await second.wait_for_selector("#headline:has-text('2 tabs open')")
    await page.wait_for_selector("#headline:has-text('2 tabs open')")
    assert await page.locator(".tab.other").count() == 1
    assert simulator.subscriptions_total == 2
    assert complaints == []


async def test_a_cut_upstream_goes_unnoticed(visit, stage, simulator, complaints) -> None:
    page = await visit()
    await page.click("#more")
    await page.wait_for_selector("#headline:has-text('6 tabs')")
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
    await page.click("[data-order=forget]")
    await logged(page, "Mission Control: a gap. Le Bureau could not continue")
    await page.wait_for_selector("#feed li[data-type='relay.gap']")
    await page.wait_for_function("() => Number(document.querySelector('#gaps').textContent) >= 2")
    assert complaints == []


async def test_tabs_survive_a_restart_of_the_relay(visit, stage, simulator) -> None:
    page = await visit()
    await page.click("#more")
    await page.wait_for_selector("#headline:has-text('6 tabs')")
    await more_events(simulator, page)
    await page.click("[data-order=restart]")
    await logged(
        page, "Desktops: the relay closes the stream, because the relay is being restarted"
    )
    await logged(page, "Desktops: back, and resumed after")
    await logged(page, "Mission Control: back, and resumed after")
    await page.wait_for_function(
        "() => document.querySelectorAll('.tab[data-state=live]').length === 6"
    )
    await more_events(simulator, page)
    assert await number(page, "missed") == 0
    assert await gaps(stage) == 0


async def test_a_withdrawn_key_ends_the_streams_and_a_new_one_resumes_them(
    visit, simulator, complaints
) -> None:
    page = await visit()
    await more_events(simulator, page)
    await page.click("[data-order=withdraw]")
    await page.wait_for_selector("#connection[data-state=ended]:has-text('no valid key')")
    await page.wait_for_selector("#headline:has-text('No tab is being served')")
    simulator.emit(simulator.user().id, "desktops", 3)
    await page.click("[data-order=give-back]")
    await page.wait_for_selector("#connection[data-state=live]")
    await logged(page, "Desktops: back, and resumed after")
    assert await number(page, "missed") == 0
    assert complaints == []


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_every_screen_and_can_be_read(visit, width, scheme, complaints) -> None:
    page = await visit(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    await page.wait_for_selector("#feed li[data-type]")
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await page.evaluate("document.getAnimations().length") == 0
    assert await page.evaluate(LEAST_CONTRAST) >= 4.5
    assert complaints == []


async def test_everything_is_reached_by_keyboard(visit) -> None:
    page = await visit()
    reached = []
    for _ in range(12):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.innerText.split('\\n')[0]"))
    for name in ("Open five more tabs", "Cut upstream", "Make it forget", "Restart the relay"):
        assert name in reached
    await page.focus("#more")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#headline:has-text('6 tabs')")


# WCAG 2.2, success criterion 1.4.3, over every text on the page against the nearest background.
LEAST_CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    throw new Error("nothing behind");
  };
  const texts = [...document.body.querySelectorAll("*")].filter((element) =>
    element.checkVisibility()
    && [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
    && element.closest("template") === null && !element.closest("button:disabled"));
  return Math.min(...texts.map((element) => {
    const [one, two] = [rgb(getComputedStyle(element).color), behind(element)].map(light);
    return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  }));
}"""
