"""Whoever opens the demo page can use it: every width, both schemes, by keyboard, without motion.

axe-core judges by WCAG's rules. What it can't see is measured here: widths, motion, what moves when
values change. Each run keeps screenshots in `.screenshots/`, for a person's eye.
"""

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from tests.demo.conftest import logged, more_events, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SCREENSHOTS = Path(__file__).parents[2] / ".screenshots"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


async def violations(page) -> list[str]:
    found = await Axe().run(page, options=RULES)
    assert len(found.response["passes"]) > 20, "it has looked"
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_every_screen_and_can_be_read(visit, simulator, scheme, complaints) -> None:
    page = await visit(color_scheme=scheme, reduced_motion="reduce")
    await more_events(simulator, page)
    simulator.emit(simulator.user().id, "desktops", 60)
    await page.click("#more")
    await page.click("[data-order=forget]")
    await logged(page, "Mission Control: a gap")
    await page.wait_for_selector(".desktop .disk .line[d]")
    for width in (320, 390, 768, 1280):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        SCREENSHOTS.mkdir(exist_ok=True)
        await page.screenshot(path=SCREENSHOTS / f"demo-{scheme}-{width}.png", full_page=True)
        assert await page.evaluate("document.getAnimations().length") == 0
        assert await page.evaluate(LEAST_CONTRAST) >= 4.5
        if width in {390, 1280}:  # where it is laid out otherwise
            assert await violations(page) == []
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_what_is_broken_can_be_read_too(visit, simulator, scheme) -> None:
    page = await visit(color_scheme=scheme, viewport={"width": 390, "height": 800})
    await more_events(simulator, page)
    await page.click("#pause")
    for order, state in (("slow", "slow"), ("offline", "offline"), ("withdraw", "ended")):
        await page.click(f"[data-order={order}]")
        if order == "withdraw":
            await page.click("[data-order=online]")
        await page.wait_for_selector(f"#connection[data-state={state}]")
        await page.screenshot(path=SCREENSHOTS / f"demo-{scheme}-{state}.png", full_page=True)
        assert await page.evaluate(LEAST_CONTRAST) >= 4.5
        assert await violations(page) == []


async def test_the_scheme_can_be_chosen_and_is_remembered(visit) -> None:
    page = await visit(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(paper)
    await page.click("#theme[aria-pressed=false]")
    await page.wait_for_selector("#theme[aria-pressed=true]")
    dark = await page.evaluate(paper)
    assert dark != light
    await page.reload()
    await page.wait_for_selector("#theme[aria-pressed=true]")
    assert await page.evaluate(paper) == dark
    await page.click("#theme")
    assert await page.evaluate(paper) == light


async def test_motion_is_there_for_who_wants_it(visit, simulator) -> None:
    """Or its absence elsewhere would say nothing."""
    page = await visit(reduced_motion="no-preference")
    await page.evaluate(
        """() => {
          window.ran = 0;
          const { animate } = Element.prototype;
          Element.prototype.animate = function (...all) {
            ran += 1;
            return animate.apply(this, all);
          };
        }"""
    )
    await more_events(simulator, page)
    assert await page.evaluate("ran") > 0


PLACES = """() => {
  const parts = ["header", ".story", "figure", ".numbers", ".note", ".faults", ".orders", ".wall",
    "#desktops", ".mission", ".scroll", ".orders button:nth-child(5)",
    ".orders button:nth-child(6)", "#pause", "#connection"];
  return Object.fromEntries(parts.map((part) => {
    const { x, y, width } = document.querySelector(part).getBoundingClientRect();
    return [part, [x, y + scrollY, width].map(Math.round).join(" ")];
  }));
}"""


@pytest.mark.parametrize("width", [390, 1280])
async def test_nothing_moves_when_values_change(browser, stage, simulator, width) -> None:
    page = await browser.new_page(viewport={"width": width, "height": 900})
    await page.add_init_script(
        f"addEventListener('DOMContentLoaded', () => {{ window.first = ({PLACES})(); }})"
    )
    await page.goto(stage.url)
    await page.wait_for_selector("#connection[data-state=live]")
    simulator.emit(simulator.user().id, "desktops", 60)
    await more_events(simulator, page)
    await page.wait_for_selector(".desktop .disk .line[d]")
    for order in ("pause", "cut", "slow", "offline", "withdraw"):
        await page.click(f"#{order}" if order == "pause" else f"[data-order={order}]")
    await page.wait_for_selector("[data-order=give-back]")
    await page.wait_for_selector("#headline:has-text('No tab')")
    await until(stage._flood.done)
    await page.evaluate("scrollTo(0, 0)")
    places = await page.evaluate(PLACES)
    assert places == await page.evaluate("first")


async def test_everything_is_reached_by_keyboard(visit) -> None:
    page = await visit()
    reached = []
    for _ in range(24):
        await page.keyboard.press("Tab")
        reached.append(
            await page.evaluate(
                """(() => {
                  const { activeElement: at } = document;
                  const { outlineStyle, outlineWidth } = getComputedStyle(at);
                  if (at !== document.body && (outlineStyle === "none" || outlineWidth === "0px"))
                    throw new Error(`focus can't be seen on ${at.outerHTML}`);
                  return at.id || at.dataset.order || at.className;
                })()"""
            )
        )
    buttons = ["cut", "silence", "restart", "forget", "withdraw", "slow", "offline"]
    expected = [
        "theme",
        "more",
        "window",
        *buttons,
        "log",
        "by-desktop",
        "by-type",
        "pause",
        "scroll",
    ]
    assert [each for each in reached if each in expected][: len(expected)] == expected
    await page.focus("#more")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#headline:has-text('6 tabs')")
    await page.focus("[data-order=offline]")
    await page.keyboard.press("Space")
    await page.wait_for_selector("#connection[data-state=offline]")
    assert await page.evaluate("document.activeElement.dataset.order") == "online"


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
