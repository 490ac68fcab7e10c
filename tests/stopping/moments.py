"""Doing something in a process of the gateway at a moment of its start: as it imports a module.

Python runs ``sitecustomize`` first.  What is done is done once per process, and not in those that
the gateway only starts for a command of its own.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["at_import"]

_CODE = """
import os, signal, sys, time

class Moment:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {action}

if {word!r} in sys.orig_argv:
    sys.meta_path.insert(0, Moment())
"""


def at_import(folder: Path, module: str, action: str, word: str = "start") -> dict[str, str]:
    """An environment in which commands with ``word`` run ``action``, a statement, before they
    import ``module``."""
    folder.mkdir(parents=True, exist_ok=True)
    code = _CODE.format(module=module, action=action, word=word)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}
