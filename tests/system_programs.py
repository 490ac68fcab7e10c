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


def program(name: str, way: str) -> str:
    """Where the program is, which is installed by ``way``; a skip without it, in CI a failure.

    Those that ``.ci/run`` could not install and says so are in AIGATEWAY_TESTS_WITHOUT; they are a
    skip there too.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        reason = f"{name} is not installed, try: {way}"
        if name in os.environ.get("AIGATEWAY_TESTS_WITHOUT", "").split():
            pytest.skip(reason)
        unavailable(reason)
    return found
