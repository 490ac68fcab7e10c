"""The pages say the same of the same records in a file and in PostgreSQL, summed up or not."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path

import pytest
from console_process import ConsoleProcess
from postgres_server import postgres_server
from test_pages import rows

from aigateway.actors.control.local.copying import copy_all
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.postgres import open_postgresql
from aigateway.actors.control.local.schema import open_database
from aigateway.actors.control.local.usage import GROUPS
from aigateway.actors.control.local.usage_rolling import Rolling
from aigateway.actors.control.local.usage_sums import Span, cover


@pytest.fixture(scope="module")
def shared(weeks: Path) -> Iterator[str]:
    """The demo's two weeks in PostgreSQL, summed up."""
    with postgres_server() as server:
        address = server.new_database()
        with closing(open_database(weeks)) as source, closing(open_postgresql(address)) as target:
            copy_all(source, target)
        with closing(open_address(address)) as database:
            rolling = Rolling()
            while rolling.step(database, time.time()):
                pass
            assert len(cover(database, Span()).buckets) > 7
        yield address


@pytest.fixture(scope="module")
def other(shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleProcess]:
    with ConsoleProcess(tmp_path_factory.mktemp("shared"), shared) as running:
        yield running


def first_link(page: str, path: str) -> str:
    return unescape(re.findall(rf'href="({path}[^"]+)"', page)[0])


@pytest.mark.parametrize("by", GROUPS)
def test_spend_is_the_same(console: ConsoleProcess, other: ConsoleProcess, by: str) -> None:
    for query in (f"by={by}&days=90", f"by={by}&days=90&user=edsger&client=Gemini+CLI"):
        told = console.get(f"/spend.csv?{query}").text
        assert len(told.splitlines()) > 1
        assert other.get(f"/spend.csv?{query}").text == told
        assert rows(other.get(f"/spend?{query}").text) == rows(console.get(f"/spend?{query}").text)


def test_requests_and_sessions_are_the_same(console: ConsoleProcess, other: ConsoleProcess) -> None:
    paths = [
        "/requests?status=failed",
        "/sessions?model=claude-sonnet-4-5",
        first_link(console.get("/requests").text, "/requests/"),
        first_link(console.get("/sessions").text, r"/sessions/one\?"),
    ]
    for path in ["/requests", "/sessions", *paths]:
        assert rows(other.get(path).text) == rows(console.get(path).text), path


@pytest.mark.parametrize("path", ["/now", "/providers", "/actors", "/setup"])
def test_pages_of_this_moment_are_there(other: ConsoleProcess, path: str) -> None:
    assert "<h1" in other.get(path).text
