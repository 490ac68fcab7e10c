"""For which work a request is, from a client's headers to the database of a real gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
from gateway_process import GatewayProcess, Upstream, message_of
from imitation_provider import ScriptedProvider


def ask(gateway: GatewayProcess, **headers: str) -> dict[str, Any]:
    """Ask, and return the interception's row."""
    answer = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": "claude-opus-5",
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "hello"}],
        },
        headers={
            "Authorization": f"Bearer {gateway.key()}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        timeout=30,
    )
    assert answer.status_code == 200
    (row,) = gateway.rows(
        "SELECT * FROM interceptions WHERE id = ?",
        answer.headers["X-AI-Gateway-Interception-Id"],
    )
    return row


def test_a_request_is_recorded_with_its_work_and_the_provider_hears_nothing_of_it(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    row = ask(
        any_gateway,
        User_Agent="claude-cli/2.1",
        X_Claude_Code_Session_Id="s-1",
        X_Claude_Code_Agent_Id="a-1",
        X_AI_Gateway_Project="shop",
        X_AI_Gateway_Repository="https://ada:secret@git.example/acme/shop.git",
        X_AI_Gateway_Branch="main",
    )
    assert (row["client_session_id"], row["session_id"], row["agent_id"]) == ("s-1", "s-1", "a-1")
    assert (row["project"], row["repository"], row["branch"]) == (
        "shop",
        "git.example/acme/shop",
        "main",
    )
    sent = provider.requests[-1]
    names = {name.lower() for name, _value in sent.headers}
    assert "x-claude-code-session-id" in names
    assert not [name for name in names if name.startswith("x-ai-gateway")]


def test_a_bad_value_is_dropped_and_counted_and_the_request_is_served(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    options = ["--prometheus-enable", "--prometheus-address", "127.0.0.1:0"]
    with GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway:
        row = ask(
            gateway,
            User_Agent="claude-cli/2.1",
            X_Claude_Code_Session_Id="s" * 200,
            X_AI_Gateway_Branch="main",
        )
        assert (row["session_id"], row["branch"]) == (None, "main")
        assert row["client_session_id"] == "s" * 200
        (address,) = [
            line["fields"]["addr"]
            for line in gateway.logs()
            if message_of(line) == "http server listening"
        ]
        scraped = requests.get(f"http://{address}/metrics", timeout=10).text
        name = "coder_ai_gateway_attribution_dropped_total"
        assert f'{name}{{kind="session"}} 1.0' in scraped
        assert f'{name}{{kind="branch"}} 0.0' in scraped
