"""A coding agent as a process that is told by its standard input what a user types."""

from __future__ import annotations

import subprocess
from typing import Self

__all__ = ["ClientProcess"]


class ClientProcess:
    """Use it as a context manager, which ends it in good order."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.stdout.close()
            self._process.wait(20)
