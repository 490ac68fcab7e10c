"""One steady load for long: does anything grow, is anything lost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.load import AgentsSpec, CallsSpec, LoadResult, StreamsSpec
from bench.options import Options
from bench.scenarios.agents import CLASSES
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
from bench.window import Observed, by_process

__all__ = ["Soak", "grown"]

_LEAST_SECONDS = 600.0
"""What is shorter says nothing of growth: caches and the allocator's arenas still fill."""
_MORE_MB, _MORE_FILES = 4.0, 16.0
_MORE_SHARE = 0.05
"""A process has grown when it has more by both, from the second quarter's median to the last
quarter's.  Files come and go with connections, memory with the largest conversations."""


class Soak(Scenario):
    name = "soak"
    title = "Soak"
    about = (
        "{soak_minutes:g} minutes of {soak_agents} coding agents, or without such of"
        " {soak_rate:g} blocking requests per second and {soak_streams} open streams. Private"
        " memory and file descriptors of each process are plotted over time; growth is from the"
        " second quarter's median to the last quarter's, of the process that grew most. A lost"
        " record, growth by more than 5 % and by more than 4 MB or 16 descriptors, an answer with"
        " other bytes, and a process that was not there all the time fail the run."
    )
    columns = (
        Column("private_mb", "private MB, peak"),
        Column("private_growth_mb", "growth MB", 1),
        Column("files", "file descriptors, peak"),
        Column("growth_files", "growth"),
        Column("turns", "turns"),
        Column("requests", "requests"),
        Column("events", "events"),
        Column("cpu_percent", "CPU %", 1),
        Column("p99_ms", "p99 ms", 2),
        Column("gap_p99_ms", "gap p99 ms", 1),
        Column("ttfb_p50_ms", "first byte p50 ms", 1),
        Column("ttfb_p99_ms", "first byte p99 ms", 1),
        Column("answers_changed", "answers with other bytes"),
        Column("turns_unfinished", "never finished"),
    )

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        seconds = options.soak_minutes * 60
        drive = _agents if options.soak_agents else _calls_and_streams
        loads, observed = drive(stand, options, seconds)
        stand.settle()
        during = [sample for sample in observed.samples if sample.at < seconds]
        processes = by_process(during)
        growth = [_growth(series) for series in processes.values()]
        return Outcome(
            numbers={
                "private_mb": observed.peak_private_mb,
                "private_growth_mb": max((more for more, _ in growth), default=0.0),
                "files": observed.peak_open_files,
                "growth_files": max((more for _, more in growth), default=0.0),
                "cpu_percent": observed.system_cpu / observed.seconds * 100,
                **{name: value for load in loads for name, value in _numbers(load).items()},
                **noise_numbers(observed),
            },
            histograms={name: each for load in loads for name, each in load.histograms.items()},
            errors={f"{load.driver}: {k}": v for load in loads for k, v in load.errors.items()},
            warnings=[w for load in loads for w in driver_warnings(load, observed, seconds)],
            faults=[*grown(processes, seconds), *_broken(loads)],
            series=observed.samples,
        )


def _agents(
    stand: Stand, options: Options, seconds: float
) -> tuple[Sequence[LoadResult], Observed]:
    stand.upstream.behave(options.behaviour(events=options.agent_events, agents=True))
    endpoint, head = stand.head("messages")
    spec = AgentsSpec(
        port=endpoint.port,
        head=head,
        model=endpoint.model,
        agents=options.soak_agents,
        turns=options.agent_turns,
        first_kb=options.agent_first_kb,
        last_kb=options.agent_last_kb,
        think=options.agent_think,
        events=options.agent_events,
        classes=CLASSES,
        ramp=min(options.ramp, seconds / 4),
        seconds=seconds,
        seed=options.seed,
    )
    with stand.window(_period(seconds)) as window, stand.driver(spec) as driver:
        load = driver.wait()
    return (load,), window.observed


def _calls_and_streams(
    stand: Stand, options: Options, seconds: float
) -> tuple[Sequence[LoadResult], Observed]:
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
        stand.window(_period(seconds)) as window,
        stand.driver(calls) as first,
        stand.driver(streams) as second,
    ):
        loads = first.wait(), second.wait()
    return loads, window.observed


def _period(seconds: float) -> float:
    return min(5.0, seconds / 20)


def _numbers(load: LoadResult) -> dict[str, float]:
    numbers, times = load.numbers, load.histograms
    if "turns" in numbers:
        names = ("turns", "answers_changed", "answers_broken", "turns_unfinished")
        return {**{n: numbers[n] for n in names}, **latency_numbers(times["ttfb"], "ttfb_")}
    if "events" in numbers:
        names = ("events", "events_lost")
        return {**{n: numbers[n] for n in names}, **latency_numbers(times["gap"], "gap_")}
    return {"requests": numbers["ok"], **latency_numbers(times["latency"])}


def _broken(loads: Sequence[LoadResult]) -> list[str]:
    """Answers that were not what the imitation sent."""
    names = {"answers_changed": "answers had other bytes", "events_lost": "events were lost"}
    return [
        f"{load.numbers[name]:.0f} {what}"
        for load in loads
        for name, what in names.items()
        if load.numbers.get(name)
    ]


def grown(processes: Mapping[str, Sequence[Sequence[float]]], seconds: float) -> list[str]:
    """Which processes have more memory or files than before, or were not there all the time.

    Of each process seconds, private bytes and open files; of a load of this many ``seconds``.
    """
    if seconds < _LEAST_SECONDS:
        return []
    found = []
    for name, series in processes.items():
        if series[0][0] > seconds / 10 or series[-1][0] < seconds * 0.9:
            found.append(
                f"{name} was there only from second {series[0][0]:.0f} to {series[-1][0]:.0f}"
            )
            continue
        for what, unit, least, more, most in (
            (
                "private memory",
                " MB",
                _MORE_MB,
                _growth(series)[0],
                max(s[1] for s in series) / 1e6,
            ),
            ("open files", "", _MORE_FILES, _growth(series)[1], max(s[2] for s in series)),
        ):
            if more > max(least, _MORE_SHARE * most):
                found.append(f"{name} has grown: {what} by {more:.1f} to {most:.1f}{unit}")
    return found


def _growth(series: Sequence[Sequence[float]]) -> tuple[float, float]:
    """MB and files, from the median of the second quarter to that of the last."""
    return _more([s[1] / 1e6 for s in series]), _more([s[2] for s in series])


def _more(values: list[float]) -> float:
    quarter = len(values) // 4
    if not quarter:
        return 0.0
    early, late = sorted(values[quarter : 2 * quarter]), sorted(values[-quarter:])
    return late[len(late) // 2] - early[len(early) // 2]
