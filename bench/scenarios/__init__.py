"""What is measured."""

from __future__ import annotations

from bench.scenarios.agents import Agents
from bench.scenarios.base import Column, Outcome, Scenario, Variant
from bench.scenarios.blocking import AgentRequest, Blocking, FixedRate, KeyFlood, Prompts
from bench.scenarios.caps import Caps
from bench.scenarios.growth import Growth
from bench.scenarios.injected import Injected
from bench.scenarios.inside import Inside
from bench.scenarios.mixed import Neighbour, StartUp
from bench.scenarios.parts import (
    BodyReading,
    CoderdCalls,
    Interception,
    OwnParts,
    RecorderAppends,
    Sessions,
)
from bench.scenarios.soak import Soak
from bench.scenarios.streaming import Disconnects, ManyStreams, Streams
from bench.scenarios.turns import Turns
from bench.scenarios.watched import Watched

__all__ = ["Column", "Outcome", "Scenario", "Variant", "all_scenarios"]


def all_scenarios() -> list[Scenario]:
    """Every scenario, in the order of the report."""
    return [
        Agents(),
        Blocking(),
        FixedRate(),
        Streams(),
        ManyStreams(),
        AgentRequest(),
        Prompts(),
        KeyFlood(),
        Disconnects(),
        Neighbour(),
        Inside(),
        StartUp(),
        Growth(),
        Watched(),
        Caps(),
        Turns(),
        Injected(),
        Interception(),
        BodyReading(),
        OwnParts(),
        Sessions(),
        RecorderAppends(),
        CoderdCalls(),
        Soak(),
    ]
