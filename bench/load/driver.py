"""A load driver's process, seen from the benchmark."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeAlias

import attrs
from attrs import frozen

from bench.load.histogram import Histogram
from bench.load.spec import AgentsSpec, CallsSpec, StreamsSpec
from bench.processes import CHECKOUT, Child

__all__ = ["Driver", "DriverFailed", "LoadResult", "Spec", "say"]

SLACK = 60.0
"""Seconds that a driver may take longer than it was told to."""


class DriverFailed(Exception):
    """A load driver did not do what it was told; the text has its last words."""


@frozen
class LoadResult:
    """What clients saw."""

    numbers: dict[str, float]
    histograms: dict[str, Histogram]
    errors: dict[str, int]
    """Failed requests by reason."""
    driver: str
    """The program that sent the load, for the report."""

    @classmethod
    def from_json(cls, value: dict[str, Any], driver: str) -> Self:
        histograms = {k: Histogram.from_json(v) for k, v in value["histograms"].items()}
        return cls(value["numbers"], histograms, value["errors"], driver)


Spec: TypeAlias = AgentsSpec | CallsSpec | StreamsSpec
_PROGRAMS = {AgentsSpec: "agents", CallsSpec: "calls", StreamsSpec: "streams"}


class Driver:
    """Runs one of our own drivers; :meth:`wait` returns its result."""

    def __init__(self, spec: Spec, folder: Path, name: str) -> None:
        self.name = f"bench.load.{_PROGRAMS[type(spec)]}"
        self._limit = spec.seconds + spec.grace + SLACK
        if not isinstance(spec, CallsSpec):
            self._limit += spec.ramp
        file = folder / f"{name}.json"
        file.write_text(json.dumps(attrs.asdict(spec)))
        self.child = Child(
            [sys.executable, "-m", self.name, str(file)],
            folder / f"{name}.log",
            cwd=CHECKOUT,
            piped=True,
        )
        self._buffer = b""

    def wait(self, on_phase: Callable[[str], None] = lambda _phase: None) -> LoadResult:
        """Wait for the result; ``on_phase`` hears of ``measuring`` and ``measured`` at once.

        Raises DriverFailed.
        """
        deadline = time.monotonic() + self._limit
        while True:
            said = json.loads(self._line(deadline))
            if "phase" in said:
                on_phase(said["phase"])
            else:
                return LoadResult.from_json(said["result"], self.name)

    def _line(self, deadline: float) -> bytes:
        pipe = self.child.process.stdout
        assert pipe is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise DriverFailed(f"{self.name} took more than {self._limit:.0f} s")
            # read1 takes what is there; read would wait for more.
            data = pipe.read1(65536)  # type: ignore[attr-defined]
            if not data:
                raise DriverFailed(f"{self.name} ended early:\n{self.child.last_words()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.child.stop()


def say(**what: Any) -> None:
    """In a driver: tell the benchmark."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
