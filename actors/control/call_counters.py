"""How long coderd takes to answer, counted for metrics.

Only the connection's actor writes to the counters; everybody else gets a copy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen

from aigateway.actors.control.rpc_results import Failure, Refusal, RpcAnswer, RpcResult

__all__ = ["BOUNDS", "OUTCOMES", "CallCounters", "CallTimes"]

BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60)
"""Seconds; a call takes about a millisecond on a quick network, and up to ``--max-wait`` while
coderd is away."""

_NAMES: Final = {RpcAnswer: "answered", Refusal: "refused", Failure: "failed"}
OUTCOMES: Final = tuple(_NAMES.values())


@frozen
class CallTimes:
    """The calls of one RPC with one outcome since the actor was started."""

    counts: tuple[int, ...]
    """How many took up to each of :data:`BOUNDS` and no less, and how many longer."""
    seconds: float
    """All together."""


@define
class _Times:
    counts: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0


class CallCounters:
    """Everything since the actor was started, from 0."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, type[RpcResult]], _Times] = {}

    def add(self, rpc: str, outcome: RpcResult, seconds: float) -> None:
        """A call has ended; ``seconds`` from the question on, waiting for coderd included."""
        # PERF: for each call.  Putting it into a series costs twenty times as much, so that is
        # done for many calls at once.
        key = rpc, type(outcome)
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = _Times()
        times.counts[bisect_left(BOUNDS, seconds)] += 1
        times.seconds += seconds

    def copy(self) -> Mapping[tuple[str, str], CallTimes]:
        """By the method's name and ``answered``, ``refused`` or ``failed``."""
        return {
            (rpc.rpartition("/")[2], _NAMES[outcome]): CallTimes(tuple(one.counts), one.seconds)
            for (rpc, outcome), one in self._times.items()
        }
