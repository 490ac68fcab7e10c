"""What a load driver is told to do; travels to its process as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import attrs
from attrs import field, frozen

__all__ = ["KEY_PLACE", "AgentsSpec", "CallsSpec", "StreamsSpec", "Target"]

KEY_PLACE = b"@@KEY@@"
"""Where a request has the caller's key, when there are many keys."""


@frozen
class Target:
    """Where the load goes, and the requests, which are sent in turn."""

    port: int
    requests: tuple[str, ...]
    """Files, each with one whole HTTP request."""
    keys: str = ""
    """A file with a key per line, used in turn; empty: the requests have theirs."""

    def read_requests(self) -> list[bytes]:
        return [Path(name).read_bytes() for name in self.requests]

    def read_keys(self) -> list[bytes]:
        return Path(self.keys).read_bytes().split() if self.keys else []


@frozen(kw_only=True)
class CallsSpec:
    """Blocking requests; times in seconds."""

    target: Target
    seconds: float
    rate: float = 0.0
    """Requests per second of an open loop; 0: closed loop."""
    concurrency: int = 0
    """Requests in flight of a closed loop."""
    poisson: bool = True
    """Whether an open loop's requests come at random moments; else evenly."""
    grace: float = 10.0
    """How long to wait for answers after the last request."""
    seed: int = 1

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "target": _target(value["target"])})


@frozen(kw_only=True)
class StreamsSpec:
    """Event streams; times in seconds."""

    target: Target
    streams: int
    """Streams that are open at once; one that ends is followed by the next."""
    events: int
    """Content events that each stream should have."""
    ramp: float
    """Time over which the first streams are started."""
    seconds: float
    """What is measured, after the ramp."""
    grace: float = 20.0
    """How long streams may take to end afterwards, until they count as never finished."""
    leave_after: int = 0
    """Events after which a client hangs up, half of them with a reset; 0: never."""
    all_first_bytes: bool = False
    """Whether the streams of the ramp count in the time to the first byte too."""
    seed: int = field(default=1)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "target": _target(value["target"])})


@frozen(kw_only=True)
class AgentsSpec:
    """Coding agents; times in seconds."""

    port: int
    head: str
    """A file with the head of a request, up to where its length is said."""
    agents: int
    turns: int
    """Requests of one conversation."""
    first_kb: int
    last_kb: int
    """Size of a conversation's first request and of its last, in 1,000 bytes."""
    think: float
    """Mean of the time between an answer and the next request."""
    events: int
    """Texts that each answer should have."""
    classes: int
    """Classes of size for which the time to the first byte is told."""
    ramp: float
    """Time over which the agents begin."""
    seconds: float
    """What is measured, after the ramp."""
    model: str = ""
    grace: float = 20.0
    """How long answers may take to end afterwards, until they count as never finished."""
    seed: int = 1

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**value)


def _target(value: dict[str, Any]) -> Target:
    return attrs.evolve(Target(**value), requests=tuple(value["requests"]))
