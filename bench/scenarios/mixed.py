"""A slow provider beside a fast one, and start-up."""

from __future__ import annotations

import time

from bench.load import CallsSpec
from bench.options import Options
from bench.scenarios.base import (
    Column,
    Outcome,
    Scenario,
    Variant,
    driver_warnings,
    latency_numbers,
    noise_numbers,
)
from bench.stand import Stand
from bench.systems import System

__all__ = ["Neighbour", "StartUp"]

_CALM = 1.0
"""Seconds from a system's first answer until its memory at rest is read."""
_NEIGHBOUR_RATE = 50.0
"""Requests per second to the fast provider: what every system can do alone."""


class Neighbour(Scenario):
    name = "neighbour"
    title = "Noisy neighbour"
    about = (
        "50 requests per second to a fast provider, alone and while another provider, which takes"
        " {slow_ms:g} ms for each answer, holds {slow_calls} requests. The fast one's p99 should"
        " not move."
    )
    columns = (
        Column("p50_ms", "fast p50 ms", 2),
        Column("p99_ms", "fast p99 ms", 2),
        Column("kept_percent", "fast answered in time %", 1),
        Column("slow_per_s", "slow answers/s", 1),
        Column("private_mb", "private MB"),
    )

    def variants(self, options: Options) -> list[Variant]:
        return [Variant("alone", 0), Variant("beside a slow one", 1)]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        stand.upstream.behave(options.behaviour(think_ms=options.slow_ms), "slow")
        fast = stand.target(options.apis, tokens=options.tokens)
        stand.run(CallsSpec(target=fast, seconds=options.warm_up, rate=_NEIGHBOUR_RATE))
        stand.settle()
        length = options.seconds + 2 * options.slow_ms / 1000
        slow_spec = CallsSpec(
            target=stand.slow_target(tokens=options.tokens),
            seconds=length if variant.value else 0.0,
            concurrency=options.slow_calls if variant.value else 0,
        )
        with stand.driver(slow_spec) as slow:
            if variant.value:
                self._wait_until_held(stand)
            with stand.window() as window:
                load = stand.run(
                    CallsSpec(
                        target=fast,
                        seconds=options.seconds,
                        rate=_NEIGHBOUR_RATE,
                        seed=options.seed,
                    )
                )
            held = slow.wait()
        stand.settle()
        observed, numbers = window.observed, load.numbers
        due = numbers["sent"] + numbers["unanswered"]
        return Outcome(
            numbers={
                **latency_numbers(load.histograms["latency"]),
                **noise_numbers(observed),
                "kept_percent": numbers["ok_in_time"] / due * 100 if due else 0.0,
                "slow_per_s": held.numbers["ok"] / max(held.numbers["seconds"], length),
                "private_mb": observed.peak_private_mb,
            },
            histograms=load.histograms,
            errors={**load.errors, **{f"slow: {k}": v for k, v in held.errors.items()}},
            warnings=driver_warnings(load, observed, numbers["seconds"]),
        )

    @staticmethod
    def _wait_until_held(stand: Stand) -> None:
        """Wait until the slow provider holds half of its requests, one second at most."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if stand.upstream.counters("slow").open >= stand.options.slow_calls / 2:
                return
            time.sleep(0.02)


class StartUp(Scenario):
    name = "start"
    title = "Start-up"
    about = "From the start of the process to its first answer, and its memory at rest after it."
    columns = (
        Column("start_s", "first answer after s", 2, better="low"),
        Column("private_mb", "private MB at rest", better="low"),
        Column("start_cpu_s", "CPU s until then", 2),
        Column("processes", "processes"),
    )

    def unsuitable(self, system: System) -> str:
        return "starts nothing" if system.name == "direct" else ""

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        running = stand.running
        with stand.window(_CALM) as window:
            window.wait(_CALM)
        return Outcome(
            numbers={
                "start_s": running.start_seconds,
                "start_cpu_s": window.system_cpu_before,
                "private_mb": window.latest.private_bytes / 1e6,
                "open_files": window.latest.open_files,
                "processes": len(running.pids()),
                **noise_numbers(window.observed),
            }
        )
