"""Programs that some tests run, and what becomes of a test where they are missing."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

__all__ = ["program", "unavailable"]


def unavailable(reason: str) -> NoReturn:
    """Skip the calling test; fail it in CI, where all tests must run."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """Where the program is; a skip without it, in CI a failure."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        unavailable(f"{name} is not installed, try: apt-get install {package}")
    return found
