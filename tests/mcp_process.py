"""MCP servers as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SDK_SERVER", "mcp_server"]

SDK_SERVER = Path(__file__).parent / "mcp" / "mcp_sdk_server.py"
"""The official Python SDK's, with its tools add, broken, slow and others."""


@contextmanager
def mcp_server(script: Path, *options: str) -> Iterator[str]:
    """Run a server that says its port and ends with its standard input; yields its address."""
    with subprocess.Popen(
        [sys.executable, str(script), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, "the server did not start"
            yield f"http://127.0.0.1:{port.decode()}/mcp"
        finally:
            process.stdin.close()
            process.wait(10)
