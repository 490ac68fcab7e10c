"""Load drivers.  Each runs as a process of its own and reports what clients would have seen.

``calls`` sends blocking requests at a fixed rate (open loop) or with a fixed number in flight
(closed loop), ``streams`` holds many event streams open, ``agents`` plays coding agents with
their conversations, ``wrk`` wraps the program of that name for saturation.
"""

from __future__ import annotations

from bench.load.driver import Driver, DriverFailed, LoadResult
from bench.load.histogram import Histogram
from bench.load.spec import AgentsSpec, CallsSpec, StreamsSpec, Target

__all__ = [
    "AgentsSpec",
    "CallsSpec",
    "Driver",
    "DriverFailed",
    "Histogram",
    "LoadResult",
    "StreamsSpec",
    "Target",
]
