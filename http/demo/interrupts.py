"""Ctrl-C that ends things in good order."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

__all__ = ["Interrupts"]


class Interrupts:
    """While active, a signal to end sets :attr:`stopped` and wakes :meth:`wait`.

    No exception strikes in the middle of a clean-up, however often the user presses Ctrl-C.
    To be used in the main thread.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.stopped = False
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float) -> bool:
        """Wait for a signal; say whether there was one."""
        if not self.stopped:
            select.select([self._reader], [], [], seconds)
        return self.stopped

    def given_up(self) -> bool:
        """:attr:`stopped`, as a function."""
        return self.stopped

    def _notice(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b".")
