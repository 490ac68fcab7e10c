"""Gateways beside each other under the same load at the same time, to tell what differs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from bench.control_planes import LocalPlane
from bench.load import CallsSpec, Driver, DriverFailed, Target
from bench.machine import cpu_seconds
from bench.processes import clean_environ
from bench.stand import Stand
from bench.systems import Running

__all__ = ["ANSWER_BYTES", "command_of", "costs", "cpu_of"]

ANSWER_BYTES = 200
_TOKENS = 20
_SETTLE_LIMIT = 60.0
"""Seconds for the records of a round to be stored."""


def costs(
    stand: Stand,
    both: Sequence[Running],
    seconds: float,
    target: Callable[[Running], Target] | None = None,
    rate: float | None = None,
) -> list[float]:
    """CPU seconds per request of each, under load at the same time.

    Requests are those of ``target``, or small ones.
    """
    before = [(cpu_of(each), _ended(each)) for each in both]
    with ExitStack() as exits:
        drivers = []
        for each in both:
            aim = stand.target(["chat"], tokens=_TOKENS, running=each)
            if target is not None:
                aim = target(each)
            spec = CallsSpec(target=aim, seconds=seconds, rate=rate or stand.options.watched_rate)
            drivers.append(exits.enter_context(stand.driver(spec)))
        answered = [_answered(driver) for driver in drivers]
    for each, (_, ended), count in zip(both, before, answered, strict=True):
        _wait(each, ended + count)
    return [
        (cpu_of(each) - cpu) / count
        for each, (cpu, _), count in zip(both, before, answered, strict=True)
    ]


def cpu_of(running: Running) -> float:
    return sum(cpu_seconds(child.pid) for child in running.children)


def command_of(stand: Stand, running: Running, *arguments: str) -> str:
    """What a command on the database of a gateway prints.  Raises DriverFailed."""
    plane = running.ledger
    assert isinstance(plane, LocalPlane)
    done = subprocess.run(
        [stand.system.python, "-m", "aigateway.http", *arguments],
        cwd=stand.file(""),
        env=clean_environ(**plane.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DriverFailed(f"{' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _answered(driver: Driver) -> int:
    result = driver.wait()
    if result.errors or result.numbers["unanswered"]:
        raise DriverFailed(f"failed requests: {result.errors}")
    return int(result.numbers["ok"])


def _ended(running: Running) -> int:
    assert running.ledger is not None
    return running.ledger.count().ended


def _wait(running: Running, count: int) -> None:
    deadline = time.monotonic() + _SETTLE_LIMIT
    while _ended(running) < count:
        if time.monotonic() > deadline:
            raise DriverFailed("a record was lost")
        time.sleep(0.05)
