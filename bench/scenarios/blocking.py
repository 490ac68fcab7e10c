"""Blocking requests: at saturation, at a fixed rate, by prompt size, with many keys."""

from __future__ import annotations

from collections.abc import Sequence

from bench.conversations import conversation
from bench.load import CallsSpec, LoadResult, Target
from bench.options import Options
from bench.payloads import raw_request
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
from bench.window import Observed

__all__ = ["AgentRequest", "Blocking", "FixedRate", "KeyFlood", "Prompts"]

_SATURATION = (
    Column("requests_per_s", "requests/s", better="high"),
    Column("cpu_us_per_request", "CPU µs/request", better="low"),
    Column("p50_ms", "p50 ms", 2),
    Column("p90_ms", "p90 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("private_mb", "private MB"),
)
_AGENT_BYTES = (100_000, 455_000)
"""An agent's request after some turns, and late in a session."""


def _costs(load: LoadResult, observed: Observed) -> dict[str, float]:
    answered = load.numbers["ok"]
    return {
        "requests_per_s": load.numbers["ok_in_time"] / load.numbers["seconds"],
        "answered": answered,
        # From the first request until the last record is stored.
        "cpu_us_per_request": observed.system_cpu / answered * 1e6 if answered else 0.0,
        "private_mb": observed.peak_private_mb,
    }


def _saturate(stand: Stand, target: Target, connections: int) -> Outcome:
    options = stand.options
    stand.saturate(target, connections=connections, seconds=options.warm_up)
    stand.settle()
    with stand.window() as window:
        load = stand.saturate(target, connections=connections, seconds=options.seconds)
        settling = stand.settle()
    observed = window.observed
    return Outcome(
        numbers={
            **_costs(load, observed),
            **latency_numbers(load.histograms["latency"]),
            **noise_numbers(observed),
            "settling_s": settling,
        },
        histograms=load.histograms,
        errors=load.errors,
        warnings=driver_warnings(load, observed, load.numbers["seconds"]),
    )


class Blocking(Scenario):
    name = "blocking"
    title = "Blocking requests at saturation"
    about = (
        "A fixed number of connections, each sending the next request as soon as it has its answer"
        " (wrk); prompts of {tokens} tokens, answers of {answer_bytes} bytes. CPU is that of the"
        " whole process tree, until the last record is stored."
    )
    columns = _SATURATION
    versus = "connections"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(f"{count} connections", count) for count in options.concurrencies]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        target = stand.target(stand.options.apis, tokens=stand.options.tokens)
        return _saturate(stand, target, int(variant.value))


class Prompts(Scenario):
    name = "prompts"
    title = "Prompt sizes"
    about = "As at saturation with 16 connections, with conversations of different length."
    columns = _SATURATION
    versus = "tokens"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(f"{tokens // 1000} k tokens", tokens) for tokens in options.prompt_tokens]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        target = stand.target(stand.options.apis, tokens=int(variant.value))
        return _saturate(stand, target, 16)


class AgentRequest(Scenario):
    name = "agent-request"
    title = "A request of a coding agent"
    about = (
        "As at saturation with 16 connections; each request is a coding agent's conversation of"
        " this size, with 40 tools, thinking, results of tools and pictures. The answer is no"
        " stream: what is measured is the request."
    )
    columns = _SATURATION
    versus = "KB"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(f"{size // 1000} KB", size) for size in _AGENT_BYTES]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        endpoint = stand.running.endpoints["messages"]
        size = int(variant.value)
        asked = conversation(1, turns=40, first=20_000, last=size, model=endpoint.model)
        body = asked.body(asked.turns - 1).replace(b'"stream":true,', b"", 1)
        return _saturate(stand, stand.sending(raw_request(endpoint, body)), 16)


class KeyFlood(Scenario):
    name = "keys"
    title = "Key flood"
    about = (
        "As at saturation with 64 connections; each request comes with the next of {users} users'"
        " keys, or all with one."
    )
    columns = _SATURATION
    versus = "keys"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant("1 key", 1), Variant(f"{options.users} keys", options.users)]

    def users(self, options: Options) -> int:
        return options.users

    def unsuitable(self, system: System) -> str:
        return "" if system.users_supported else "has no keys of users as it is set up here"

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        keys: Sequence[str] = stand.running.keys if variant.value > 1 else ()
        target = stand.target(stand.options.apis, tokens=stand.options.tokens, keys=keys)
        return _saturate(stand, target, 64)


class FixedRate(Scenario):
    name = "fixed-rate"
    title = "Blocking requests at a fixed rate"
    about = (
        "Requests are due at random moments, whether or not earlier ones are answered (open loop);"
        " latency counts from the moment a request was due. Requests without an answer count with"
        " the time they had waited. Added is the excess over the direct row of the same round."
    )
    columns = (
        Column("p50_ms", "p50 ms", 2, over_direct=True),
        Column("p90_ms", "p90 ms", 2, over_direct=True),
        Column("p99_ms", "p99 ms", 2, over_direct=True),
        Column("kept_percent", "answered in time %", 1),
        Column("cpu_us_per_request", "CPU µs/request", better="low"),
        Column("private_mb", "private MB"),
    )
    versus = "requests/s"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(f"{rate:g} requests/s", rate) for rate in options.rates]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        target = stand.target(options.apis, tokens=options.tokens)
        stand.run(CallsSpec(target=target, seconds=options.warm_up, rate=variant.value))
        stand.settle()
        with stand.window() as window:
            load = stand.run(
                CallsSpec(
                    target=target, seconds=options.seconds, rate=variant.value, seed=options.seed
                )
            )
            settling = stand.settle()
        numbers, observed = load.numbers, window.observed
        due = numbers["sent"] + numbers["unanswered"]
        return Outcome(
            numbers={
                **_costs(load, observed),
                **latency_numbers(load.histograms["latency"]),
                **noise_numbers(observed),
                "driver_late_p99_ms": load.histograms["lateness"].percentile(99) / 1000,
                "kept_percent": numbers["ok_in_time"] / due * 100 if due else 0.0,
                "settling_s": settling,
            },
            histograms=load.histograms,
            errors=load.errors,
            warnings=driver_warnings(load, observed, numbers["seconds"]),
        )
