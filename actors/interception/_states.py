"""The states of an answer, and what the gateway says about bad ones."""

from __future__ import annotations

import enum

__all__ = [
    "BROKEN_CODING",
    "CLIENT_GONE",
    "ENDED_EARLY",
    "INVALID_ANSWER",
    "NO_ANSWER",
    "End",
    "Mode",
]


class Mode(enum.Enum):
    """How an answer is being read."""

    WAITING = "no head yet"
    UNDECIDED = "head seen, nature unknown"
    STREAM = "event stream"
    BODY = "one JSON document"
    ERROR = "error answer"
    UNREADABLE = "encoded in a way that cannot be read"
    ENDED = "no more bytes"


class End(enum.Enum):
    """How an answer ended."""

    WHOLE = "as its API ends answers"
    FAILED = "with an error that the upstream reported"
    CUT = "too early, or without having been read"


INVALID_ANSWER = (
    "The AI provider returned an invalid response."
    " Try again or contact your administrator if this persists."
)
NO_ANSWER = (
    "The AI provider did not return a response."
    " Try again or contact your administrator if this persists."
)
BROKEN_CODING = "The content coding of the AI provider's answer is broken: {}."
ENDED_EARLY = "The AI provider ended its answer before it was complete."
CLIENT_GONE = "the client left before the answer was complete"
