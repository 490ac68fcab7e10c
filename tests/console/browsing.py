"""A real browser for the console: Debian's chromium, driven by playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from system_programs import program

__all__ = ["SIZES", "chromium", "signed_in", "watched"]

SIZES = {1280: 900, 375: 812}
"""Widths of windows, and their heights."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test, or in CI fails it, where there is none."""
    path = program("chromium", "apt-get install chromium")
    # Its sandbox does not work for root.
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def signed_in(browser: Browser, url: str, cookie: str, **options: Any) -> Iterator[BrowserContext]:
    """A window's context with the console's cookie (name=value)."""
    context = browser.new_context(**options)
    name, _, value = cookie.partition("=")
    context.add_cookies([{"name": name, "value": value, "url": url, "sameSite": "Strict"}])
    try:
        yield context
    finally:
        context.close()


def watched(page: Page) -> list[str]:
    """What goes wrong on a page, as it comes: errors of scripts and of the policy, failed
    requests, dialogs, requests to other hosts."""
    wrong: list[str] = []

    def told(message: Any) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"{message.type}: {message.text}")

    def asked(request: Any) -> None:
        if not request.url.startswith("http://127.0.0.1:"):
            wrong.append(f"asked {request.url}")

    page.on("console", told)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("request", asked)
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    return wrong
