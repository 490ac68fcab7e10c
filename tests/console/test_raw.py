"""Requests and answers as they were sent, for those who may see them, and never unnoted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from console_process import ConsoleProcess
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, imitate
from playwright.sync_api import Page, expect
from waiting import PATIENCE

from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.opening import read_address

HOSTILE = "<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as running:
        yield running


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    provider: ScriptedProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    options = ["--ai-gateway-dump-dir", str(folder / "dumps"), "--worker-class", request.param]
    with GatewayProcess(folder, [Upstream("anthropic", provider.url)], options) as running:
        yield running


@pytest.fixture(scope="module")
def console(
    gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleProcess]:
    with ConsoleProcess(tmp_path_factory.mktemp("console"), gateway.database) as running:
        yield running


def ask(gateway: GatewayProcess, content: str) -> str:
    """The interception's id."""
    answer = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": "m", "max_tokens": 50, "stream": True,
            "messages": [{"role": "user", "content": content}],
        },
        headers={"X-Api-Key": gateway.key("grace")},
        timeout=PATIENCE,
    )  # fmt: skip
    assert answer.status_code == 200
    return answer.headers["X-AI-Gateway-Interception-Id"]


def changes(gateway: GatewayProcess) -> list[dict[str, Any]]:
    with closing(read_address(str(gateway.database))) as database:
        return [each for each in list_changes(database, 20) if each["action"] == "look.raw"]


def test_what_was_sent_is_shown_as_text_and_noted(
    page: Page, console: ConsoleProcess, gateway: GatewayProcess
) -> None:
    id = ask(gateway, HOSTILE)
    gateway.records(id)
    page.goto(f"{console.url}/requests/{id}")
    before = len(changes(gateway))
    page.get_by_role("link", name="raw request and answer").click()
    expect(page.locator("pre.raw")).to_have_count(0)
    # Nothing is shown or noted before somebody says so.
    assert len(changes(gateway)) == before
    page.get_by_role("button", name="Show them").click()
    expect(page.get_by_label("request, attempt 1")).to_contain_text("<script>alert(1)</script>")
    expect(page.get_by_label("request, attempt 1")).to_contain_text("POST /v1/messages HTTP/1.1")
    expect(page.get_by_label("answer, attempt 1")).to_contain_text("event: message_stop")
    assert "sk-upstream-secret-key" not in page.content()
    row = changes(gateway)[0]
    assert row["subject"] == f"request {id} of user grace"
    assert row["who"].startswith("console: ")
    # What passed through the database has not stayed there.
    assert gateway.rows("SELECT * FROM console_commands") == []


def posted(console: ConsoleProcess, id: str) -> requests.Response:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', console.get("/setup").text)
    assert found is not None
    return console.browser.post(
        f"{console.url}/requests/{id}/raw",
        data={"form_token": found[1]},
        headers={"Origin": console.url},
        timeout=PATIENCE,
    )


def test_of_what_is_gone_or_never_was_nothing_is_shown(
    console: ConsoleProcess, gateway: GatewayProcess
) -> None:
    id = ask(gateway, "soon gone")
    gateway.records(id)
    assert "soon gone" in posted(console, id).text
    for file in gateway.folder.glob(f"dumps/*/*/*{id}*"):
        os.unlink(file)
    answer = posted(console, id)
    assert answer.status_code == 200
    assert "Nothing was written of it" in answer.text
    noted = len(changes(gateway))
    for other in ("nobody", "*", "..%2F..%2Fetc"):
        assert posted(console, other).status_code == 404
    assert len(changes(gateway)) == noted


def test_without_content_nothing_of_before_is_shown_either(
    provider: ScriptedProvider, tmp_path: Path
) -> None:
    upstreams = [Upstream("anthropic", provider.url)]
    options = ["--ai-gateway-dump-dir", str(tmp_path / "dumps")]
    with GatewayProcess(tmp_path, upstreams, options) as gateway:
        id = ask(gateway, "of before")
        gateway.records(id)
    console = ConsoleProcess(tmp_path, gateway.database)
    with console, GatewayProcess(tmp_path, upstreams, [*options, "--content", "none"]):
        assert "of before" in console.get(f"/requests/{id}").text
        assert list(tmp_path.glob(f"dumps/*/*/*{id}*"))
        assert "Nothing was written of it" in posted(console, id).text
