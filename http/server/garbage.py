"""Python's garbage collector in a process that serves requests.

PERF: by default it looks for cycles after 700 new objects, which is each request or two,
and now and then at everything there is, modules and code included.  Requests leave next to
no cycles behind, so looking seldom costs little memory and saves some percent of the CPU.
"""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["collect_seldom"]

YOUNG: Final = 20_000
"""New objects, less those that are gone, after which the young are looked at: about 2 MB."""
MIDDLE: Final = 20
"""Looks at the young for one at those that stayed."""
OLD: Final = 50
"""Looks at those for one at all."""


def collect_seldom() -> None:
    """Leave alone what is there now, and look at what comes less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
