"""The page as a person sees it, in a real Chromium; screenshots are left in the test's folder."""

import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from popsteer import orders as order_book
from popsteer import overview as overviews
from popsteer.orders import Order, OrderKind, Orders
from popsteer.overview import HeartbeatView

CHROMIUM = os.environ.get("POPSTEER_CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZE = {"width": 1280, "height": 800}

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: set POPSTEER_CHROMIUM or put chromium on the PATH"
    ),
    pytest.mark.asyncio(loop_scope="module"),  # one browser for all, so one loop for all
]


class Published(Protocol):
    """See conftest."""

    store: Any
    clock_ms: int

    def change_pop(self, pop: str, **changes: object) -> None:
        """As the planner rewrites the POP state."""

    def publish(self, generation: int) -> None:
        """The same answers under another generation."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(serve: Callable[[], AbstractAsyncContextManager[str]]) -> AsyncIterator[str]:
    async with serve() as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser, page: str) -> AsyncIterator[Page]:
    """A tab that fails its test when anything is wrong on the console or asked for elsewhere."""
    opened = await browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
    wrong: list[str] = []
    opened.on("console", lambda said: wrong.append(said.text) if said.type != "log" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith(page) else wrong.append(asked.url),
    )
    yield opened
    await opened.context.close()
    assert wrong == []


@pytest.fixture
def nothing_published(published: Published) -> None:
    published.store.objects.clear()


def names(tab: Page) -> Any:
    return tab.locator("#rows th")


async def test_it_shows_every_pop_and_how_old_it_is(tab: Page, page: str, tmp_path: Path) -> None:
    await tab.goto(page)
    await expect(tab.get_by_role("status")).to_have_text("● Fresh")
    await expect(names(tab)).to_have_count(3)
    await expect(tab.locator("#data-age")).to_have_text(re.compile(r"^1\d s$"))
    await expect(tab.locator("#table-age")).to_have_text(re.compile(r"^7, 2\d s$"))
    await expect(tab.locator("#counts")).to_have_text("3 Up")
    lon1 = tab.locator("#rows tr", has_text="lon1")
    await expect(lon1).to_contain_text("15.0 / 30")
    await expect(lon1.locator(".value")).to_have_text(["30%", "33%"])
    await tab.screenshot(path=tmp_path / "light.png")


async def test_changes_arrive_by_themselves_and_the_worst_comes_first(
    tab: Page, page: str, published: Published, tmp_path: Path
) -> None:
    await tab.goto(page)
    await expect(names(tab)).to_have_count(3)
    published.change_pop("lon1", up=False, reason="no TCP answer")
    published.change_pop("fra1", shed=0.25)
    await expect(names(tab)).to_have_text(["lon1", "fra1", "par1"])
    first = tab.locator("#rows tr").first
    await expect(first).to_contain_text("Down")
    await expect(first).to_contain_text("no TCP answer")
    shape = "getComputedStyle(document.querySelector('#rows .state'), '::before').content"
    assert await tab.evaluate(shape) == '"✖"'
    await expect(tab.locator("#rows tr").nth(1)).to_contain_text("Shedding")
    await tab.screenshot(path=tmp_path / "worst.png")


async def test_stale_outranks_green(
    tab: Page, page: str, published: Published, tmp_path: Path
) -> None:
    await tab.goto(page)
    await expect(tab.get_by_role("status")).to_have_text("● Fresh")
    published.clock_ms += 20_000
    await expect(tab.get_by_role("status")).to_have_text("✖ STALE")
    await expect(tab.locator("#problems")).to_contain_text("the planner has been silent for 21 s")
    await expect(tab).to_have_title("STALE · popsteer")
    up = "getComputedStyle(document.querySelector('.state.up')).color"
    stale_colour = await tab.evaluate(up)
    await tab.screenshot(path=tmp_path / "stale.png")
    published.clock_ms -= 20_000
    await expect(tab.get_by_role("status")).to_have_text("● Fresh")
    assert await tab.evaluate(up) != stale_colour


async def test_a_stream_that_stands_still_grows_old_and_is_named(
    tab: Page, page: str, published: Published, tmp_path: Path
) -> None:
    seen = overviews.decode(published.store.objects[overviews.KEY])
    heard_ms = {
        "popsteer-bulk": seen.created_ms - 9_000,
        "popsteer-urgent": seen.created_ms - 5_000,
    }
    heartbeats = {stream: HeartbeatView(newest_ms=ms, lanes=3) for stream, ms in heard_ms.items()}
    seen = msgspec.structs.replace(seen, heartbeats=heartbeats)
    published.store.objects[overviews.KEY] = msgspec.json.encode(seen)
    await tab.goto(page)
    await expect(tab.locator("#stream-ages")).to_have_text(re.compile(r"^bulk 1\d s, urgent \d s$"))
    await expect(tab.get_by_role("status")).to_have_text("● Fresh")
    published.clock_ms += 11_000
    await expect(tab.locator("#problems")).to_contain_text("popsteer-urgent: no heartbeat for 17 s")
    await tab.screenshot(path=tmp_path / "still.png")


async def test_it_says_that_the_store_is_away_and_keeps_what_it_knew(
    tab: Page, page: str, published: Published
) -> None:
    await tab.goto(page)
    await expect(tab.get_by_role("status")).to_have_text("● Fresh")
    published.store.away = True
    await expect(tab.locator("#problems")).to_contain_text("cannot be reached")
    await expect(names(tab)).to_have_count(3)


async def test_orders_in_force_are_told(tab: Page, page: str, published: Published) -> None:
    await tab.goto(page)
    await expect(tab.get_by_role("status")).to_have_text("● Fresh")
    await expect(tab.locator("#orders")).to_be_hidden()
    order = Order(
        id="drain-1",
        kind=OrderKind.DRAIN,
        pop="par1",
        owner="ann@noc",
        reason="line card",
        created_ms=published.clock_ms,
        expires_ms=published.clock_ms + 540_000,
    )
    published.store.objects[order_book.KEY] = msgspec.json.encode(Orders(orders=(order,)))
    orders = tab.get_by_role("list", name="Orders in force")
    await expect(orders).to_have_text("drain par1 for 9 min more, by ann@noc: line card")


async def test_a_tab_in_the_background_tells_what_is_down(
    tab: Page, page: str, published: Published
) -> None:
    await tab.goto(page)
    await expect(tab).to_have_title("popsteer · POP health")
    published.change_pop("lon1", up=False, reason="no TCP answer")
    await expect(tab).to_have_title("1 Down · popsteer")


async def test_a_phone_shows_state_load_and_why_without_scrolling(
    tab: Page, page: str, published: Published, tmp_path: Path
) -> None:
    published.change_pop("lon1", up=False, reason="no TCP answer")
    await tab.set_viewport_size({"width": 390, "height": 844})
    await tab.goto(page)
    await expect(names(tab)).to_have_count(3)
    first = tab.locator("#rows tr").first
    for text in ("Down", "lon1", "30%", "no TCP answer"):
        await expect(first.get_by_text(text, exact=True)).to_be_in_viewport(ratio=1)
    assert await tab.evaluate("document.getElementById('pops').scrollWidth") <= 390
    await tab.screenshot(path=tmp_path / "phone.png")


@pytest.mark.usefixtures("nothing_published")
async def test_it_waits_when_nothing_was_published(tab: Page, page: str) -> None:
    await tab.goto(page)
    await expect(tab.get_by_role("status")).to_have_text("○ Waiting")
    await expect(tab.locator("#problems")).to_contain_text("no table was published yet")


async def test_the_lookup_answers_like_explain(tab: Page, page: str, tmp_path: Path) -> None:
    await tab.goto(page)
    await tab.get_by_label("Address or prefix of a client").fill("10.0.0.9")
    await tab.get_by_role("button", name="Explain").click()
    answer = tab.locator("#answer")
    await expect(answer).to_contain_text("10.0.0.9 → fra1, 8.1 ms expected")
    await expect(answer).to_contain_text("full: 99% of its 82% target")
    assert "q=10.0.0.9" in tab.url
    await tab.screenshot(path=tmp_path / "lookup.png")


async def test_a_new_table_is_looked_up_again(tab: Page, page: str, published: Published) -> None:
    await tab.goto(f"{page}/?q=10.0.0.9")
    await expect(tab.locator("#answer")).to_contain_text("table 7")
    published.publish(8)
    await expect(tab.locator("#answer")).to_contain_text("table 8")


async def test_a_link_shows_the_same_page_to_the_next_person(tab: Page, page: str) -> None:
    await tab.goto(f"{page}/?pop=lon1&q=10.0.0.9")
    await expect(tab.locator("#answer")).to_contain_text("10.0.0.9 → fra1")
    await expect(tab.locator("#selected-title")).to_have_text("lon1")
    await expect(tab.get_by_role("img", name=re.compile("RTT of lon1"))).to_be_visible()


async def test_a_pop_is_chosen_by_keyboard_and_kept_in_the_url(tab: Page, page: str) -> None:
    await tab.goto(page)
    button = tab.get_by_role("button", name="par1")
    await button.focus()
    await tab.keyboard.press("Enter")
    await expect(tab.locator("#selected-title")).to_have_text("par1")
    await expect(button).to_have_attribute("aria-pressed", "true")
    await expect(button).to_be_focused()
    assert "pop=par1" in tab.url


async def test_on_a_wall_there_is_nothing_to_click(tab: Page, page: str, tmp_path: Path) -> None:
    await tab.goto(f"{page}/?noc=1")
    await expect(names(tab)).to_have_count(3)
    await expect(tab.locator("#side")).to_be_hidden()
    await tab.screenshot(path=tmp_path / "noc.png")


async def test_light_and_dark_follow_the_system(tab: Page, page: str, tmp_path: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        await tab.emulate_media(color_scheme=scheme)
        await tab.goto(f"{page}/?pop=lon1")
        await expect(names(tab)).to_have_count(3)
        seen[scheme] = await tab.evaluate(ground)
        await tab.screenshot(path=tmp_path / f"{scheme}.png")
    assert seen["light"] != seen["dark"]


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (text) => {  // the browser resolves color-mix() and the rest
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = text; paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = (text) => {
    const part = rgb(text).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgb(colour)[3] > 250) return colour;
    }
    return "white";
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest("svg")) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(`${node.className || node.tagName} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("stale", [False, True])
async def test_every_text_has_contrast(
    scheme: str, stale: bool, tab: Page, page: str, published: Published
) -> None:
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    published.change_pop("lon1", up=False, reason="no TCP answer")
    published.change_pop("fra1", shed=0.25)
    published.clock_ms += 20_000 if stale else 0
    await tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    await tab.goto(f"{page}/?pop=fra1&q=172.16.0.1")
    await expect(tab.get_by_role("status")).to_have_text("✖ STALE" if stale else "● Fresh")
    await expect(tab.locator("#answer")).to_contain_text("default order")
    assert await tab.evaluate(CONTRAST) == []


async def test_its_parts_have_names(tab: Page, page: str) -> None:
    await tab.goto(f"{page}/?pop=lon1")
    await expect(names(tab)).to_have_count(3)
    await expect(tab.get_by_role("heading", level=1)).to_have_text("popsteer")
    await expect(tab.get_by_role("region", name="POPs, worst first")).to_be_visible()
    await expect(tab.get_by_role("complementary", name="Details")).to_be_visible()
    await expect(tab.get_by_role("search")).to_be_visible()
    headers = tab.locator("#pops thead th")
    assert await headers.count() == await tab.locator("#rows tr").first.locator("td, th").count()
    for header in await headers.all():
        await expect(header).to_have_attribute("scope", "col")
