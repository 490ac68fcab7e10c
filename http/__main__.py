"""``python -m aigateway.http`` and the console script ``aigateway``."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]

if "start" in sys.argv[1:2]:
    # The first process of a container does not get a signal that it has no handler for, and others
    # die of it.  Until there is something to stop, to stop is to end; imports alone take a third of
    # a second.
    for _number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(_number, lambda _number, _frame: os._exit(0))
    # What asks for something else waits until there is somebody to do it: the main process lets
    # it in with its own handlers.
    signal.pthread_sigmask(
        signal.SIG_BLOCK,
        {
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGWINCH,
            signal.SIGTTIN,
            signal.SIGTTOU,
        },
    )


def main() -> None:
    """Run the command line and exit with its code."""
    from aigateway.http.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
