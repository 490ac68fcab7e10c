"""Which MCP servers a user may use, and with which tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
from google.protobuf.message import DecodeError

from aigateway.actors.control.coderd._calls import Calls, RpcCall
from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.messages import (
    GetMcpConfiguration,
    McpConfiguration,
    McpServer,
    Unavailable,
)
from aigateway.actors.control.rpc_results import RpcAnswer, RpcResult

__all__ = ["McpServers"]

log = structlog.get_logger("ai-gateway.coderd")

McpAnswerer = Callable[[GetMcpConfiguration, McpConfiguration | Unavailable], None]


class McpServers:
    """Answers :class:`GetMcpConfiguration`; used in the actor's thread only."""

    def __init__(self, calls: Calls, answer: McpAnswerer, timeout: float) -> None:
        self._calls = calls
        self._answer = answer
        self._timeout = timeout

    def look_up(self, message: GetMcpConfiguration) -> None:
        data = pb.GetMCPServerConfigsRequest(user_id=message.user_id).SerializeToString()
        self._calls.ask(
            RpcCall(
                rpc="/proto.MCPConfigurator/GetMCPServerConfigs",
                request=lambda _version: data,
                done=lambda outcome: self._configured(message, outcome),
                timeout=self._timeout,
            )
        )

    def _configured(self, message: GetMcpConfiguration, outcome: RpcResult) -> None:
        if not isinstance(outcome, RpcAnswer):
            text = f"get MCP server configs: {outcome.text}"
            self._answer(message, Unavailable(text))
            return
        try:
            found = pb.GetMCPServerConfigsResponse.FromString(outcome.data)
        except DecodeError as ex:
            self._answer(message, Unavailable(f"get MCP server configs: {ex}"))
            return
        servers = []
        if found.HasField("coder_mcp_config"):
            servers = _coder_server(found.coder_mcp_config, message.session_token)
        external = list(found.external_auth_mcp_configs)
        if not external:
            # coderd does not look at the user before it says which servers there are.
            nobody = not found.HasField("coder_mcp_config")
            self._conclude(message, servers, for_all=nobody)
            return
        request = pb.GetMCPServerAccessTokensBatchRequest(
            user_id=message.user_id, mcp_server_config_ids=sorted({item.id for item in external})
        )
        self._calls.ask(
            RpcCall(
                rpc="/proto.MCPConfigurator/GetMCPServerAccessTokensBatch",
                request=lambda _version: request.SerializeToString(),
                done=lambda outcome: self._tokens_known(message, servers, external, outcome),
                timeout=self._timeout,
            )
        )

    def _tokens_known(
        self,
        message: GetMcpConfiguration,
        servers: list[McpServer],
        external: list[pb.MCPServerConfig],
        outcome: RpcResult,
    ) -> None:
        try:
            if not isinstance(outcome, RpcAnswer):
                raise DecodeError(outcome.text)
            found = pb.GetMCPServerAccessTokensBatchResponse.FromString(outcome.data)
        except DecodeError as ex:
            # The user's own Coder server needs no token from there.
            log.warning("failed to retrieve access token(s)", error=str(ex))
        else:
            for config in external:
                servers += _external_server(config, found.access_tokens, found.errors)
        self._conclude(message, servers)

    def _conclude(
        self, message: GetMcpConfiguration, servers: list[McpServer], *, for_all: bool = False
    ) -> None:
        ordered = tuple(sorted(servers, key=lambda server: server.id))
        self._answer(message, McpConfiguration(ordered, for_all))


def _coder_server(config: pb.MCPServerConfig, token: str) -> list[McpServer]:
    """coderd's own server, which takes the user's Coder token."""
    if not token:
        log.debug("the Coder MCP server is left out: the request has no Coder token")
        return []
    return [_server(config, token)]


def _external_server(
    config: pb.MCPServerConfig, tokens: Mapping[str, str], errors: Mapping[str, str]
) -> list[McpServer]:
    if config.id in errors:
        log.debug("failed to get access token", mcp_server=config.id, error=errors[config.id])
        return []
    token = tokens.get(config.id, "")
    if not token:
        log.warning("no access token found", mcp_server=config.id)
        return []
    return [_server(config, token)]


def _server(config: pb.MCPServerConfig, token: str) -> McpServer:
    return McpServer(
        id=config.id,
        url=config.url,
        token=token,
        tool_allow_regex=config.tool_allow_regex,
        tool_deny_regex=config.tool_deny_regex,
    )
