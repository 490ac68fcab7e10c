"""Claude Code as a process that is told what a user types."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_process import ClientProcess
from system_programs import program

__all__ = ["ClaudeCode"]

_QUIET = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


class ClaudeCode(ClientProcess):
    """One run of it in ``folder``."""

    def __init__(self, home: Path, folder: Path, environ: Mapping[str, str], *options: str) -> None:
        claude = program("claude", "npm install -g @anthropic-ai/claude-code")
        form = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
        self.session_id = ""
        process = subprocess.Popen(
            [claude, "-p", *form, "--allowedTools", "Agent,Bash", *options],
            env={"PATH": os.environ["PATH"], "HOME": str(home), **_QUIET, **environ},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        super().__init__(process)

    def turn(self, text: str) -> dict[str, Any]:
        """Type this; returns what it says when it is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        self._process.stdin.write(json.dumps({"type": "user", "message": message}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["type"] == "result":
                self.session_id = told["session_id"]
                assert told["subtype"] == "success", told
                return told
        raise AssertionError(f"Claude Code has ended with {self._process.wait(20)}")
