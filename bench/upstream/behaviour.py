"""How the imitation behaves and what it counts, in memory that its processes share.

The owner of the memory writes behaviours, each process writes its own counters, so no lock
is needed: every 64-bit cell has one writer.
"""

from __future__ import annotations

import mmap
from typing import Any, Self

import attrs
from attrs import frozen

__all__ = ["LISTENERS", "Behaviour", "Board", "Counters"]

LISTENERS = ("main", "slow")
"""The imitation listens twice; the second provider can be slow while the first is not."""

_CELLS = 16  # cells of one behaviour or one set of counters


@frozen
class Behaviour:
    """What an answer is like."""

    answer_bytes: int = 1000
    """Bytes of text in a blocking answer."""
    events: int = 100
    """Content events of a streamed answer."""
    interval_us: int = 20_000
    """Microseconds between two events."""
    think_us: int = 0
    """Microseconds from the request to the answer's first byte."""
    agents: int = 0
    """1: streams of Messages also think and call a tool."""
    at_once: int = 0
    """Streams of Messages come in one piece, as fast as they are taken: 1: of text, 2: of
    thinking, 3: of a tool's arguments; 0: event by event."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**value)


@frozen
class Counters:
    """What happened on one listener since the start, or in a span of time."""

    connections: int = 0
    requests: int = 0
    """Requests that were read completely."""
    answers: int = 0
    """Answers, blocking and streamed, whose last byte was handed to the kernel."""
    streams: int = 0
    """Streamed answers that were begun."""
    events: int = 0
    cut: int = 0
    """Requests whose client went away before the answer's end."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Tokens that complete answers reported."""
    late: int = 0
    """Events that were sent more than 5 ms after they were due: the imitation, or the machine,
    was too slow."""
    prompts: int = 0
    """Complete answers to a person's words, not to the results of tools."""

    def __sub__(self, other: Counters) -> Counters:
        mine, theirs = attrs.astuple(self), attrs.astuple(other)
        return Counters(*(a - b for a, b in zip(mine, theirs, strict=True)))

    def __add__(self, other: Counters) -> Counters:
        mine, theirs = attrs.astuple(self), attrs.astuple(other)
        return Counters(*(a + b for a, b in zip(mine, theirs, strict=True)))

    @property
    def open(self) -> int:
        """Requests without an end so far."""
        return self.requests - self.answers - self.cut


COUNTER = {name: index for index, name in enumerate(attrs.fields_dict(Counters))}
"""Cell of each counter."""


class Board:
    """The shared memory.  Made before the processes are forked."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        cells = _CELLS * len(LISTENERS) * (1 + processes)
        self._memory = mmap.mmap(-1, cells * 8)
        self._cells = memoryview(self._memory).cast("q")

    def behave(self, listener: int, behaviour: Behaviour) -> None:
        """Let requests from now on be answered like this."""
        base = listener * _CELLS
        for index, value in enumerate(attrs.astuple(behaviour)):
            self._cells[base + 1 + index] = value
        # The version comes last: who sees the new one sees the new values.
        self._cells[base] += 1

    def version(self, listener: int) -> int:
        return self._cells[listener * _CELLS]

    def behaviour(self, listener: int) -> Behaviour:
        base = listener * _CELLS + 1
        return Behaviour(*self._cells[base : base + len(attrs.fields(Behaviour))])

    def cells(self, process: int, listener: int) -> memoryview[int]:
        """The counters of one process, to be written by it alone."""
        base = _CELLS * (len(LISTENERS) * (1 + process) + listener)
        return self._cells[base : base + _CELLS]

    def counters(self, listener: int) -> Counters:
        """All processes together."""
        total = Counters()
        for process in range(self._processes):
            total += Counters(*self.cells(process, listener)[: len(COUNTER)])
        return total
