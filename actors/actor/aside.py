"""Work that would hold up all greenlets, done in a thread beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

__all__ = ["aside"]

T = TypeVar("T")


def aside(do: Callable[[], T]) -> T:
    """Do it in a thread of the operating system where threads are greenlets, and others go on;
    else at once.  Returns and raises what it does."""
    # Not known when this is imported: the main process does that too, which is never patched.
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("_thread"):
        return do()
    import gevent

    done: list[T] = []

    def kept() -> Exception | None:
        # gevent would print the traceback of an exception that leaves the thread.
        try:
            done.append(do())
        except Exception as ex:
            return ex
        return None

    error = gevent.get_hub().threadpool.apply(kept)
    if error is not None:
        raise error
    return done[0]
