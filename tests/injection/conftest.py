from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider

TESTS = Path(__file__).parents[1]
SDK_SERVER = TESTS / "mcp" / "mcp_sdk_server.py"
# Peers of neighbours: an MCP server that does what a test says, and both coderds.
sys.path += [str(TESTS / "mcp"), str(TESTS / "gateway")]


@pytest.fixture(scope="session")
def mcp_url() -> Iterator[str]:
    """The official Python SDK's server, with its tools add, broken, slow and others."""
    with subprocess.Popen(
        [sys.executable, str(SDK_SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, "the server did not start"
            yield f"http://127.0.0.1:{port.decode()}/mcp"
        finally:
            # The server ends when its standard input does.
            process.stdin.close()
            process.wait(10)


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
