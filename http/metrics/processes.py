"""The gateway's processes as the kernel sees them, and which build they run.

The listener looks when it is asked: at its parent, the main process; at the worker processes, which
are those that count in the metrics' folder; and at itself.  Where there is no ``/proc`` there is
nothing to tell.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from attrs import frozen
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from aigateway.http.metrics.series import PREFIX, WORKER_PROCESSES, Description
from aigateway.http.settings.version import own_version

__all__ = ["BUILD", "PROCESS_SERIES", "Processes"]

_LABELS: Final = ("process", "pid")
_FACTOR: Final = (WORKER_PROCESSES[0] + 2, "processes")
PROCESS_SERIES: Final = tuple(
    Description(f"process_{name}", kind, text, _LABELS, (_FACTOR,))
    for name, kind, text in (
        ("cpu_seconds_total", "counter", "User and system CPU time; process is main, worker or "
         "metrics (the listener)"),
        ("resident_memory_bytes", "gauge", "Resident memory; what workers share counts in each"),
        ("virtual_memory_bytes", "gauge", "Virtual memory"),
        ("open_fds", "gauge", "Open file descriptors"),
        ("max_fds", "gauge", "The soft limit of open file descriptors"),
        ("threads", "gauge", "Threads of the operating system"),
        ("start_time_seconds", "gauge", "When the process was started (Unix time)"),
    )
)  # fmt: skip
"""Under the names that every Prometheus client uses."""
BUILD: Final = Description(
    f"{PREFIX}_build_info",
    "gauge",
    "1; which version this is",
    ("version", "python"),
    ((2, "builds"),),
)
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@frozen
class _Process:
    """What ``/proc`` says of one process, in the order of :data:`PROCESS_SERIES`."""

    kind: str
    pid: int
    values: tuple[float, ...]


class Processes(Collector):
    """Collects all of them at each scrape."""

    def __init__(self, folder: Path, main: int, proc: Path = Path("/proc")) -> None:
        """``folder`` is that of the metrics, ``main`` the main process' id."""
        self._folder = folder
        self._main = main
        self._proc = proc

    def collect(self) -> Iterable[Metric]:
        yield _build()
        found = list(self._found())
        for at, series in enumerate(PROCESS_SERIES):
            family = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
            metric = family(series.name, series.text, labels=_LABELS)
            for one in found:
                metric.add_metric((one.kind, str(one.pid)), one.values[at])
            if found:
                yield metric

    def _found(self) -> Iterator[_Process]:
        workers = {path.stem.rpartition("_")[2] for path in self._folder.glob("*_*.db")}
        kinds = {int(pid): "worker" for pid in workers if pid.isdecimal()}
        kinds |= {self._main: "main", os.getpid(): "metrics"}
        started = self._boot_time()
        for pid, kind in sorted(kinds.items()):
            # It may end while it is looked at, and another user's cannot be looked into.
            with contextlib.suppress(OSError, ValueError, IndexError):
                yield _Process(kind, pid, self._look(self._proc / str(pid), started))

    def _look(self, folder: Path, booted: float) -> tuple[float, ...]:
        # Behind the name, which may hold anything; fields as in proc_pid_stat(5), from the third.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX":
            raise ValueError("it has ended")
        limits = (folder / "limits").read_text()
        soft = limits.partition("Max open files")[2].split()[0]
        return (
            (int(fields[11]) + int(fields[12])) / _TICKS,
            int(fields[21]) * _PAGE,
            int(fields[20]),
            sum(1 for _ in (folder / "fd").iterdir()),
            float("inf") if soft == "unlimited" else int(soft),
            int(fields[17]),
            round(booted + int(fields[19]) / _TICKS, 2),
        )

    def _boot_time(self) -> float:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return float((self._proc / "stat").read_text().partition("\nbtime ")[2].split()[0])
        return 0.0


def _build() -> Metric:
    metric = GaugeMetricFamily(BUILD.name, BUILD.text, labels=BUILD.labels)
    metric.add_metric((own_version(), platform.python_version()), 1)
    return metric
