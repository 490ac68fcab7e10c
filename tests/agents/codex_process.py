"""Codex as a process that is told what a user types, as its own editors tell it.

https://developers.openai.com/codex/app-server has the messages: JSON, one on each line.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_process import ClientProcess
from system_programs import program

__all__ = ["Codex"]


class Codex(ClientProcess):
    """One run of it in ``folder``."""

    def __init__(self, home: Path, folder: Path, environ: Mapping[str, str], *options: str) -> None:
        codex = program("codex", "npm install -g @openai/codex")
        self.folder = folder
        self._asked = 0
        process = subprocess.Popen(
            [codex, *options, "app-server"],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), **environ},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        super().__init__(process)
        client = {"name": "codex-tui", "title": "Codex", "version": "0.171.0"}
        self.ask("initialize", clientInfo=client)
        self._send({"method": "initialized"})

    def begin(self, model: str) -> str:
        """Begin a thread; its id."""
        return str(self.ask("thread/start", model=model, cwd=str(self.folder))["thread"]["id"])

    def turn(self, thread: str, text: str) -> None:
        """Type this, and wait until it is done."""
        self.ask("turn/start", threadId=thread, input=[{"type": "text", "text": text}])
        self._wait_for(thread)

    def compact(self, thread: str) -> None:
        """Type ``/compact``, and wait until it is done."""
        self.ask("thread/compact/start", threadId=thread)
        self._wait_for(thread)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Its answer."""
        self._asked += 1
        self._send({"id": self._asked, "method": method, "params": params})
        while True:
            told = self._next()
            if told.get("id") == self._asked and "method" not in told:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result

    def _wait_for(self, thread: str) -> None:
        while True:
            told = self._next()
            params = told.get("params") or {}
            if told.get("method") == "turn/completed" and params["threadId"] == thread:
                assert params["turn"]["status"] == "completed", told
                return

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"Codex has ended with {self._process.wait(20)}"
        message: dict[str, Any] = json.loads(line)
        return message
