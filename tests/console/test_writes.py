"""What is changed from a page, in a real browser: each by a form, with a row in the audit log."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from console_process import ConsoleProcess
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, answer, imitate
from playwright.sync_api import Page, expect
from waiting import PATIENCE, wait_until

from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.opening import read_address

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m"


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    provider: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(folder, [Upstream("anthropic", provider.url)]) as running:
        running.key("grace")
        yield running


@pytest.fixture(scope="module")
def console(
    gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleProcess]:
    folder = tmp_path_factory.mktemp("console")
    with ConsoleProcess(
        folder, gateway.database, gateway.runtime_dir, "--client-address", gateway.url
    ) as running:
        yield running


def newest(database: Path) -> dict[str, Any]:
    """The last row of the table of changes."""
    with closing(read_address(str(database))) as opened:
        return list_changes(opened, 1)[0]


def ask(gateway: GatewayProcess, key: str) -> int:
    body = {
        "model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Am I let in?"}],
    }  # fmt: skip
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json=body,
        headers={"X-Api-Key": key},
        timeout=PATIENCE,
    ).status_code


def worker_id(console: ConsoleProcess) -> str:
    """The only worker's, as addresses have it."""
    (found,) = re.findall(r'href="/actors/trace\?worker=([^"]+)"', console.get("/actors").text)
    return str(found)


def form_token(console: ConsoleProcess, path: str) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', console.get(path).text)
    assert found is not None
    return found[1]


def test_a_key_is_made_shown_once_and_revoked(
    page: Page, console: ConsoleProcess, gateway: GatewayProcess
) -> None:
    page.goto(f"{console.url}/setup")
    page.get_by_label("Whose").fill("hopper")
    page.get_by_label("What for").fill("laptop")
    page.get_by_label("Good for").select_option("30 days")
    page.get_by_role("button", name="Make a key").click()
    secret = page.get_by_label("The key", exact=True).inner_text()
    assert re.fullmatch("[A-Za-z0-9]{10}-[A-Za-z0-9]{22}", secret)
    # The lines have it, so that they work as they are.
    claude = page.get_by_label("Claude Code: In a shell").inner_text()
    assert f'ANTHROPIC_AUTH_TOKEN="{secret}"' in claude
    assert gateway.url in claude
    assert "$AIGATEWAY_KEY" not in page.locator("main").inner_text()
    made = newest(gateway.database)
    assert made["action"] == "key.create"
    assert made["who"].startswith("console: ")
    assert (made["before"], made["after"]["user"]) == (None, "hopper")
    assert ask(gateway, secret) == 200
    page.get_by_role("link", name="Its state").click()
    expect(page.get_by_text("active")).to_be_visible()
    expect(page.get_by_text("laptop")).to_be_visible()
    page.get_by_role("button", name="Revoke this key").click()
    expect(page.get_by_text("revoked", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Revoke this key")).to_have_count(0)
    assert newest(gateway.database)["action"] == "key.revoke"
    assert newest(gateway.database)["subject"] == f"key {secret[:10]}"
    wait_until(lambda: ask(gateway, secret) == 403, "the key is refused")
    for path in (f"/keys/{secret[:10]}", "/setup"):
        assert secret not in console.get(path).text
    assert secret not in console.errors()
    assert secret.encode() not in b"".join(
        path.read_bytes() for path in gateway.database.parent.glob("*.db*") if path.is_file()
    )


def test_a_name_that_cannot_be_is_told_and_makes_no_key(
    console: ConsoleProcess, gateway: GatewayProcess
) -> None:
    before = newest(gateway.database)
    token = form_token(console, "/setup")
    answer = console.browser.post(
        f"{console.url}/setup",
        data={"form_token": token, "user": HOSTILE, "days": "90"},
        headers={"Origin": console.url},
        timeout=PATIENCE,
    )
    assert answer.status_code == 400
    assert 'class="notice bad"' in answer.text
    assert "<script>alert" not in answer.text
    assert newest(gateway.database) == before


def test_an_actor_is_restarted_with_a_reason(
    page: Page, console: ConsoleProcess, gateway: GatewayProcess
) -> None:
    (pid,) = gateway.worker_pids()
    page.goto(f"{console.url}/actors")
    page.get_by_role("link", name=f"Restart recorder of worker {pid}").click()
    # Without a reason the browser sends nothing.
    page.get_by_role("button", name="Restart").click()
    expect(page.get_by_label("Why")).to_be_focused()
    page.get_by_label("Why").fill("It looked tired.")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("It is started again.")
    row = newest(gateway.database)
    assert row["action"] == "actor.restart"
    assert row["subject"] == f"actor recorder of worker {pid} at {socket.gethostname()}"
    assert row["before"]["restarts"] == 0
    assert row["after"] == {"reason": "It looked tired."}
    page.get_by_role("link", name="See the actors").click()
    line = page.get_by_role("row", name=re.compile("^recorder"))
    expect(line.locator("td.n").nth(1)).to_have_text("1")


def test_no_actor_is_restarted_without_a_reason(
    console: ConsoleProcess, gateway: GatewayProcess
) -> None:
    worker = worker_id(console)
    before = newest(gateway.database)
    path = f"/actors/restart?worker={worker}&role=control-plane"
    answer = console.browser.post(
        console.url + path,
        data={"form_token": form_token(console, path), "reason": " "},
        headers={"Origin": console.url},
        timeout=PATIENCE,
    )
    assert answer.status_code == 400
    assert "Say why" in answer.text
    assert newest(gateway.database) == before
    console.get("/actors/restart?worker=1&role=recorder", status=404)
    console.get(f"/actors/restart?worker={worker}&role=nobody", status=404)
    console.get("/actors/restart?role=recorder", status=400)


def test_a_provider_is_tested_and_shows_its_models(
    page: Page, console: ConsoleProcess, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    listed = [{"id": "claude-b"}, {"id": "claude-a"}, {"id": HOSTILE}, {"name": 7}, 8]
    provider.play(answer({"data": listed}))
    page.goto(f"{console.url}/providers")
    page.get_by_role("link", name=re.compile("Test it.*anthropic")).click()
    page.get_by_role("button", name="Test it").click()
    expect(page.get_by_text("works")).to_be_visible()
    expect(page.locator(".models li").nth(1)).to_have_text("claude-a")
    expect(page.locator(".models li")).to_have_count(3)
    expect(page.locator(".models .sign").first).to_be_visible()
    row = newest(gateway.database)
    assert (row["action"], row["subject"]) == ("provider.test", "provider anthropic")
    # And its card goes on telling.
    page.goto(f"{console.url}/providers")
    page.get_by_text("3 models, as it said").click()
    expect(page.get_by_label("Models of anthropic").locator("li").nth(1)).to_have_text("claude-a")
    page.get_by_role("link", name=re.compile("Test it.*anthropic")).click()
    page.get_by_role("button", name="Test it").click()
    expect(page.get_by_text("works")).to_be_visible()
    provider.play(answer({"error": "no"}, 401))
    page.get_by_role("button", name="Test it again").click()
    expect(page.get_by_text("The credentials were refused", exact=False)).to_be_visible()
    assert "sk-upstream-secret-key" not in page.content()
    console.get("/providers/test?name=nobody", status=404)


WRITES = (
    "/setup",
    "/keys/{key}",
    "/actors/restart?worker={worker}&role=recorder",
    "/providers/test?name=anthropic",
)


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        ("", {}, 403),
        ("0" * 64, {}, 403),
        ("ä", {}, 403),
        (None, {"Sec-Fetch-Site": "cross-site"}, 403),
        (None, {"Origin": "http://127.0.0.1:1"}, 403),
        (None, {"Content-Type": "application/json"}, 415),
    ],
)
def test_nothing_is_changed_by_what_another_page_sends(
    console: ConsoleProcess,
    gateway: GatewayProcess,
    path: str,
    token: str | None,
    headers: dict[str, str],
    status: int,
) -> None:
    path = path.format(worker=worker_id(console), key=gateway.key("grace").partition("-")[0])
    before = newest(gateway.database)
    if token is None:
        token = form_token(console, path)
    answer = console.browser.post(
        console.url + path,
        data={"form_token": token, "user": "mallory", "days": "90", "reason": "evil"},
        headers={"Origin": console.url, **headers},
        timeout=PATIENCE,
    )
    assert answer.status_code == status
    assert newest(gateway.database) == before


@pytest.mark.parametrize("path", WRITES)
def test_nobody_changes_anything_without_signing_in(
    console: ConsoleProcess, gateway: GatewayProcess, path: str
) -> None:
    path = path.format(worker=worker_id(console), key=gateway.key("grace").partition("-")[0])
    token = form_token(console, path)
    answer = requests.post(
        console.url + path,
        data={"form_token": token, "user": "mallory", "days": "90", "reason": "evil"},
        headers={"Origin": console.url},
        timeout=PATIENCE,
    )
    assert answer.status_code == 401


def test_without_records_for_the_audit_log_nothing_is_done(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    (pid,) = gateway.worker_pids()
    coderd = ("--url", "http://coderd.example")
    with ConsoleProcess(tmp_path, tmp_path / "none.db", gateway.runtime_dir, *coderd) as console:
        assert f"Worker {pid}" in console.get("/actors").text
        path = f"/actors/restart?worker={pid}&role=recorder"
        answer = console.browser.post(
            console.url + path,
            data={"form_token": form_token(console, path), "reason": "why not"},
            headers={"Origin": console.url},
            timeout=PATIENCE,
        )
        setup = console.get("/setup").text
    assert "Coder token" in setup
    assert "Make a key</button>" not in setup
    assert answer.status_code == 503
    assert not (tmp_path / "none.db").exists()
