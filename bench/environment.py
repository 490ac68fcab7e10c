"""Where and with what a run was made: revision, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata

from bench.machine import describe_machine
from bench.processes import CHECKOUT

__all__ = ["describe", "git", "interpreter"]

_PACKAGES = ("gevent", "gunicorn", "falcon", "pykka", "requests", "httptools", "msgspec")


def describe() -> dict[str, object]:
    """Facts for the report."""
    return {
        "revision": _revision(),
        "python": (
            f"{platform.python_implementation()} {platform.python_version()} ({interpreter()})"
        ),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": describe_machine(),
    }


def interpreter() -> str:
    """The program of this Python, outside of any virtual environment.

    Which one it is matters: a Python built without optimisations takes a third more CPU time.
    """
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def _revision() -> str:
    """The commit, with ``+changes`` when the gateway's code differs from it."""
    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "actors", "http", "bench")
    return f"{commit}+changes" if changed else commit


def git(*arguments: str) -> str:
    """What git prints for this checkout; nothing when it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
