"""Claude Code, asked one thing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from gateway_process import GatewayProcess
from system_programs import program

__all__ = ["models_asked_by_claude_code"]

USER = "claude-user"


def models_asked_by_claude_code(
    gateway: GatewayProcess, home: Path, prompt: str, model: str, environ: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Have it answer with a home of its own; client and model of each of its requests.

    ``environ`` says how it reaches the gateway, with the key of :data:`USER`.
    """
    claude = program("claude", "npm install -g @anthropic-ai/claude-code")
    done = subprocess.run(
        [claude, "-p", prompt, "--model", model],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **environ,
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = gateway.rows(f"SELECT client, model FROM interceptions WHERE username = '{USER}'")
    return [(row["client"], row["model"]) for row in rows]
