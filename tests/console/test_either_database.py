"""The pages say the same of the same records in a file and in PostgreSQL, summed up or not."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path

import pytest
from console_process import ConsoleProcess
from postgres_server import postgres_server
from test_pages import rows
from two_users import Place, console_of

from aigateway.actors.control.local.copying import copy_all
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.people import User, insert_users
from aigateway.actors.control.local.postgres import open_postgresql
from aigateway.actors.control.local.schema import open_database
from aigateway.actors.control.local.usage import GROUPS
from aigateway.actors.control.local.usage_rolling import Rolling
from aigateway.actors.control.local.usage_sums import Span, cover
from aigateway.actors.values.records import timestamp
from aigateway.http.console.visitors import Role


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


def own_pages(address: str, folder: Path) -> dict[str, str]:
    """What ada sees who has signed in as a user, without what is of this sign-in alone."""
    with closing(open_address(address)) as database:
        id = database.execute(
            "SELECT initiator_id FROM interceptions WHERE username = 'ada' LIMIT 1"
        ).fetchone()[0]
        insert_users(database, [User(id, "ada", timestamp(0))])
    place = Place(console_of(address, folder), address, {}, {"ada": id})
    cookie = place.cookie(Role.OWN)
    pages = {}
    for path in ("/now", "/spend?by=model&days=90", "/spend.csv?by=day", "/sessions", "/requests"):
        answer = place.get(cookie, path)
        assert answer.status_code == 200
        pages[path] = answer.text
    link = first_link(pages["/sessions"], "/sessions/one")
    pages["session"] = place.get(cookie, link).text
    token = re.search(r'form_token" value="(\w+)"', place.get(cookie, "/setup").text)
    assert token is not None
    assert place.ask(cookie, "POST", "/sign-out", f"form_token={token[1]}").status_code == 303
    assert place.get(cookie, "/spend").status_code == 401
    place.app.pulses.stop()
    return pages


def test_who_sees_what_is_theirs_sees_the_same(weeks: Path, shared: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(weeks, copy)
    told, other = own_pages(str(copy), tmp_path), own_pages(shared, tmp_path)
    assert set(told) == set(other)
    for path, page in told.items():
        if path.startswith("/spend.csv"):
            assert other[path] == page
        else:
            assert rows(other[path]) == rows(page), path
        assert "ada" in page or path.startswith("/spend")
        assert "grace" not in page
