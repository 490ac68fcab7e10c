"""The scripted provider's mode for SDKs: the demonstration's imitation gives the answers."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aigateway.http.demo import imitation

from ._connection import ReceivedRequest
from ._steps import Close, Step, Steps, answer, stream

__all__ = ["imitate"]


def imitate(keys: Collection[str] | None = None) -> Callable[[ReceivedRequest], Steps]:
    """A script for any request to Anthropic's, OpenAI's or Google's API, blocking or streaming.

    ``keys`` are the API keys that the imitation knows (None: any will do).  One event is one
    chunk and one send.
    """

    def script(request: ReceivedRequest) -> list[Step]:
        reply = imitation.answer(
            imitation.HeardRequest(
                method=request.method,
                path=request.target.partition("?")[0],
                headers={name.lower(): value for name, value in request.headers},
                body=request.body,
                query=request.target.partition("?")[2],
            ),
            keys,
        )
        if reply.events is None:
            return answer(reply.body, reply.status, reply.headers, content_type=None)
        whole = not reply.breaks_off
        steps = stream(reply.events, reply.status, reply.headers, content_type=None, end=whole)
        return steps if whole else [*steps, Close()]

    return script
