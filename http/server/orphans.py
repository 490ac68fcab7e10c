"""No worker process outlives its main process by more than the work it has in hand.

It would keep the address, so that the next start finds it in use.  A worker that serves also
looks at its parent each second (:meth:`.ending.EndingWorker.notify`); before that it looks nowhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

__all__ = ["end_with"]

_PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""


def end_with(parent: int, sig: signal.Signals) -> None:
    """Let the kernel send ``sig`` to this process when ``parent`` ends, where it can (Linux).

    It forgets this when the process changes its user.  Ends the process if ``parent`` is gone.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent:
        # It has ended between the fork and here, and this process serves nobody yet.
        os._exit(0)
