"""A provider that holds its answers back, and clients that wait for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

from gateway_process import GatewayProcess, wait_until
from imitation_provider import ReceivedRequest, ScriptedProvider, Step, WaitFor, imitate
from raw_client import RawAnswer, RawClient

__all__ = [
    "APIS",
    "SHUTTING_DOWN",
    "HeldClients",
    "HeldProvider",
    "ask",
    "error_event_of",
    "is_whole",
]

SHUTTING_DOWN = "AI Gateway is shutting down"
APIS = {
    "messages": "/anthropic/v1/messages",
    "chat": "/openai/v1/chat/completions",
    "responses": "/openai/v1/responses",
}
_LAST_EVENTS = {
    "messages": b"event: message_stop",
    "chat": b"data: [DONE]",
    "responses": b"event: response.completed",
}


def ask(api: str = "messages", *, stream: bool = False, model: str = "held") -> dict[str, Any]:
    """A request's body; an answer of the model ``held`` is held back."""
    messages = [{"role": "user", "content": "hello"}]
    body: dict[str, Any] = {"model": model, "stream": stream}
    if api == "responses":
        return {**body, "input": "hello"}
    return {**body, "max_tokens": 50, "messages": messages}


class HeldProvider(ScriptedProvider):
    """Stops streams after some events, and others before their head, until :meth:`go_on`."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        super().__init__(otherwise=self._script)

    def go_on(self) -> None:
        self._gate.set()

    def hold_again(self) -> None:
        self._gate.clear()

    def _script(self, request: ReceivedRequest) -> Sequence[Step]:
        steps = list(imitate()(request))
        if b'"held"' not in request.body:
            return steps
        at = 3 if b'"stream": true' in request.body else 0
        return [*steps[:at], WaitFor(self._gate), *steps[at:]]


class HeldClients:
    """Requests whose answers are held back: so many streams, and so many blocking ones.

    Entered, all streams have begun.
    """

    def __init__(
        self,
        gateway: GatewayProcess,
        streams: int,
        blocking: int = 0,
        *,
        provider: ScriptedProvider,
        apis: Sequence[str] = ("messages",),
        **options: Any,
    ) -> None:
        self._gateway = gateway
        self._provider = provider
        self._options = options
        self._plan = [(apis[n % len(apis)], n < streams) for n in range(streams + blocking)]
        self._exits = ExitStack()
        self.clients: list[tuple[str, RawClient, bool]] = []

    def __enter__(self) -> Self:
        before = len(self._provider.requests)
        with ExitStack() as exits:
            for api, streaming in self._plan:
                client = exits.enter_context(RawClient(self._gateway, **self._options))
                client.post(APIS[api], ask(api, stream=streaming))
                self.clients.append((api, client, streaming))
            for _, client, streaming in self.clients:
                if streaming:
                    client.read_until(b"data: ")
            wait_until(
                lambda: len(self._provider.requests) >= before + len(self._plan),
                "the provider has all requests",
            )
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._exits.close()

    def answers(self) -> list[tuple[str, RawAnswer]]:
        """All answers, each read to its end, streams first."""
        return [(api, client.answer()) for api, client, _ in self.clients]


def is_whole(api: str, answer: RawAnswer) -> bool:
    """Whether a stream came to its API's own end, and the connection said so too."""
    return answer.ended and _LAST_EVENTS[api] in answer.body


def error_event_of(api: str, answer: RawAnswer) -> dict[str, Any]:
    """The error in a stream's last event, as its API's SDK reads it."""
    last = answer.body.rstrip(b"\n").split(b"\n\n")[-1]
    data: dict[str, Any] = json.loads(last.split(b"data: ", 1)[1])
    if api != "chat":
        assert data["type"] == "error", data
    error: dict[str, Any] = data["error"]
    return error
