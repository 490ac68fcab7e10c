"""The reference server "everything" from npm, as a process."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from mcp_scripted_server import eventually
from system_programs import unavailable

__all__ = ["address", "everything"]

PACKAGE = "@modelcontextprotocol/server-everything"
VERSION = "2026.8.31"
"""Pinned: its tools are named below."""


def installed() -> Path:
    """The server's program, installed once into a folder outside the checkout."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        unavailable("node and npm are needed for the server from npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigateway-tests"
    folder = cache / f"server-everything-{VERSION}"
    program = folder / "node_modules" / PACKAGE / "dist" / "index.js"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as fresh:
        npm = ["npm", "install", "--prefix", fresh, "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            [*npm, f"{PACKAGE}@{VERSION}"], capture_output=True, text=True, timeout=100, check=False
        )
        if done.returncode:
            unavailable(f"npm could not install {PACKAGE}: {done.stderr.strip()[-300:]}")
        # Somebody else may have been quicker.
        with contextlib.suppress(OSError):
            Path(fresh).rename(folder)
            Path(fresh).mkdir()
    return program


def ports_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Where it listens: it does not say which port the system chose."""
    connections = psutil.Process(process.pid).net_connections(kind="tcp")
    return [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]


@contextlib.contextmanager
def everything(port: int = 0) -> Iterator[int]:
    """Run the server; yields its port."""
    command = ["node", str(installed()), "streamableHttp"]
    with subprocess.Popen(
        command, env={**os.environ, "PORT": str(port)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            (port,) = eventually(lambda: ports_of(process), timeout=20)
            yield port
        finally:
            process.kill()


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"
