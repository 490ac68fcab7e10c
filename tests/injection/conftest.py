from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider
from mcp_process import SDK_SERVER, mcp_server

TESTS = Path(__file__).parents[1]
# Peers of neighbours: an MCP server that does what a test says, and both coderds.
sys.path += [str(TESTS / "mcp"), str(TESTS / "gateway")]


@pytest.fixture(scope="session")
def mcp_url() -> Iterator[str]:
    with mcp_server(SDK_SERVER) as url:
        yield url


@pytest.fixture(scope="module")
def rounds_provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def tooled_gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    rounds_provider: ScriptedProvider,
    mcp_url: str,
) -> Iterator[GatewayProcess]:
    """A gateway whose users have the tools of :func:`mcp_url`, and of a server that is away."""
    folder = tmp_path_factory.mktemp("tooled")
    config = folder / "gateway.yaml"
    config.write_text(
        "ai_gateway:\n"
        "  mcp_servers:\n"
        f"    - {{id: sdk, url: '{mcp_url}', tool_deny_regex: '^where$'}}\n"
        "    - {id: away, url: 'http://127.0.0.1:9/mcp'}\n"
    )
    upstreams = [
        Upstream("anthropic", rounds_provider.url),
        Upstream("openai", rounds_provider.url),
        Upstream("gemini", rounds_provider.url),
    ]
    options = [
        "--config",
        str(config),
        "--worker-class",
        request.param,
        "--keepalive-ping",
        "300ms",
        "--mcp-max-iterations",
        "3",
    ]
    with GatewayProcess(folder, upstreams, options) as gateway:
        yield gateway
