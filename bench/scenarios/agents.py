"""Coding agents: whole conversations sent again with each turn."""

from __future__ import annotations

from bench.load import AgentsSpec, LoadResult
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

__all__ = ["CLASSES", "Agents"]

CLASSES = 6
"""Classes of size for which the time to the first byte is told."""


class Agents(Scenario):
    name = "agents"
    title = "Coding agents"
    about = (
        "Each agent sends its whole conversation with every turn, as Claude Code does: from"
        " {agent_first_kb} to {agent_last_kb} KB in {agent_turns} turns, with 40 tools, thinking,"
        " tool results and pictures; answers are streams that think, say {agent_events} pieces of"
        " text, one each {interval_ms:g} ms, and call a tool; the next turn follows"
        " {agent_think:g} s later (mean). Agents are spread over all turns. Every answer is"
        " compared byte by byte with the imitation's. Added is the excess over the direct row of"
        " the same round; it includes sending the conversation on."
    )
    columns = (
        Column("cpu_ms_per_turn", "CPU ms/turn", 2, better="low"),
        Column("ttfb_p50_ms", "first byte p50 ms", 1, over_direct=True, watched=True),
        Column("ttfb_p99_ms", "first byte p99 ms", 1, over_direct=True, watched=True),
        Column("private_mb", "private MB", watched=True),
        Column("turns_per_s", "turns/s", 1),
        Column("answers_changed", "answers with other bytes"),
        Column("answers_broken", "broken answers"),
        Column("turns_unfinished", "never finished"),
    )
    versus = "agents"

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(f"{count} agents", count) for count in options.agents]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        stand.upstream.behave(options.behaviour(events=options.agent_events, agents=True))
        endpoint, head = stand.head("messages")
        load, window = stand.run_in_window(
            AgentsSpec(
                port=endpoint.port,
                head=head,
                model=endpoint.model,
                agents=int(variant.value),
                turns=options.agent_turns,
                first_kb=options.agent_first_kb,
                last_kb=options.agent_last_kb,
                think=options.agent_think,
                events=options.agent_events,
                classes=CLASSES,
                ramp=options.ramp,
                seconds=options.seconds,
                seed=options.seed,
            )
        )
        observed = window.observed
        return Outcome(
            numbers={**_numbers(load, observed), "settling_s": stand.settle()},
            histograms=load.histograms,
            errors=load.errors,
            warnings=_warnings(load, observed, options),
        )


def _numbers(load: LoadResult, observed: Observed) -> dict[str, float]:
    numbers = load.numbers
    turns = numbers["turns_measured"]
    return {
        "cpu_ms_per_turn": observed.system_cpu / turns * 1e3 if turns else 0.0,
        "turns_per_s": turns / numbers["seconds"],
        "private_mb": observed.peak_private_mb,
        "upstream_late": observed.upstream.late,
        "events": observed.upstream.events,
        **{
            name: value
            for name, value in numbers.items()
            if name.startswith(("turns", "answers", "persons"))
        },
        **latency_numbers(load.histograms["ttfb"], "ttfb_"),
        **latency_numbers(load.histograms["whole"], "whole_"),
        **{
            f"ttfb_{number}_p50_ms": load.histograms[f"ttfb_{number}"].percentile(50) / 1000
            for number in range(CLASSES)
        },
        **noise_numbers(observed),
    }


def _warnings(load: LoadResult, observed: Observed, options: Options) -> list[str]:
    found = driver_warnings(load, observed, options.ramp + options.seconds)
    for name, what in (
        ("answers_broken", "answers had not all their events"),
        ("turns_unfinished", "turns never finished"),
    ):
        if load.numbers[name]:
            found.append(f"{load.numbers[name]:.0f} {what}")
    return found
