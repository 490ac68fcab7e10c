"""Where a request's time goes inside the gateway, by its own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.load import StreamsSpec
from bench.options import Options
from bench.prometheus import Buckets, read_histograms
from bench.scenarios.base import (
    Column,
    Outcome,
    Scenario,
    Variant,
    driver_warnings,
    noise_numbers,
)
from bench.stand import Stand
from bench.systems import System
from bench.window import Window

__all__ = ["Inside"]

_STAGES: Final = ("edge", "authorize", "read", "record", "provider", "first_byte", "relay")
_ACTORS: Final = ("supervisor", "control-plane", "recorder", "provider")
_PREFIX: Final = "coder_ai_gateway"
_CALLS: Final = 32
_STREAMS: Final = 200


class Inside(Scenario):
    name = "inside"
    title = "Inside the gateway"
    about = (
        "Where the time of requests goes, by the gateway's own histograms: its stages, of which"
        " only first_byte and relay wait for the upstream, and how long messages wait in the"
        " inboxes of actors. Below saturation all of it is queueing for the CPU."
    )
    columns = (
        *(Column(f"{stage}_mean_ms", f"{stage} mean ms", 3) for stage in _STAGES),
        *(Column(f"{stage}_p99_ms", f"{stage} p99 ms", 2) for stage in _STAGES),
        *(Column(f"{role}_wait_p99_ms", f"inbox of {role} p99 ms", 2) for role in _ACTORS),
    )
    metrics = True
    tall = True

    def variants(self, options: Options) -> list[Variant]:
        return [
            Variant("1 connection", 1),
            Variant(f"{_CALLS} connections", _CALLS),
            Variant(f"{_STREAMS} streams", _STREAMS),
        ]

    def unsuitable(self, system: System) -> str:
        return "" if system.stages_supported else "does not say where its time goes"

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        if variant.name.endswith("streams"):
            return self._streams(stand)
        options = stand.options
        target = stand.target(options.apis, tokens=options.tokens)
        connections = int(variant.value)
        stand.saturate(target, connections=connections, seconds=options.warm_up)
        stand.settle()
        before = _Reading(stand)
        with stand.window() as window:
            load = stand.saturate(target, connections=connections, seconds=options.seconds)
            stand.settle()
        return Outcome(
            numbers={**before.since(), **noise_numbers(window.observed)},
            errors=load.errors,
            warnings=driver_warnings(load, window.observed, options.seconds),
        )

    def _streams(self, stand: Stand) -> Outcome:
        options = stand.options
        before = _Reading(stand)
        spec = StreamsSpec(
            target=stand.target(options.apis, tokens=options.tokens, stream=True),
            streams=_STREAMS,
            events=options.events,
            ramp=options.ramp,
            seconds=options.seconds,
        )
        load, window = stand.run_in_window(spec)
        assert isinstance(window, Window)
        stand.settle()
        return Outcome(
            numbers={**before.since(), **noise_numbers(window.observed)},
            errors=load.errors,
            warnings=driver_warnings(load, window.observed, options.seconds),
        )


class _Reading:
    """The gateway's histograms at one moment."""

    def __init__(self, stand: Stand) -> None:
        self._url = stand.running.metrics_url
        self._stages, self._waits = self._read()

    def _read(self) -> tuple[dict[str, Buckets], dict[str, Buckets]]:
        return (
            read_histograms(self._url, f"{_PREFIX}_stage_seconds", "stage"),
            read_histograms(self._url, f"{_PREFIX}_actor_wait_seconds", "role"),
        )

    def since(self) -> Mapping[str, float]:
        """What came since, in milliseconds."""
        stages, waits = self._read()
        numbers = {}
        for stage in _STAGES:
            found = stages.get(stage, Buckets()) - self._stages.get(stage, Buckets())
            numbers[f"{stage}_mean_ms"] = found.mean() * 1000
            numbers[f"{stage}_p99_ms"] = found.percentile(99) * 1000
        for role in _ACTORS:
            # Of several providers the one that waits longest.
            roles = [each for each in waits if each.partition("/")[0] == role]
            numbers[f"{role}_wait_p99_ms"] = max(
                ((waits[r] - self._waits.get(r, Buckets())).percentile(99) * 1000 for r in roles),
                default=0.0,
            )
        return numbers
