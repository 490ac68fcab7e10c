"""The SDKs of npm, as processes: a script is run beside them, and what it prints is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system_programs import unavailable

__all__ = ["run_node"]

PACKAGES: Mapping[str, str] = {
    "@ai-sdk/amazon-bedrock": "5.0.101",
    "@ai-sdk/anthropic": "4.0.105",
    "@ai-sdk/azure": "4.0.85",
    "@ai-sdk/google": "4.0.121",
    "@ai-sdk/openai": "4.0.118",
    "@ai-sdk/openai-compatible": "3.0.92",
    "@anthropic-ai/bedrock-sdk": "1.1.3",
    "@anthropic-ai/vertex-sdk": "1.1.3",
    "ai": "7.0.173",
    "openai": "6.49.0",
}
"""Pinned: a new one is tried when somebody is there to look."""


def installed() -> Path:
    """The folder with all of them, made once, outside the checkout."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        unavailable("node and npm are needed for the SDKs from npm")
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigateway-tests"
    folder = cache / f"sdks-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as fresh:
        npm = ["npm", "install", "--prefix", fresh, "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            [*npm, *wanted], capture_output=True, text=True, timeout=110, check=False
        )
        if done.returncode:
            unavailable(f"npm could not install the SDKs: {done.stderr.strip()[-300:]}")
        # Somebody else may have been quicker.
        with contextlib.suppress(OSError):
            Path(fresh).rename(folder)
            Path(fresh).mkdir()
    return folder


def run_node(script: str, environ: Mapping[str, str]) -> Any:
    """Run a module (with ``await`` at its top); the JSON that it prints."""
    folder = installed()
    with tempfile.NamedTemporaryFile("w", suffix=".mjs", dir=folder) as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            ["node", file.name],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
