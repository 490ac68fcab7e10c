"""The wall clock of the gateway's processes, which jumps without the machine's.

Only root can set a machine's clock, and everybody else has it too; a time namespace does not have
one of its own.  So ``clock.c`` is compiled and loaded into the gateway's processes, and adds to
what the kernel says.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from bench.chaos.plan import Fault

__all__ = ["Clock", "ClockUnavailable"]

STEPS = (-172_800, -3_600, -90, 0, 90, 3_600, 172_800)
"""Seconds beside the true time: two days, an hour, a minute and a half."""
_OFFSET = struct.Struct("d")


class ClockUnavailable(Exception):
    """No clock can be set here; the text says why."""


class Clock:
    """A clock that stays where it was put, over restarts of the gateway."""

    def __init__(self, folder: Path) -> None:
        """Build it in ``folder``.  Raises ClockUnavailable."""
        library = folder / "clock.so"
        self._file = folder / "clock"
        self._put(0)
        compiler = shutil.which("cc")
        if compiler is None:
            raise ClockUnavailable("there is no C compiler (cc)")
        source = Path(__file__).with_suffix(".c")
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ClockUnavailable(f"cc: {done.stderr.strip()[-150:]}")
        self.environ = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}
        """For the processes that are to have it."""

    def begin(self, fault: Fault) -> None:
        self._put(STEPS[fault.choice % len(STEPS)])

    def end(self) -> None:
        """It stays there until it jumps again."""

    def _put(self, seconds: int) -> None:
        # In place: processes have the file mapped.
        with open(self._file, "r+b" if self._file.exists() else "w+b") as file:
            file.write(_OFFSET.pack(seconds))
