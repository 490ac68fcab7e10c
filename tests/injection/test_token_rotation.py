"""The token of an MCP server that changes in its file while the gateway runs."""

from __future__ import annotations

import os
from pathlib import Path

import requests
import yaml
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider, imitate
from mcp_scripted_server import ScriptedServer


def test_a_new_token_of_an_mcp_server_is_taken_from_its_file(tmp_path: Path) -> None:
    token, config = tmp_path / "token", tmp_path / "gateway.yaml"
    token.write_text("planted-one")
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        ScriptedServer() as server,
    ):
        listed = [{"id": "docs", "url": server.url, "token_file": str(token)}]
        config.write_text(yaml.safe_dump({"ai_gateway": {"mcp_servers": listed}}))
        upstreams = [Upstream("anthropic", provider.url)]
        with GatewayProcess(tmp_path / "gw", upstreams, ["--config", str(config)]) as gateway:

            def comes_with(given: str) -> bool:
                _ask_for_tools(gateway)
                return server.seen[-1].headers.get("authorization") == f"Bearer {given}"

            wait_until(lambda: comes_with("planted-one"), "the server is asked")
            new = tmp_path / "new"
            new.write_text("planted-two")
            os.replace(new, token)
            wait_until(lambda: comes_with("planted-two"), "it is asked with the new token")
            texts = [message_of(line) for line in gateway.logs()]
            assert "these settings change with a restart only" not in texts
            assert "planted" not in str(gateway.logs())


def _ask_for_tools(gateway: GatewayProcess) -> None:
    answer = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": "claude-x",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}],
        },
        headers={"X-Api-Key": gateway.key()},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
