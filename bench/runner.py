"""One measurement: start everything fresh, run the scenario, check the records, stop."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from bench.ledger import losses, wait_settled
from bench.load import DriverFailed
from bench.options import Options
from bench.plan import Step
from bench.processes import TooFewFiles, allow_files
from bench.results import Measurement
from bench.scenarios import Outcome
from bench.stand import Stand
from bench.systems import Running, StartFailed, Surroundings
from bench.systems.packages import Program
from bench.upstream import Upstream
from bench.window import by_process

__all__ = ["measure"]

STEAL_PERCENT = 2.0
FOREIGN_PERCENT = 5.0
"""Shares of the machine from which a measurement is marked as disturbed."""
LATE_SHARE = 0.02
"""Share of events that the imitation may send late."""


def measure(step: Step, options: Options, wrk: Program | None, keep: Path | None) -> Measurement:
    """Run one step.  ``keep``: folder for what the system left behind when something failed.

    Raises Absent.
    """
    base: dict[str, Any] = {
        "scenario": step.scenario.name,
        "variant": step.variant.name,
        "value": step.variant.value,
        "system": step.system.name,
        "round": step.round,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Short: it holds unix sockets, whose addresses have room for about a hundred bytes.
    folder = Path(tempfile.mkdtemp(prefix="aigw-bench-"))
    try:
        try:
            with contextlib.ExitStack() as exits:
                measurement = _measure(step, options, wrk, folder, base, exits)
        except (StartFailed, DriverFailed, TooFewFiles) as ex:
            measurement = Measurement(**base, failure=str(ex))
        if keep is not None and (measurement.lost or measurement.faults or measurement.failure):
            name = f"{step.scenario.name}-{step.variant.value:g}-{step.system.name}-{step.round}"
            shutil.copytree(
                folder, keep / name, ignore_dangling_symlinks=True, copy_function=_copy_file
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return measurement


def _copy_file(source: str, target: str) -> None:
    if Path(source).is_file():
        shutil.copyfile(source, target)


def _measure(
    step: Step,
    options: Options,
    wrk: Program | None,
    folder: Path,
    base: dict[str, Any],
    exits: contextlib.ExitStack,
) -> Measurement:
    if files := step.scenario.files(options):
        allow_files(files)
    upstream = exits.enter_context(Upstream(folder, options.upstream_processes))
    upstream.behave(options.behaviour())
    running = step.system.start(
        Surroundings(
            folder,
            upstream.ports,
            step.scenario.workers(options),
            users=step.scenario.users(options),
            metrics=step.scenario.metrics,
        )
    )
    exits.callback(running.stop)
    stand = Stand(step.system, running, upstream, folder, options, wrk)
    outcome = step.scenario.run(stand, step.variant)
    lost, records = _check_records(running, upstream)
    return Measurement(
        **base,
        numbers={**outcome.numbers, "start_seconds": running.start_seconds},
        histograms={name: h.to_json() for name, h in outcome.histograms.items()},
        errors=dict(outcome.errors),
        warnings=[*outcome.warnings, *_disturbances(outcome)],
        lost=lost,
        records=records,
        faults=list(outcome.faults),
        series=[[s.at, s.private_bytes, s.open_files] for s in outcome.series],
        processes=by_process(outcome.series),
        commands=running.commands,
        drivers=sorted(set(stand.drivers)),
    )


def _check_records(running: Running, upstream: Upstream) -> tuple[list[str] | None, dict[str, int]]:
    if running.ledger is None:
        return None, {}
    counts, seen = wait_settled(running.ledger, upstream.total)
    return losses(counts, seen), attrs.asdict(counts)


def _disturbances(outcome: Outcome) -> list[str]:
    numbers = outcome.numbers
    found = []
    if numbers.get("steal_percent", 0.0) > STEAL_PERCENT:
        found.append(f"the hypervisor took {numbers['steal_percent']:.0f} % of the CPU time")
    if numbers.get("foreign_percent", 0.0) > FOREIGN_PERCENT:
        found.append(
            f"other processes used {numbers['foreign_percent']:.0f} % of the machine's CPU time"
        )
    events = numbers.get("events", 0.0)
    if events and numbers.get("upstream_late", 0.0) > LATE_SHARE * events:
        share = numbers["upstream_late"] / events * 100
        found.append(f"the imitation sent {share:.0f} % of its events late")
    return found
