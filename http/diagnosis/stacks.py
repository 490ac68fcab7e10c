"""Where every thread and every greenlet of this process is, seen from outside of all of them.

A stack is a tuple of lines ``package/module.py:123 function``, outermost first, as in a
traceback.  Nothing of a frame's variables is in it, nor of the source, nor of anybody's folders.

Called in a native thread (:mod:`.service`), so nothing here may use what gevent has replaced.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Literal, TypeAlias

from attrs import frozen

__all__ = ["Executing", "Process", "Stack", "native", "stack_of"]

OUTER, INNER = 5, 45
"""Lines that are kept of the two ends of a stack: a recursion has thousands."""
_HERE = __name__.rpartition(".")[0].replace(".", "/") + "/"

Stack: TypeAlias = tuple[str, ...]


def native(module: str, name: str) -> Any:
    """What the standard library has under ``name``, whether gevent has replaced it or not."""
    if "gevent" in sys.modules:
        from gevent.monkey import get_original

        return get_original(module, name)
    return getattr(sys.modules[module], name)


@frozen
class Executing:
    """A thread or greenlet that has something on its stack."""

    kind: Literal["thread", "greenlet"]
    ident: int
    """``threading.get_ident()`` as code in it sees it."""
    name: str
    """As the threading module knows it; empty for a greenlet that is no thread to it."""
    stack: Stack


class Process:
    """This process, for a thread that looks at it from outside.  Make it in the main thread."""

    def __init__(self) -> None:
        self._main = native("_thread", "get_ident")()
        self._main_greenlet = 0
        """``id`` of the greenlet that is the main thread itself; 0 without greenlets."""
        if "greenlet" in sys.modules:
            self._main_greenlet = id(_root(sys.modules["greenlet"].getcurrent()))
        self._remembered: list[weakref.ref[Any]] = []

    def remember(self) -> None:
        """Keep the greenlets that there are now in mind: ``gc.freeze()`` hides them."""
        self._remembered = [weakref.ref(one) for one in self._greenlets()]

    def executing(self) -> list[Executing]:
        """All that has something on its stack, but for the threads of this package.

        The greenlet that the main thread runs at this moment is shown in the place of that
        thread.
        """
        frames = dict(sys._current_frames())
        frames.pop(native("_thread", "get_ident")(), None)
        names = {ident: thread.name for ident, thread in dict(_known_threads()).items()}
        found = [
            Executing("greenlet", ident, names.get(ident, ""), stack_of(frame))
            for ident, frame in self._suspended(frames)
        ]
        for ident, frame in frames.items():
            found.append(Executing("thread", ident, names.get(ident, ""), stack_of(frame)))
        return [one for one in found if not one.stack[0].startswith(_HERE)]

    def _suspended(self, frames: dict[int, FrameType]) -> Iterator[tuple[int, FrameType]]:
        """Each greenlet with its innermost frame; takes the main thread's out of ``frames``."""
        for one in self._greenlets():
            frame = one.gr_frame
            if frame is None and one and id(_root(one)) == self._main_greenlet:
                # It has no frame of its own while it runs.
                frame = frames.pop(self._main, None)
            if frame is not None:
                yield id(one), frame

    def _greenlets(self) -> list[Any]:
        if not self._main_greenlet:
            return []
        kind = sys.modules["greenlet"].greenlet
        # By type: an isinstance() would ask objects that answer in code of their own.
        found = [one for one in gc.get_objects() if issubclass(type(one), kind)]
        known = {id(one) for one in found}
        remembered = [one for ref in self._remembered if (one := ref()) is not None]
        return found + [one for one in remembered if id(one) not in known]


def stack_of(frame: FrameType | None) -> Stack:
    """The lines of a stack whose innermost frame is ``frame``."""
    lines = []
    while frame is not None:
        code = frame.f_code
        lines.append(f"{_file(frame)}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    lines.reverse()
    if len(lines) > OUTER + INNER:
        left_out = f"... {len(lines) - OUTER - INNER} more ..."
        lines = [*lines[:OUTER], left_out, *lines[-INNER:]]
    return tuple(lines)


def _file(frame: FrameType) -> str:
    """A file by the name of its module: where it is installed is nobody's business."""
    module = frame.f_globals.get("__name__")
    file = frame.f_code.co_filename
    if not isinstance(module, str) or module == "__main__":
        return file.rpartition("/")[2]
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if file.endswith("/__init__.py") else f"{path}.py"


def _root(greenlet: Any) -> Any:
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet


def _known_threads() -> Mapping[int, threading.Thread]:
    # threading.enumerate() takes a lock, which may be gevent's or held by a thread that hangs.
    return threading._active  # type: ignore[attr-defined,no-any-return]
