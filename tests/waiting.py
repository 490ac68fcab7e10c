"""Waiting for what no event tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["PATIENCE", "wait_until"]

PATIENCE = 30.0
"""Seconds that anything may take on a slow machine before a test gives up."""

_pause = threading.Event()


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for ``condition`` to hold and return its value; fail with ``what`` in the text."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:g} s: {what}")
        _pause.wait(0.005)
    return value
