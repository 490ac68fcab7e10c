"""The console as somebody sees it who opens it in a browser."""

from __future__ import annotations

import re
import time
from contextlib import closing
from pathlib import Path

import pytest
from browsing import SIZES, signed_in
from console_process import ConsoleProcess
from playwright.sync_api import Browser, Page, expect

from aigateway.actors.control.local.store import Store
from aigateway.actors.values.records import InterceptionBegun, PromptUsage

PAGES = (
    "/now",
    "/sessions",
    "/requests",
    "/spend",
    "/spend?by=model",
    "/providers",
    "/actors",
    "/people",
    "/policy",
    "/audit",
    "/setup",
)
HOSTILE = "<script>alert(1)</script><img src=//elsewhere.example/x onerror=alert(2)>\u202e\x1b[31m"


def written(database: Path, prompt: str) -> None:
    """A request that has just begun."""
    now = time.time()
    name = f"at-{now}"
    with closing(Store(database, 5.0)) as store:
        store.write(
            [
                InterceptionBegun(
                    id=name, initiator_id="u", username="newcomer", api_key_id="k",
                    provider="anthropic", provider_name="anthropic", model="m", client="c",
                    user_agent="a", started_at=now,
                )
            ],
            [PromptUsage(interception_id=name, msg_id="m", prompt=prompt, created_at=now)],
        )  # fmt: skip


def test_the_link_signs_a_browser_in(browser: Browser, weeks: Path, tmp_path: Path) -> None:
    console = ConsoleProcess(tmp_path, weeks).start(sign_in=False)
    try:
        context = browser.new_context()
        page = context.new_page()
        page.goto(console.link)
        page.wait_for_url(f"{console.url}/now")
        expect(page.get_by_role("heading", name="Now", level=1)).to_be_visible()
        assert "token" not in page.evaluate("document.referrer + location.href")
        # No script can read it.
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.goto(f"{console.url}/spend")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        context.close()
    finally:
        console.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_page_fits_its_window(
    page: Page, console: ConsoleProcess, scheme: str, tmp_path: Path
) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    for width, height in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for path in PAGES:
            page.goto(console.url + path)
            expect(page.locator("h1")).to_be_visible()
            if path in ("/now", "/spend"):
                expect(page.locator(".chart canvas").first).to_be_visible()
            name = re.sub(r"\W+", "-", path.strip("/"))
            # Kept with the other results of the test.
            page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png")
            wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wider <= 0, f"{path} is {wider} px too wide at {width}"
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", back)[:3])) > 380
    assert light == (scheme == "light")


def test_the_first_page_is_small_and_stays_in_its_place(
    page: Page, console: ConsoleProcess
) -> None:
    page.goto(f"{console.url}/now")
    expect(page.locator(".chart canvas")).to_be_visible()
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').filter(e => !e.name.includes('/events'))"
        ".map(e => e.transferSize).reduce((a, b) => a + b, 0)"
    )
    assert 10_000 < sizes < 150_000
    moved = page.evaluate(
        "new Promise(done => { let sum = 0; new PerformanceObserver(list => {"
        " for (const one of list.getEntries()) sum += one.value; })"
        ".observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 200); })"
    )
    assert moved < 0.01


def test_a_request_shows_up_on_the_open_page(
    page: Page, console: ConsoleProcess, weeks: Path
) -> None:
    page.goto(f"{console.url}/now")
    expect(page.locator("#live")).to_have_text("live")
    written(weeks, "Have I been seen?")
    expect(page.get_by_text("Have I been seen?").first).to_be_visible()
    expect(page.locator("#h-newest")).to_be_visible()


def test_what_was_sent_does_nothing_in_the_browser(
    page: Page, console: ConsoleProcess, weeks: Path
) -> None:
    page.goto(f"{console.url}/now")
    expect(page.locator("#live")).to_have_text("live")
    written(weeks, HOSTILE)
    # Through the stream, which is put into the page by a script.
    expect(page.get_by_text("<script>alert(1)</script>").first).to_be_visible()
    page.locator("tr", has_text="<script>").first.get_by_role("link").click()
    expect(page.locator(".step pre")).to_contain_text("<script>alert(1)</script>")
    expect(page.locator(".step pre .sign")).to_have_text(["U+202E", "\u241b"])


def test_filters_are_in_the_address_and_keep_the_focus(page: Page, console: ConsoleProcess) -> None:
    page.goto(f"{console.url}/spend")
    by = page.locator("select[name=by]")
    by.focus()
    page.keyboard.press("m")
    expect(page.get_by_role("heading", name="By model")).to_be_visible()
    expect(by).to_be_focused()
    expect(page).to_have_url(re.compile(r"by=model"))
    page.locator("select[name=user]").select_option("ada")
    expect(page.get_by_role("row", name=re.compile("gpt-5"))).to_have_count(0)
    sent = page.url
    told = page.locator("table").first.inner_text()
    # As a colleague would open it.
    page.goto(sent)
    assert page.locator("table").first.inner_text() == told
    page.go_back()
    expect(page).not_to_have_url(sent)


def test_all_can_be_reached_with_the_keyboard(page: Page, console: ConsoleProcess) -> None:
    page.goto(f"{console.url}/now")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    names = []
    page.goto(f"{console.url}/now")
    for _ in range(15):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText")
        )
    assert names[2:14] == [
        "Now", "Sessions", "Requests", "Spend", "Providers", "Actors", "People", "Policy",
        "Audit log", "Set up a client",
        "Light or dark", "Sign out",
    ]  # fmt: skip
    # What scrolls can be scrolled without a mouse.
    assert "Requests" in names[14] or "all requests" in names[14]


def test_a_chosen_theme_is_kept(page: Page, console: ConsoleProcess) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(f"{console.url}/spend")
    page.get_by_role("button", name="Light or dark").click()
    page.goto(f"{console.url}/actors")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 23)"


def test_times_are_in_the_readers_zone(
    browser: Browser, console: ConsoleProcess, weeks: Path
) -> None:
    seen = []
    for zone in ("Asia/Tokyo", "America/New_York"):
        options = {"timezone_id": zone, "locale": "en-GB"}
        with signed_in(browser, console.url, console.cookie(), **options) as context:
            page = context.new_page()
            page.goto(f"{console.url}/requests?user=grace")
            page.get_by_role("row").nth(1).get_by_role("link").click()
            times = page.locator("aside time").first
            moment, shown = times.get_attribute("datetime"), times.inner_text()
            assert moment is not None
            seen.append((moment, shown))
    assert seen[0][0] == seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_pages_are_whole_without_scripts(browser: Browser, console: ConsoleProcess) -> None:
    with signed_in(browser, console.url, console.cookie(), java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{console.url}/now")
        expect(page.get_by_role("row").nth(1)).to_be_visible()
        page.goto(f"{console.url}/spend")
        page.locator("select[name=by]").select_option("model")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("heading", name="By model")).to_be_visible()
