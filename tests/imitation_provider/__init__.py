"""Providers for tests: one that follows a script byte by byte, and one that imitates the APIs.

A fault test says exactly what its upstream does::

    gate = threading.Event()
    provider.play(stream([event({"a": 1}), WaitFor(gate), event({"a": 2})], end=False) + [Reset()])

and then asserts on ``provider.requests``, ``provider.connections`` and so on.  A test whose
upstream only has to work says ``ScriptedProvider(otherwise=imitate())``.
"""

from __future__ import annotations

from ._connection import ReceivedRequest
from ._imitate import imitate
from ._server import Script, ScriptedProvider
from ._steps import (
    LAST_CHUNK,
    Close,
    Pairs,
    Reset,
    Send,
    Stall,
    Step,
    Steps,
    Tell,
    WaitFor,
    answer,
    chunk,
    cut,
    encoded,
    error,
    event,
    head,
    pieces,
    stream,
)

__all__ = [
    "LAST_CHUNK",
    "Close",
    "Pairs",
    "ReceivedRequest",
    "Reset",
    "Script",
    "ScriptedProvider",
    "Send",
    "Stall",
    "Step",
    "Steps",
    "Tell",
    "WaitFor",
    "answer",
    "chunk",
    "cut",
    "encoded",
    "error",
    "event",
    "head",
    "imitate",
    "pieces",
    "stream",
]
