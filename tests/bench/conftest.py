from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
# The harness is run from the checkout and is not part of the package.
sys.path.insert(0, str(CHECKOUT))


@pytest.fixture
def marked_environ() -> dict[str, str]:
    """An environment by which a process and all its descendants can be recognised."""
    return {**os.environ, "BENCH_TEST": uuid.uuid4().hex, "COLUMNS": "200"}


@pytest.fixture
def left_over(marked_environ: dict[str, str]) -> Callable[[], list[str]]:
    """The command lines of processes that were started in ``marked_environ``."""
    mark = f"BENCH_TEST={marked_environ['BENCH_TEST']}".encode()

    def find() -> list[str]:
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if mark in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    # What has ended but was not waited for has no command line.
                    found += [command] if command else []
            except OSError:
                continue
        return found

    return find
