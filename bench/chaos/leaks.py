"""What a gateway holds, and what it left behind: processes, file descriptors, files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from bench.chaos.faults import Gateway
from bench.processes import Child, running

__all__ = ["Holdings", "files_left", "processes_left", "too_much"]

SLACK = 8
"""Descriptors that a process may have more than at the start: files of its spool, pipes of its
main process, whatever it opens on first use."""
_PATIENCE = 20.0
"""Seconds in which what is superfluous may still end."""


@frozen
class Holdings:
    """The most that one of the processes has open."""

    sockets: int
    others: int

    @classmethod
    def of(cls, pids: Iterable[int]) -> Holdings:
        most_sockets = most_others = 0
        for pid in pids:
            sockets = others = 0
            with contextlib.suppress(OSError):
                for name in os.listdir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                            sockets += 1
                        else:
                            others += 1
            most_sockets, most_others = max(most_sockets, sockets), max(most_others, others)
        return cls(most_sockets, most_others)


def too_much(before: Holdings, now: Holdings, connections: int) -> list[str]:
    """What is open beyond reason, in words.

    ``connections`` to the provider may be kept for the next request, by each process.
    """
    found = []
    if now.sockets > before.sockets + connections + SLACK:
        found.append(f"a process has {now.sockets} sockets; at the start {before.sockets}")
    if now.others > before.others + SLACK:
        found.append(
            f"a process has {now.others} descriptors besides sockets; at the start {before.others}"
        )
    return found


def processes_left(gateway: Gateway, workers: int) -> list[str]:
    """Processes that should have ended, in words; waits a while for them."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = [
            f"process {pid} of a main process that is gone ({_command(pid)})"
            for child in gateway.former
            for pid in _alive(child)
        ]
        members = _alive(gateway.child)
        if len(members) != 1 + workers:
            found.append(f"the gateway has {len(members)} processes instead of {1 + workers}")
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _alive(child: Child) -> list[int]:
    return [pid for pid in child.members() if running(pid)]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
    return "gone"


def files_left(*folders: Path) -> list[str]:
    """Files below these folders, which should be empty or gone."""
    return [str(file) for folder in folders for file in sorted(folder.rglob("*"))]
