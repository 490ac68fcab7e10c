"""An SDK client in front of a gateway, and what became of its last request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway_process import GatewayProcess
from imitation_provider import ScriptedProvider, answer, stream

__all__ = ["LastRequest"]


class LastRequest:
    """What the provider and the records say of it; subclasses ask, and set ``id``."""

    streamed: Callable[..., Any]
    """One round of an answer as events."""
    blocking: Callable[..., Any]
    """The same as a whole."""

    def __init__(self, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
        self.gateway, self.provider = gateway, provider
        self.seen = len(provider.requests)
        self.id = ""

    def plan(self, streaming: bool, *rounds: dict[str, Any]) -> None:
        """Have the provider answer each round with one of these."""
        for number, one in enumerate(rounds, 1):
            if streaming:
                self.provider.play(stream(self.streamed(**one, number=number)))
            else:
                self.provider.play(answer(self.blocking(**one, number=number)))

    @property
    def sent(self) -> list[dict[str, Any]]:
        """What the provider got, round by round."""
        return [request.json() for request in self.provider.requests[self.seen :]]

    @property
    def records(self) -> dict[str, Any]:
        return self.gateway.records(self.id)
