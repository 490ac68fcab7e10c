"""Gateways beside each other under the same load at the same time, to tell what differs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.load import CallsSpec, Driver, DriverFailed
from bench.machine import cpu_seconds
from bench.stand import Stand
from bench.systems import Running

__all__ = ["ANSWER_BYTES", "costs", "cpu_of"]

ANSWER_BYTES = 200
_TOKENS = 20
_SETTLE_LIMIT = 60.0
"""Seconds for the records of a round to be stored."""


def costs(stand: Stand, both: Sequence[Running], seconds: float) -> list[float]:
    """CPU seconds per request of each, under load at the same time."""
    before = [(cpu_of(each), _ended(each)) for each in both]
    with ExitStack() as exits:
        drivers = [exits.enter_context(_load(stand, each, seconds)) for each in both]
        answered = [_answered(driver) for driver in drivers]
    for each, (_, ended), count in zip(both, before, answered, strict=True):
        _wait(each, ended + count)
    return [
        (cpu_of(each) - cpu) / count
        for each, (cpu, _), count in zip(both, before, answered, strict=True)
    ]


def cpu_of(running: Running) -> float:
    return sum(cpu_seconds(child.pid) for child in running.children)


def _load(stand: Stand, running: Running, seconds: float) -> Driver:
    target = stand.target(["chat"], tokens=_TOKENS, running=running)
    rate = stand.options.watched_rate
    return stand.driver(CallsSpec(target=target, seconds=seconds, rate=rate))


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
