"""A whole run: prepare the systems, measure step by step, save after each."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from bench.availability import Absent
from bench.environment import describe
from bench.options import Options
from bench.plan import Step, plan
from bench.results import Measurement, Results
from bench.runner import measure
from bench.scenarios import Scenario
from bench.systems import System
from bench.systems.packages import Program, debian_program

__all__ = ["Campaign"]


class Campaign:
    """Prepare it, then :meth:`run` it; ``results`` is what there is so far."""

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        systems: Sequence[System],
        options: Options,
        folder: Path,
    ) -> None:
        """``folder`` gets result.json, and what failed measurements left behind."""
        self._scenarios = list(scenarios)
        self._systems = list(systems)
        self._options = options
        self.folder = folder
        self._wrk: Program | None = None
        self.results = Results(
            about={
                **describe(),
                "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
                "options": attrs.asdict(options),
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            systems={},
            scenarios={
                each.name: {
                    "title": each.title,
                    "about": each.about.format(**attrs.asdict(options)),
                    "versus": each.versus,
                }
                for each in scenarios
            },
        )

    def prepare(self, say: Callable[[str], None]) -> None:
        """Find or install every system and the load driver; note who is absent."""
        present = []
        for system in self._systems:
            entry = {"title": system.title, "does": system.does}
            try:
                entry["version"] = system.prepare(say)
                present.append(system)
            except Absent as ex:
                entry["absent"] = str(ex)
            self.results.systems[system.name] = entry
        self._systems = present
        try:
            self._wrk = debian_program("wrk", ["wrk", "libluajit-5.1-2"], say)
            self.results.about["load_driver"] = "wrk"
        except Absent as ex:
            self.results.about["load_driver"] = f"bench.load.calls (no wrk: {ex})"
        for scenario in self._scenarios:
            for system in present:
                if reason := scenario.unsuitable(system):
                    self.results.left_out.append(
                        {"scenario": scenario.name, "system": system.name, "reason": reason}
                    )

    def steps(self) -> list[Step]:
        return list(plan(self._scenarios, self._systems, self._options))

    def run(
        self,
        before: Callable[[Step], None],
        after: Callable[[Step, Measurement], None],
    ) -> Results:
        """Measure everything.  A system that cannot be started is not tried again.

        An interrupt ends the run and is noted; what was measured until then is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        gone: set[str] = set()
        try:
            for step in self.steps():
                if step.system.name in gone:
                    continue
                before(step)
                try:
                    measurement = measure(step, self._options, self._wrk, self.folder / "failed")
                except Absent as ex:
                    self.results.systems[step.system.name]["absent"] = str(ex)
                    gone.add(step.system.name)
                    continue
                self.results.measurements.append(measurement)
                if measurement.failure and not self._ever_ran(step.system.name):
                    gone.add(step.system.name)
                self.save()
                after(step, measurement)
        except KeyboardInterrupt:
            self.results.interrupted = True
        self.save()
        return self.results

    def _ever_ran(self, system: str) -> bool:
        return any(m.system == system and not m.failure for m in self.results.measurements)

    def save(self) -> None:
        self.results.about["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.results.save(self.folder / "result.json")
