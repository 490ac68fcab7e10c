"""What axe-core finds on the pages of the demonstration, in each size and colour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import SIZES, watched
from playwright.sync_api import Browser, Page, expect
from waiting import PATIENCE

from aigateway.actors.control.local import board
from aigateway.actors.control.local.schema import open_database
from aigateway.http.demo.smoke import open_with
from aigateway.http.demo.stage import Stage

PAGES = (
    "/now",
    "/sessions",
    "/requests",
    "/spend",
    "/spend?by=model&days=30",
    "/spend?user=nobody",
    "/providers",
    "/providers/test?name=anthropic",
    "/actors",
    "/people",
    "/people?keys=all",
    "/policy",
    "/audit",
    "/setup",
    "/requests/nobody",
)
BEHIND = {
    "/sessions?user=ada": r"/sessions/one\?",
    "/requests?user=ada": r"/requests/[0-9a-f-]+$",
    "/people": r"/people/",
    "/people?keys=all": r"/keys/",
    "/actors": r"/actors/restart\?",
    "/actors#": r"/actors/trace\?",
}
"""Pages that are reached through the first such link on another."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(pages=True) as running:
        running.open()
        open_with(running, lambda: False)
        with closing(open_database(running.folder / "records.db")) as database:
            gone = board.Worker("gone", "elsewhere:1", "elsewhere", "0.0.0.0:4001", 4711)
            board.sign(database, gone)
            database.execute("UPDATE gateway_workers SET seen_at = seen_at - 100 WHERE id = 'gone'")
        yield running


@pytest.fixture(scope="module")
def everywhere(stage: Stage, browser: Browser) -> Iterator[tuple[Page, str, list[str]]]:
    """A browser that is signed in, the console's address, and all pages that there are."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    wrong = watched(page)
    page.goto(stage.console_link)
    page.wait_for_url("**/now")
    base = stage.console_link.partition("/sign-in")[0]
    addresses = list(PAGES)
    for path, pattern in BEHIND.items():
        page.goto(base + path)
        links = page.locator("main a").evaluate_all("all => all.map(e => e.getAttribute('href'))")
        addresses.append(next(link for link in links if re.search(pattern, link or "")))
    yield page, base, addresses
    # The page that is not there is said to be missing in the browser's log.
    assert [each for each in wrong if "404" not in each] == []
    context.close()


def found(page: Page) -> list[str]:
    """What axe-core takes for serious or worse, with the first place."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {each['nodes'][0]['target']}"
        f" {each['nodes'][0]['failureSummary']}"
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_nothing_serious_is_found(
    everywhere: tuple[Page, str, list[str]], scheme: str, width: int
) -> None:
    page, base, addresses = everywhere
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": SIZES[width]})
    problems = {}
    for address in addresses:
        page.goto(base + address, timeout=1000 * PATIENCE)
        expect(page.locator("h1")).to_be_visible()
        if address == "/now":
            expect(page.locator("#live")).to_have_text("live")
        if wrong := found(page):
            problems[address] = wrong
    assert problems == {}


def test_what_is_wrong_would_be_found(everywhere: tuple[Page, str, list[str]]) -> None:
    page, base, _ = everywhere
    page.goto(f"{base}/spend")
    page.evaluate(
        "document.querySelector('main').insertAdjacentHTML('beforeend', '<select></select>')"
    )
    assert [each.partition(" ")[0] for each in found(page)] == ["select-name"]


def test_the_page_that_asks_to_sign_in_is_good_too(stage: Stage, browser: Browser) -> None:
    base = stage.console_link.partition("/sign-in")[0]
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{base}/spend")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert found(page) == []
