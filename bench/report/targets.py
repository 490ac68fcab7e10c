"""What the project wants to reach on a machine with two CPUs, and whether this run did."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from bench.report.tables import base_system, number, table
from bench.results import Results

__all__ = ["target_table"]


@frozen
class _Target:
    text: str
    goal: str
    measured: Callable[[Results], float | None]
    reached: Callable[[float], bool]
    digits: int = 0


def _median(results: Results, scenario: str, variant: str, system: str, key: str) -> float | None:
    spread = results.spread(scenario, variant, system, key)
    return spread.median if spread else None


def _ours(scenario: str, variant: str, key: str) -> Callable[[Results], float | None]:
    return lambda results: _median(results, scenario, variant, base_system(results), key)


def _against(scenario: str, variant: str, key: str, peer: str) -> Callable[[Results], float | None]:
    def quotient(results: Results) -> float | None:
        mine = _median(results, scenario, variant, base_system(results), key)
        theirs = _median(results, scenario, variant, peer, key)
        return mine / theirs if mine is not None and theirs else None

    return quotient


def _best(scenario: str, key: str, system: str = "") -> Callable[[Results], float | None]:
    """The highest median over all variants."""

    def best(results: Results) -> float | None:
        name = system or base_system(results)
        found = [_median(results, scenario, v, name, key) for v in results.variants(scenario)]
        return max((value for value in found if value is not None), default=None)

    return best


def _best_against(scenario: str, key: str, peer: str) -> Callable[[Results], float | None]:
    def quotient(results: Results) -> float | None:
        mine, theirs = _best(scenario, key)(results), _best(scenario, key, peer)(results)
        return mine / theirs if mine is not None and theirs else None

    return quotient


_TARGETS = (
    _Target(
        "blocking, CPU per request (64 connections)",
        "≤ 650 µs",
        _ours("blocking", "64 connections", "cpu_us_per_request"),
        lambda value: value <= 650,
    ),
    _Target(
        "blocking, requests/s at saturation against LiteLLM",
        "≥ 20 ×",
        _best_against("blocking", "requests_per_s", "litellm"),
        lambda value: value >= 20,
        1,
    ),
    _Target(
        "blocking, requests/s at saturation against Portkey",
        "≥ 4 ×",
        _best_against("blocking", "requests_per_s", "portkey"),
        lambda value: value >= 4,
        1,
    ),
    _Target(
        "500 streams, CPU per event",
        "≤ 60 µs",
        _ours("streams", "500 streams", "cpu_us_per_event"),
        lambda value: value <= 60,
        1,
    ),
    _Target(
        "500 streams, p99 gap against nginx",
        "≤ 3 ×",
        _against("streams", "500 streams", "gap_p99_ms", "nginx"),
        lambda value: value <= 3,
        2,
    ),
    _Target(
        "2,000 streams, events/s against nginx",
        "≥ 0.70 ×",
        _against("streams", "2000 streams", "events_per_s", "nginx"),
        lambda value: value >= 0.7,
        2,
    ),
    _Target(
        "500 streams, private memory",
        "≤ 160 MB",
        _ours("streams", "500 streams", "private_mb"),
        lambda value: value <= 160,
    ),
)


def target_table(results: Results) -> list[str]:
    """Lines of a table; targets that this run did not measure are left out."""
    rows = []
    for target in _TARGETS:
        value = target.measured(results)
        if value is not None:
            verdict = "yes" if target.reached(value) else "no"
            rows.append([target.text, target.goal, number(value, target.digits), verdict])
    return table(["target", "to reach", "measured", "reached"], rows) if rows else []
