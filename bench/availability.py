"""What is there and what is not: systems may be absent, and are then reported as such."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Absent", "cache_folder"]


class Absent(Exception):
    """Something that a measurement needs is not available here; the text says why."""


def cache_folder() -> Path:
    """Where peers are installed: $AIGATEWAY_BENCH_CACHE, or the user's cache folder."""
    if own := os.environ.get("AIGATEWAY_BENCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigateway-bench"
