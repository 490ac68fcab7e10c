"""What the kernel says about processes and the machine: /proc, nothing else.

CPU time of a tree is the sum of each member's own time and of the time of the children that
it has waited for, so workers that died during a measurement count too.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from attrs import frozen

__all__ = [
    "CpuTimes",
    "ProcessTable",
    "cpu_seconds",
    "describe_machine",
    "open_files",
    "private_bytes",
    "resident_bytes",
]

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


@frozen
class ProcessTable:
    """Who is whose child, at one moment."""

    parents: dict[int, int]
    sessions: dict[int, int]

    @classmethod
    def read(cls) -> Self:
        parents, sessions = {}, {}
        for name in os.listdir("/proc"):
            if name.isdigit() and (fields := _stat(int(name))):
                parents[int(name)] = int(fields[1])
                sessions[int(name)] = int(fields[3])
        return cls(parents, sessions)

    def tree(self, root: int) -> list[int]:
        """``root``, its descendants, and all that are in the session that ``root`` leads."""
        found = {root} if root in self.parents else set()
        found |= {pid for pid, session in self.sessions.items() if session == root}
        grown = True
        while grown:
            more = {pid for pid, parent in self.parents.items() if parent in found} - found
            grown = bool(more)
            found |= more
        return sorted(found)


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat after the name; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def cpu_seconds(root: int) -> float:
    """CPU time, user and system, that the whole tree below ``root`` has used so far."""
    total = 0
    for pid in ProcessTable.read().tree(root):
        if fields := _stat(pid):
            # utime, stime, cutime, cstime: fields 14 to 17 of proc(5).
            total += sum(int(field) for field in fields[11:15])
    return total * _TICK


def private_bytes(pids: Iterable[int]) -> int:
    """Memory that would be free if these processes ended: Private_Clean + Private_Dirty."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith((b"Private_Clean:", b"Private_Dirty:")):
                    total += int(line.split()[1]) * 1024
    return total


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory, shared pages counted once per process."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def open_files(pids: Iterable[int]) -> int:
    """File descriptors that these processes have open."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/fd"))
    return total


@frozen
class CpuTimes:
    """The machine's CPU time since it booted, in seconds summed over its CPUs."""

    busy: float
    idle: float
    steal: float

    @classmethod
    def read(cls) -> Self:
        with open("/proc/stat", "rb") as file:
            fields = [int(field) * _TICK for field in file.readline().split()[1:9]]
        user, nice, system, idle, iowait, irq, softirq, steal = fields
        return cls(user + nice + system + irq + softirq, idle + iowait, steal)

    def __sub__(self, other: CpuTimes) -> CpuTimes:
        return CpuTimes(self.busy - other.busy, self.idle - other.idle, self.steal - other.steal)

    @property
    def steal_share(self) -> float:
        """Part of the CPU time that the hypervisor gave to somebody else."""
        total = self.busy + self.idle + self.steal
        return self.steal / total if total else 0.0


def describe_machine() -> dict[str, str | int]:
    """CPU model and count, memory, kernel and system."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = Path("/proc/meminfo").read_text().split(None, 2)[1]
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": int(memory) // 1024,
        "kernel": platform.release(),
        "system": release.get("PRETTY_NAME", platform.system()),
        "hypervisor": "yes" if "hypervisor" in Path("/proc/cpuinfo").read_text() else "no",
    }
