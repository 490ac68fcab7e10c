"""A slow provider beside a fast one, start-up, and a long run."""

from __future__ import annotations

import time

from bench.load import CallsSpec, StreamsSpec
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

__all__ = ["Neighbour", "Soak", "StartUp"]

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


class Soak(Scenario):
    name = "soak"
    title = "Soak"
    about = (
        "{soak_minutes:g} minutes of {soak_rate:g} blocking requests per second and {soak_streams}"
        " open streams. Memory and file descriptors are plotted over time; growth is from the"
        " second quarter's median to the last quarter's."
    )
    columns = (
        Column("private_mb", "private MB, peak"),
        Column("private_growth_mb", "growth MB", 1),
        Column("files", "file descriptors, peak"),
        Column("files_growth", "growth"),
        Column("p99_ms", "p99 ms", 2),
        Column("gap_p99_ms", "gap p99 ms", 1),
    )

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        seconds = options.soak_minutes * 60
        calls = CallsSpec(
            target=stand.target(options.apis, tokens=options.tokens),
            seconds=seconds,
            rate=options.soak_rate,
        )
        streams = StreamsSpec(
            target=stand.target(options.apis, tokens=options.tokens, stream=True),
            streams=options.soak_streams,
            events=options.events,
            ramp=min(options.ramp, seconds / 4),
            seconds=seconds,
        )
        with (
            stand.window(min(5.0, seconds / 20)) as window,
            stand.driver(calls) as first,
            stand.driver(streams) as second,
        ):
            blocking, streaming = first.wait(), second.wait()
        stand.settle()
        observed = window.observed
        load = [sample for sample in observed.samples if sample.at < seconds]
        return Outcome(
            numbers={
                "private_mb": observed.peak_private_mb,
                "private_growth_mb": _growth([s.private_bytes / 1e6 for s in load]),
                "files": observed.peak_open_files,
                "files_growth": _growth([s.open_files for s in load]),
                "requests": blocking.numbers["ok"],
                "events": streaming.numbers["events"],
                "events_lost": streaming.numbers["events_lost"],
                **latency_numbers(blocking.histograms["latency"]),
                **latency_numbers(streaming.histograms["gap"], "gap_"),
                **noise_numbers(observed),
            },
            histograms={
                "latency": blocking.histograms["latency"],
                "gap": streaming.histograms["gap"],
            },
            errors={**blocking.errors, **{f"stream: {k}": v for k, v in streaming.errors.items()}},
            warnings=[
                *driver_warnings(blocking, observed, seconds),
                *driver_warnings(streaming, observed, seconds),
            ],
            series=observed.samples,
        )


def _growth(values: list[float]) -> float:
    """From the median of the second quarter to that of the last; caches have filled by then."""
    quarter = len(values) // 4
    if not quarter:
        return 0.0
    early, late = sorted(values[quarter : 2 * quarter]), sorted(values[-quarter:])
    return late[len(late) // 2] - early[len(early) // 2]
