"""Event streams: many at once, and clients that hang up."""

from __future__ import annotations

import math

from bench.load import LoadResult, StreamsSpec
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
from bench.window import Observed

__all__ = ["Disconnects", "ManyStreams", "Streams"]

_AFTERMATH = 2.0
"""Seconds that are given to a system to notice the last client that went away."""


def _stream_numbers(load: LoadResult, observed: Observed) -> dict[str, float]:
    numbers = load.numbers
    events = numbers["events"]
    return {
        "events": events,
        "events_per_s": events / numbers["seconds"],
        "cpu_us_per_event": observed.system_cpu / events * 1e6 if events else 0.0,
        "private_mb": observed.peak_private_mb,
        "merged_percent": numbers["events_merged"] / events * 100 if events else 0.0,
        "upstream_late": observed.upstream.late,
        **{
            name: value
            for name, value in numbers.items()
            if name.startswith(("streams", "events_"))
        },
        **latency_numbers(load.histograms["gap"], "gap_"),
        **latency_numbers(load.histograms["ttfb"], "ttfb_"),
        **latency_numbers(load.histograms["delay"], "delay_"),
        **noise_numbers(observed),
    }


class Streams(Scenario):
    name = "streams"
    title = "Open event streams"
    about = (
        "Streams of {events} events, one each {interval_ms:g} ms; one that ends is followed by the"
        " next on the same connection. Measured after all are open. CPU per event includes what"
        " opening, ending and recording streams costs. A stream that was silent at the end enters"
        " the gaps with its silence."
    )
    columns = (
        Column("events_per_s", "events/s", better="high"),
        Column("cpu_us_per_event", "CPU µs/event", 1, better="low"),
        Column("gap_p50_ms", "gap p50 ms", 1),
        Column("gap_p99_ms", "gap p99 ms", 1),
        Column("delay_p99_ms", "delay p99 ms", 1),
        Column("ttfb_p50_ms", "first byte p50 ms", 1),
        Column("ttfb_p99_ms", "first byte p99 ms", 1),
        Column("events_lost", "lost"),
        Column("merged_percent", "merged %", 1),
        Column("streams_unfinished", "never finished"),
        Column("private_mb", "private MB"),
    )
    versus = "open streams"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(f"{count} streams", count) for count in options.streams]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        target = stand.target(options.apis, tokens=options.tokens, stream=True)
        length = options.events * options.interval_ms / 1000
        load, window = stand.run_in_window(
            StreamsSpec(
                target=target,
                streams=int(variant.value),
                events=options.events,
                ramp=options.ramp,
                seconds=options.seconds,
                grace=length * 2 + 10.0,
                seed=options.seed,
            )
        )
        observed = window.observed
        wall = options.ramp + options.seconds + length
        return Outcome(
            numbers={**_stream_numbers(load, observed), "settling_s": stand.settle()},
            histograms=load.histograms,
            errors=load.errors,
            warnings=_warnings(load, observed, wall),
        )


class ManyStreams(Scenario):
    name = "many-streams"
    title = "Very many open streams"
    about = (
        "{many_streams} streams at once, an event of each every {many_interval_ms:g} ms, opened"
        " over {many_ramp:g} s. Memory per stream is what all of them add to the system at rest,"
        " divided by their number. The first byte is that of every stream, those of the ramp"
        " included."
    )
    columns = (
        Column("kb_per_stream", "KB/stream", 1, better="low"),
        Column("ttfb_p50_ms", "first byte p50 ms", 1, watched=True),
        Column("ttfb_p99_ms", "first byte p99 ms", 1, watched=True),
        Column("cpu_us_per_event", "CPU µs/event", 1, better="low"),
        Column("delay_p99_ms", "delay p99 ms", 1, watched=True),
        Column("events_per_s", "events/s"),
        Column("events_lost", "lost"),
        Column("streams_unfinished", "never finished"),
        Column("private_mb", "private MB"),
    )
    versus = "open streams"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(f"{options.many_streams} streams", options.many_streams)]

    def files(self, options: Options) -> int:
        # The driver and the imitation have one for each stream, a worker two for each of its own:
        # half as many again as its share, or all that there are.
        streams = options.many_streams
        return max(streams, math.ceil(2 * streams * min(1.0, 1.5 / options.workers)))

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options, count = stand.options, int(variant.value)
        # Those that are open first are still open when the measurement ends.
        length = options.many_ramp + options.seconds + _AFTERMATH
        events = math.ceil(length / options.many_interval_ms * 1000)
        stand.upstream.behave(
            options.behaviour(events=events, interval_ms=options.many_interval_ms)
        )
        with stand.window() as before:
            pass
        load, window = stand.run_in_window(
            StreamsSpec(
                target=stand.target(options.apis, tokens=options.tokens, stream=True),
                streams=count,
                events=events,
                ramp=options.many_ramp,
                seconds=options.seconds,
                grace=length * 2 + 10.0,
                seed=options.seed,
                all_first_bytes=True,
            )
        )
        observed = window.observed
        added = observed.peak_private_mb - before.observed.peak_private_mb
        return Outcome(
            numbers={
                **_stream_numbers(load, observed),
                "kb_per_stream": max(added, 0.0) * 1000 / count,
                "settling_s": stand.settle(),
            },
            histograms=load.histograms,
            errors=load.errors,
            warnings=_warnings(load, observed, length),
        )


class Disconnects(Scenario):
    name = "disconnects"
    title = "Clients that hang up"
    about = (
        "{leavers} streams at once whose clients go away after a few events, half of them with a"
        " reset, and come again at once. Afterwards nothing may be left open, and every request"
        " must be recorded."
    )
    columns = (
        Column("left_per_s", "hang-ups/s"),
        Column("cpu_us_per_left", "CPU µs/hang-up", better="low"),
        Column("upstream_cut_percent", "cut upstream %", 1),
        Column("files_left", "file descriptors left over"),
        Column("private_mb", "private MB"),
    )

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        events = 100
        stand.upstream.behave(options.behaviour(events=events))
        target = stand.target(options.apis, tokens=options.tokens, stream=True)

        def leave(seconds: float) -> tuple[LoadResult, Observed]:
            spec = StreamsSpec(
                target=target,
                streams=options.leavers,
                events=events,
                ramp=1.0,
                seconds=seconds,
                leave_after=20,
                seed=options.seed,
            )
            load, window = stand.run_in_window(spec)
            stand.settle()
            return load, window.observed

        leave(options.warm_up)
        with stand.window() as before:
            pass
        load, observed = leave(options.seconds)
        with stand.window(_AFTERMATH) as after:
            after.wait(_AFTERMATH)
        # The first sample after the aftermath; connections that are kept for reuse were
        # there before too.
        left_over = after.latest.open_files - before.latest.open_files
        left = load.numbers["streams_left"]
        seen = observed.upstream
        return Outcome(
            numbers={
                **_stream_numbers(load, observed),
                "left_per_s": left / (load.numbers["seconds"] + 1.0),
                "cpu_us_per_left": observed.system_cpu
                / max(load.numbers["streams_begun_measured"], 1)
                * 1e6,
                "upstream_cut_percent": seen.cut / max(seen.requests, 1) * 100,
                "files_left": left_over,
            },
            histograms=load.histograms,
            errors=load.errors,
            warnings=_warnings(load, observed, options.seconds + 1.0),
        )


def _warnings(load: LoadResult, observed: Observed, wall: float) -> list[str]:
    found = driver_warnings(load, observed, wall)
    for name, what in (
        ("events_lost", "events were lost"),
        ("events_doubled", "events came twice or out of order"),
        ("streams_unfinished", "streams never finished"),
        ("streams_stalled", "streams were silent when the measurement ended"),
    ):
        if load.numbers[name]:
            found.append(f"{load.numbers[name]:.0f} {what}")
    return found
