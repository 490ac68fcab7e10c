"""From the YAML file to the actor that runs tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigateway.actors.actor.tree import ActorTree
from aigateway.http.app import make_plan
from aigateway.http.server.reloading import reloaded
from aigateway.http.settings import Settings, SettingsError, load
from aigateway.http.settings.mcp_servers import McpServerSettings

SERVER = """\
ai_gateway:
  mcp_servers:
    - id: docs
      url: https://mcp.example.com/mcp
      token_env: DOCS_TOKEN
"""


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(SERVER)
    return path


def _load(yaml: Path, local: bool = True, serving: bool = True, **environ: str) -> Settings:
    flags = {"local": local or None, "local_db": str(yaml.parent / "gateway.db")}
    return load(flags, environ, str(yaml), require_coderd=serving)


def test_servers_come_from_the_yaml_file(yaml: Path) -> None:
    settings = _load(yaml, DOCS_TOKEN="secret-token")
    (server,) = settings.mcp_servers
    assert (server.id, server.url) == ("docs", "https://mcp.example.com/mcp")
    assert server.token == "secret-token"
    assert "secret-token" not in repr(settings)


def test_a_mistake_names_the_file_and_the_key(yaml: Path) -> None:
    with pytest.raises(SettingsError, match=r"gateway\.yaml: ai_gateway\.mcp_servers\[0\]"):
        _load(yaml)


def test_servers_are_for_the_embedded_control_plane(yaml: Path) -> None:
    with pytest.raises(SettingsError, match="--local"):
        _load(yaml, local=False, DOCS_TOKEN="t", CODER_AI_GATEWAY_KEY="k", CODER_URL="http://x")


def test_commands_that_serve_nothing_need_no_token(yaml: Path) -> None:
    assert _load(yaml, local=False, serving=False).mcp_servers == ()


def test_other_servers_are_taken_at_a_reload(yaml: Path) -> None:
    before, after = _load(yaml, DOCS_TOKEN="one"), _load(yaml, DOCS_TOKEN="two")
    assert before.needing_restart(after) == []
    assert reloaded(before, lambda: after).mcp_servers == after.mcp_servers


def test_a_bad_pattern_stops_the_start(tmp_path: Path) -> None:
    server = McpServerSettings("docs", "http://127.0.0.1:9/mcp", tool_deny_regex="(")
    settings = Settings(local=True, local_db=str(tmp_path / "gw.db"), mcp_servers=(server,))
    with pytest.raises(SettingsError, match=r"mcp_servers\[0\] \(docs\): .*deny"):
        make_plan(settings, ActorTree())


def test_the_actor_is_started_only_where_users_can_have_servers(tmp_path: Path) -> None:
    server = McpServerSettings("docs", "http://127.0.0.1:9/mcp")
    local = Settings(local=True, local_db=str(tmp_path / "gw.db"))
    assert make_plan(local, ActorTree()).start_mcp is None
    with_servers = Settings(local=True, local_db=str(tmp_path / "gw.db"), mcp_servers=(server,))
    assert make_plan(with_servers, ActorTree()).start_mcp is not None
    coderd = Settings(url="http://127.0.0.1:9", gateway_key="k")
    assert make_plan(coderd, ActorTree()).start_mcp is not None
