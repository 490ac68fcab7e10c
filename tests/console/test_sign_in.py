"""Who may look at the console, and from where."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from click.testing import CliRunner
from console_process import ConsoleProcess
from waiting import PATIENCE

from aigateway.http.cli import cli
from aigateway.http.console.door import SESSION_SECONDS, Door
from aigateway.http.console.reach import is_local_name

PAGES = (
    "/now", "/sessions", "/requests", "/spend", "/providers", "/actors", "/people", "/policy",
    "/audit", "/setup",
)  # fmt: skip


@pytest.mark.parametrize("path", [*PAGES, "/", "/spend.csv", "/now/events", "/requests/x"])
def test_nobody_sees_anything_without_the_link(console: ConsoleProcess, path: str) -> None:
    answer = requests.get(console.url + path, timeout=PATIENCE)
    assert answer.status_code == 401
    assert "Open the link" in answer.text
    assert "ada" not in answer.text


def test_the_link_works_once(weeks: Path, tmp_path: Path) -> None:
    console = ConsoleProcess(tmp_path, weeks).start(sign_in=False)
    try:
        wrong = requests.get(f"{console.url}/sign-in?token=guess", timeout=PATIENCE)
        first = requests.get(console.link, timeout=PATIENCE)
        second = requests.get(console.link, timeout=PATIENCE)
    finally:
        assert console.stop() == 0
    assert (wrong.status_code, first.status_code, second.status_code) == (403, 200, 403)
    assert "Set-Cookie" not in wrong.headers
    assert "Set-Cookie" not in second.headers
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert urlsplit(console.link).query.partition("=")[2] not in cookie


def test_two_consoles_of_one_host_do_not_sign_each_other_out(console: ConsoleProcess) -> None:
    port = urlsplit(console.url).port
    assert [cookie.name for cookie in console.browser.cookies] == [f"aigateway-console-{port}"]


@pytest.mark.parametrize("host", ["gateway.example", "127.0.0.1.evil.example:4002", "", "10.0.0.1"])
def test_a_page_whose_name_leads_here_is_sent_away(console: ConsoleProcess, host: str) -> None:
    """As a name does that an attacker's server points at this machine."""
    headers = {"Host": host, "Cookie": console.cookie()}
    answer = requests.get(f"{console.url}/spend", headers=headers, timeout=PATIENCE)
    assert answer.status_code in (400, 421)
    assert "ada" not in answer.text


@pytest.mark.parametrize(
    ("host", "port"),
    [("localhost:9999", 9999), ("127.0.0.1", 80), ("[::1]:443", 443), ("127.8.8.8:1", 1)],
)
def test_a_tunnel_may_have_another_port(console: ConsoleProcess, host: str, port: int) -> None:
    assert is_local_name(host)
    # What the browser calls the cookie that it got through the tunnel.
    value = console.cookie().partition("=")[2]
    headers = {"Host": host, "Cookie": f"aigateway-console-{port}={value}"}
    assert "ada" in requests.get(f"{console.url}/spend", headers=headers, timeout=PATIENCE).text
    headers["Origin"] = f"http://{host}"
    answer = requests.post(f"{console.url}/nothing", headers=headers, timeout=PATIENCE)
    # It was let in, and there is no such page.
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_page_cannot_sign_somebody_out(
    console: ConsoleProcess, headers: dict[str, str]
) -> None:
    answer = console.browser.post(
        f"{console.url}/sign-out", headers=headers, timeout=PATIENCE, allow_redirects=False
    )
    assert answer.status_code == 403
    console.get("/spend")


def test_a_cookie_is_worth_nothing_once_its_owner_has_left(weeks: Path, tmp_path: Path) -> None:
    with ConsoleProcess(tmp_path, weeks) as console:
        kept = console.cookie()
        console.browser.post(
            f"{console.url}/sign-out",
            headers={"Origin": console.url},
            timeout=PATIENCE,
            allow_redirects=False,
        )
        answer = requests.get(f"{console.url}/spend", headers={"Cookie": kept}, timeout=PATIENCE)
        assert answer.status_code == 401


def test_a_door_knows_its_own_cookies_until_they_are_over() -> None:
    times = [1000.0]
    door = Door(lambda: times[0])
    cookie = door.enter(door.link_token)
    assert cookie is not None
    assert door.knows(cookie)
    told, _, seal = cookie.rpartition(".")
    moment, _, rest = told.partition(".")
    for forged in ("", ".", "..", f"{int(moment) + 1}.{rest}.{seal}", f"{told}.", "ä.ö.ü"):
        assert not door.knows(forged)
    assert not Door().knows(cookie)
    times[0] += SESSION_SECONDS
    assert not door.knows(cookie)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:4002", "192.168.1.5:80", ":4002", "console", "[::]:1"]
)
def test_it_listens_on_loopback_only(address: str) -> None:
    result = CliRunner().invoke(cli, ["console", "--address", address])
    assert result.exit_code != 0
    assert "loopback" in str(result.exception)


@pytest.mark.parametrize("path", [*PAGES, "/nothing", "/static/console.css", "/spend?by=moon"])
def test_each_answer_forbids_what_the_console_does_not_need(
    console: ConsoleProcess, path: str
) -> None:
    headers = console.browser.get(console.url + path, timeout=PATIENCE).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*", policy)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    if not path.startswith("/static/"):
        assert headers["Cache-Control"] == "no-store"


class _Looker(HTMLParser):
    """Notes what a strict policy would not run, and addresses elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.append(tag)
        if tag == "style" or (tag == "script" and not told.get("src")):
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.wrong.append(f"{tag} {name}")
            if name in ("src", "href", "action") and not (value or "").startswith(("/", "#")):
                self.wrong.append(f"{tag} {name}={value}")


@pytest.mark.parametrize("path", PAGES)
def test_pages_have_nothing_inline_and_lead_nowhere_else(
    console: ConsoleProcess, path: str
) -> None:
    looker = _Looker()
    looker.feed(console.get(path).text)
    assert "main" in looker.tags
    assert looker.wrong == []


def test_assets_are_kept_for_good_under_an_address_of_their_content(
    console: ConsoleProcess,
) -> None:
    page = console.get("/now").text
    sizes = len(page)
    for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        asset = requests.get(console.url + address, timeout=PATIENCE)
        assert asset.status_code == 200
        assert "immutable" in asset.headers["Cache-Control"]
        sizes += len(asset.content)
    # Of the page, its styles and scripts, uncompressed.
    assert sizes < 200_000
    for path in ("/static/../door.py", "/static/%2e%2e/door.py", "/static/vendor", "/static/"):
        assert requests.get(console.url + path, timeout=PATIENCE).status_code in (401, 404)
