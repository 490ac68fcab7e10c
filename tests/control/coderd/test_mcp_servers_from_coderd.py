"""Which MCP servers a user may use, as coderd says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from coderd_talk import Talk
from fake_coderd import FakeCoderd

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.messages import McpConfiguration, McpServer, Unavailable

USER = "c0ffee00-1111-4222-8333-444455556666"


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture
def talk(coderd: FakeCoderd) -> Iterator[Talk]:
    with Talk(coderd) as talk:
        yield talk


def config(id: str, **fields: str) -> pb.MCPServerConfig:
    return pb.MCPServerConfig(id=id, url=f"https://{id}.example/mcp", **fields)


def test_nobody_has_configured_anything(talk: Talk) -> None:
    found = talk.mcp(USER, "token")
    assert (found, found.for_all) == (McpConfiguration(), True)
    assert talk.coderd.calls("GetMCPServerConfigs") == [pb.GetMCPServerConfigsRequest(user_id=USER)]
    assert talk.coderd.deployment.count_calls("GetMCPServerAccessTokensBatch") == 0


def test_coderds_own_server_takes_the_users_token(talk: Talk) -> None:
    talk.coderd.deployment.coder_mcp = config("coder")
    assert talk.mcp(USER, "tok-alice-secret") == McpConfiguration(
        (McpServer("coder", "https://coder.example/mcp", "tok-alice-secret"),)
    )
    found = talk.mcp(USER, "")
    assert (found, found.for_all) == (McpConfiguration(), False)


def test_external_servers_come_with_their_tokens_in_order(talk: Talk) -> None:
    deployment = talk.coderd.deployment
    deployment.coder_mcp = config("coder")
    deployment.mcp_servers = (
        config("slack", tool_deny_regex="delete"),
        config("github", tool_allow_regex="^get_", tool_deny_regex="secret"),
    )
    deployment.mcp_tokens = {"github": "gh-token", "slack": "sl-token", "other": "x"}
    assert talk.mcp(USER, "session").servers == (
        McpServer("coder", "https://coder.example/mcp", "session"),
        McpServer("github", "https://github.example/mcp", "gh-token", "^get_", "secret"),
        McpServer("slack", "https://slack.example/mcp", "sl-token", "", "delete"),
    )
    assert talk.coderd.calls("GetMCPServerAccessTokensBatch") == [
        pb.GetMCPServerAccessTokensBatchRequest(
            user_id=USER, mcp_server_config_ids=["github", "slack"]
        )
    ]


def test_a_server_without_a_token_is_left_out(talk: Talk) -> None:
    deployment = talk.coderd.deployment
    deployment.mcp_servers = (config("expired"), config("unlinked"), config("fine"))
    deployment.mcp_tokens = {"fine": "t"}
    deployment.mcp_errors = {"expired": "expired or invalid OAuth2 token"}
    with structlog.testing.capture_logs() as logs:
        assert [server.id for server in talk.mcp(USER).servers] == ["fine"]
    told = {(entry["log_level"], entry["event"], entry["mcp_server"]) for entry in logs}
    assert told == {
        ("debug", "failed to get access token", "expired"),
        ("warning", "no access token found", "unlinked"),
    }


@pytest.mark.parametrize("how", ["fail", "garble"])
def test_tokens_that_cannot_be_had_leave_coderds_own_server(talk: Talk, how: str) -> None:
    talk.coderd.deployment.coder_mcp = config("coder")
    talk.coderd.deployment.mcp_servers = (config("github"),)
    rpc = "GetMCPServerAccessTokensBatch"
    if how == "fail":
        talk.coderd.faults.fail(rpc, "parse user_id: bad")
    else:
        talk.coderd.faults.garble(rpc, b"\xff\xff\xff")
    with structlog.testing.capture_logs() as logs:
        assert [server.id for server in talk.mcp(USER, "t").servers] == ["coder"]
    assert [entry["event"] for entry in logs] == ["failed to retrieve access token(s)"]


def test_a_configuration_that_cannot_be_had_means_ask_later(talk: Talk) -> None:
    talk.coderd.faults.fail("GetMCPServerConfigs", "no database", times=1)
    assert talk.mcp(USER) == Unavailable("get MCP server configs: no database")
    talk.coderd.faults.garble("GetMCPServerConfigs", b"\xff\xff\xff", times=1)
    answer = talk.mcp(USER)
    assert isinstance(answer, Unavailable)
    assert answer.message.startswith("get MCP server configs: ")


def test_tokens_are_not_shown() -> None:
    assert "hush" not in repr(McpServer("a", "https://a", "hush"))
