"""Go programs that tests need, built on first use."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from system_programs import unavailable

__all__ = ["build"]


def build(sources: Path, name: str) -> Path:
    """Build the program of this folder unless these sources were built before; return it.

    It lies in the user's cache folder, named after a hash of the sources.  Without Go the
    calling test is skipped, but fails where ``CI`` is set: there Go must be present.
    """
    go = shutil.which("go")
    if go is None:
        unavailable(f"{name} needs Go (https://go.dev/dl) on PATH")
    program = _cache() / f"{name}-{_fingerprint(sources)}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            fresh = Path(folder) / name
            command = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(fresh), "."]
            done = subprocess.run(
                command, cwd=sources, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if done.returncode != 0:
                pytest.fail(f"go build of {sources} failed:\n{done.stdout}")
            # Whole or not at all: several test runs may build at once.
            fresh.replace(program)
    return program


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aigateway-tests"


def _fingerprint(sources: Path) -> str:
    digest = hashlib.sha256()
    for source in sorted(sources.rglob("*")):
        if source.suffix in (".go", ".mod", ".sum"):
            digest.update(source.relative_to(sources).as_posix().encode() + b"\0")
            digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
