"""What a strategy has done next for a request."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from aigateway.actors.providers.request import Refused
from aigateway.actors.upstream.errors import (
    AnswerTimeout,
    BadHead,
    ConnectFailed,
    NotMade,
    UpstreamError,
)

__all__ = ["REASONS", "FallBack", "Pause", "Refuse", "Deliver", "Send", "Step", "reason_of"]

REASONS = (
    "rate_limited",
    "unauthorized",
    "circuit_open",
    "error_status",
    "connect",
    "broke_off",
    "slow",
    "error_event",
    "bad_answer",
    "empty",
)
"""Why a request is handed on to another provider."""


@frozen
class Send:
    """Send the request with the job's credential."""


@frozen
class Deliver:
    """Give the answer to the client."""


@frozen
class Pause:
    """Resume the job after ``seconds``."""

    seconds: float


@frozen
class Refuse:
    """There is no answer: say this instead."""

    refused: Refused


@frozen
class FallBack:
    """Hand the request on to the fallback; do this when there is none."""

    instead: Refuse | Deliver
    reason: str
    """One of :data:`REASONS`."""
    said: Refused | None = None
    """What the provider answered, if it did."""
    abandoned: bool = False
    """The provider may be at work on the request, and bill it."""


Step: TypeAlias = Send | Deliver | Pause | Refuse | FallBack


def reason_of(error: UpstreamError) -> str:
    """Which of :data:`REASONS` a failure without an answer is."""
    match error:
        case ConnectFailed():
            return "connect"
        case NotMade():
            return "unauthorized"
        case AnswerTimeout():
            return "slow"
        case BadHead():
            return "bad_answer"
        case _:
            return "broke_off"
