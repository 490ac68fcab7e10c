"""A console in front of two weeks of records."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import chromium, signed_in, watched
from console_process import ConsoleProcess
from playwright.sync_api import Browser, BrowserContext, Page
from two_users import Place, place_in

from aigateway.http.demo.history import tell_history


@pytest.fixture(scope="session")
def told_weeks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the demo's two weeks, that nobody writes to."""
    database = tmp_path_factory.mktemp("weeks") / "weeks.db"
    tell_history(database, time.time())
    return database


@pytest.fixture(scope="module")
def weeks(told_weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a module's tests alone, some of which write to it."""
    return shutil.copy(told_weeks, tmp_path_factory.mktemp("weeks") / "weeks.db")


@pytest.fixture(scope="module")
def console(weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleProcess]:
    with ConsoleProcess(tmp_path_factory.mktemp("console"), weeks) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def context(browser: Browser, console: ConsoleProcess) -> Iterator[BrowserContext]:
    with signed_in(browser, console.url, console.cookie()) as made:
        yield made


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    wrong = watched(page)
    yield page
    assert wrong == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A console of ada's and bob's records."""
    with place_in(tmp_path) as made:
        yield made
