"""For a process that has this folder on PYTHONPATH: its clock is ahead by the seconds that stand in
the file that AHEAD_FILE names."""

from __future__ import annotations

import os
import time

_real = time.time
_file = os.environ.get("AHEAD_FILE", "")


def _ahead() -> float:
    with open(_file) as file:
        return _real() + float(file.read() or 0)


if _file:
    time.time = _ahead
