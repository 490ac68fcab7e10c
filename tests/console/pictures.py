"""Make the pictures of docs/console.md from the demonstration's data.

::

    PYTHONPATH=tests:tests/console python tests/console/pictures.py docs/console
"""

from __future__ import annotations

import sys
from pathlib import Path

from browsing import chromium
from playwright.sync_api import Page

from aigateway.http.demo.smoke import open_with
from aigateway.http.demo.stage import Stage

PICTURES = {
    "now": "/now",
    "session": "/sessions?user=ada",
    "request": "/requests?user=ada",
    "spend": "/spend?by=model",
    "people": "/people?keys=all",
    "policy": "/policy",
    "narrow": "/spend",
}
"""The name of each picture, and its page."""
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 375, "height": 760}


def take(page: Page, base: str, name: str, folder: Path) -> None:
    narrow = name == "narrow"
    page.set_viewport_size(NARROW if narrow else WIDE)  # type: ignore[arg-type]
    page.emulate_media(color_scheme="dark" if narrow else "light")
    page.goto(base + PICTURES[name])
    if name == "session":
        # One with a break of the cache.
        for number in range(1, page.get_by_role("row").count()):
            page.goto(base + PICTURES[name])
            page.get_by_role("row").nth(number).get_by_role("link").first.click()
            page.locator(".step").first.wait_for()
            if page.get_by_text("Cache breaks").count():
                break
    if name == "request":
        # One with a prompt and a tool.
        page.locator("tr", has_text="calls").filter(has_text="·").first.get_by_role(
            "link"
        ).first.click()
        page.locator(".step").first.wait_for()
    if name == "policy":
        document = page.get_by_role("textbox", name="The document")
        document.fill(document.input_value().replace("usd: 40", "usd: 60"))
        page.get_by_role("button", name="Show what changes").click()
        page.locator(".diff").wait_for()
    # Charts are painted in the frame after the one in which they are made.
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / f"{name}.png")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with Stage(pages=True) as stage, chromium() as browser:
        stage.open()
        open_with(stage, lambda: False)
        page = browser.new_context(locale="en-GB", timezone_id="Europe/Helsinki").new_page()
        page.goto(stage.console_link)
        page.wait_for_url("**/now")
        base = stage.console_link.partition("/sign-in")[0]
        for name in PICTURES:
            take(page, base, name, folder)


if __name__ == "__main__":
    main()
