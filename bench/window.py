"""What happened between two moments: CPU of everybody, memory, steal time, upstream counters."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from bench.machine import CpuTimes, cpu_seconds, open_files, private_bytes
from bench.processes import Child
from bench.upstream import Counters, Upstream

__all__ = ["Observed", "Sample", "Window", "by_process"]


@frozen
class Sample:
    """The measured system at one moment."""

    at: float
    """Seconds since the window was opened."""
    private_bytes: int
    open_files: int
    processes: Mapping[int, tuple[int, int]] = {}
    """Private bytes and open files of each, by process id."""


@frozen
class Observed:
    """What a window has seen."""

    seconds: float
    system_cpu: float
    upstream_cpu: float
    """CPU seconds of the two process trees."""
    foreign_share: float
    """Part of the machine's CPU time that went to processes that are not the benchmark's."""
    steal_share: float
    upstream: Counters
    """What the imitation counted meanwhile."""
    samples: list[Sample]

    @property
    def peak_private_mb(self) -> float:
        return max((sample.private_bytes for sample in self.samples), default=0) / 1e6

    @property
    def peak_open_files(self) -> int:
        return max((sample.open_files for sample in self.samples), default=0)


class Window:
    """Opened by ``with``; :meth:`close` it early, or leave the block, then read ``observed``."""

    observed: Observed

    def __init__(
        self,
        children: list[Child],
        pids: Callable[[], list[int]],
        upstream: Upstream,
        period: float = 0.5,
    ) -> None:
        """``period``: seconds between two samples."""
        self._children = children
        self._pids = pids
        self._upstream = upstream
        self._period = period
        self._samples: list[Sample] = []
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._closed = False

    def __enter__(self) -> Window:
        self._began = time.monotonic()
        self._before = self._read()
        self._sampler.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def wait(self, seconds: float) -> None:
        """Let time pass inside the window."""
        time.sleep(seconds)

    @property
    def latest(self) -> Sample:
        """The last sample."""
        return self._samples[-1]

    @property
    def system_cpu_before(self) -> float:
        """CPU seconds of the measured system from its start to the window's opening."""
        return self._before.system

    def abandon(self) -> None:
        """Stop sampling if the window is still open; there is nothing to read then."""
        self._over.set()
        if self._sampler.is_alive():
            self._sampler.join()

    def close(self) -> None:
        """End the window; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        after, before = self._read(), self._before
        self._over.set()
        self._sampler.join()
        machine = after.machine - before.machine
        total = machine.busy + machine.idle + machine.steal
        foreign = machine.busy - (after.own - before.own)
        self.observed = Observed(
            seconds=after.at - before.at,
            system_cpu=after.system - before.system,
            upstream_cpu=after.upstream - before.upstream,
            foreign_share=max(foreign, 0.0) / total if total else 0.0,
            steal_share=machine.steal_share,
            upstream=after.counters - before.counters,
            samples=self._samples,
        )

    def _read(self) -> _Reading:
        return _Reading(
            at=time.monotonic(),
            system=sum(cpu_seconds(child.pid) for child in self._children),
            upstream=cpu_seconds(self._upstream.child.pid),
            own=cpu_seconds(os.getpid()),
            machine=CpuTimes.read(),
            counters=self._upstream.total(),
        )

    def _sample(self) -> None:
        while True:
            self._take()
            if self._over.wait(self._period):
                # The end is a sample too.
                self._take()
                return

    def _take(self) -> None:
        pids = self._pids()
        at = time.monotonic() - self._began
        each = {pid: (private_bytes([pid]), open_files([pid])) for pid in pids}
        private, files = (sum(values[n] for values in each.values()) for n in (0, 1))
        self._samples.append(Sample(at, private, files, each))


@frozen
class _Reading:
    at: float
    system: float
    upstream: float
    own: float
    machine: CpuTimes
    counters: Counters


def by_process(samples: Sequence[Sample]) -> dict[str, list[list[float]]]:
    """Seconds, private bytes and open files of each process over time.

    The first is ``main``, the others are ``worker 1`` and so on, as they were seen first.
    """
    found: dict[int, list[list[float]]] = {}
    for sample in samples:
        for pid, (private, files) in sorted(sample.processes.items()):
            found.setdefault(pid, []).append([sample.at, private, files])
    names = ("main", *(f"worker {number}" for number in range(1, len(found))))
    return dict(zip(names, found.values(), strict=False))
