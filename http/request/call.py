"""One request on its way through the edge."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import define, field

from aigateway.actors.codec.headers import Headers
from aigateway.actors.control.messages import Caller
from aigateway.actors.mcp.messages import ToolResult
from aigateway.actors.providers.recording import Recording
from aigateway.actors.values.policy import CallerRules
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.request.inbound import Inbound

if TYPE_CHECKING:
    from aigateway.http.request.dump import Dump
    from aigateway.http.tracing.request import RequestTrace

__all__ = ["UNTRACED", "Call", "Trace"]


class Untraced:
    """In the place of a :class:`~aigateway.http.tracing.request.RequestTrace` that nobody wants:
    takes the same words and does nothing."""

    def head(self, status: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return headers

    def relaying(self) -> None: ...

    def handled(self) -> None: ...

    def finished(self, outcome: str) -> None: ...

    def refused(self, status: int, body: bytes) -> None: ...

    def passthrough(self, route: str, url: str, method: str) -> None: ...

    def turn(self) -> Untraced:
        return self

    def intercept(self, *, provider: str, kind: str, user: str, api: str, route: str) -> None: ...

    def created(self, recording: Recording, *, model: str, bedrock: bool | None) -> None: ...

    def recorded(self, session: str | None) -> None: ...

    def calling(self, headers: Headers) -> Headers:
        return headers

    def answered(self) -> None: ...

    def tools_asked(self) -> Any:
        return None

    def tools_known(self, span: Any, error: str = "") -> None: ...

    def tool_call(self, tool: str) -> Any:
        return None

    def tool_called(self, span: Any, result: ToolResult) -> None: ...


UNTRACED: Final = Untraced()

Trace: TypeAlias = "RequestTrace | Untraced"
"""What is told how a request goes; a real one exists only where traces are switched on."""


@define(eq=False)
class Call:
    """Filled in step by step, and what the log line is made of."""

    inbound: Inbound
    began: float
    request_id: str = ""
    proxy_id: str = ""
    """What a proxy of the Coder deployment calls it."""
    auth_mode: str = "centralized"
    caller: Caller | None = None
    provider: ProviderConfig | None = None
    route: str = ""
    interception_id: str = ""
    model: str = ""
    """The model that is asked for and recorded."""
    client: str = ""
    session_id: str | None = None
    """What its program calls the conversation, if it says."""
    recorded: bool = False
    """The interception's start was accepted by the control plane."""
    dump: Dump | None = None
    trace: Trace = UNTRACED
    stages: dict[str, float] = field(factory=dict)
    """Seconds spent in each stage that is over."""
    stage: str = "edge"
    """The stage that it is in: edge, authorize, read, place (it waits for one), record,
    provider (until the head of its answer is there), relay."""
    reason: str = ""
    """Why the gateway has refused it; empty: it has not."""
    rule: str = ""
    """By which rule."""
    cap_warning: tuple[str, str] | None = None
    """A header of the answer, where much of a cap is spent."""
    admitted: bool = False
    """It has a place."""
    upgraded: bool = False
    """It is a WebSocket, or runs on one."""
    _marked: float = 0.0

    def begin(self, stage: str) -> None:
        """The stage so far is over, the next one begins."""
        now = time.monotonic()
        seconds = now - (self._marked or self.began)
        self.stages[self.stage] = self.stages.get(self.stage, 0.0) + seconds
        self._marked = now
        self.stage = stage

    def answered(self, begun_at: float) -> None:
        """The answer's head is there; a worker began to ask for it at ``begun_at``, 0: none did.

        What was before that was the provider's actor: admission, the choice of a key, the
        wait for a worker.
        """
        since = self._marked or self.began
        if begun_at > since:
            self.stages["provider"] = begun_at - since
            self._marked = begun_at
        if begun_at:
            self.stage = "first_byte"
        self.begin("relay")

    @property
    def provider_name(self) -> str:
        return self.provider.name if self.provider is not None else ""

    @property
    def rules(self) -> CallerRules | None:
        """What the policy has for the caller."""
        return self.caller.rules if self.caller is not None else None

    @property
    def user_id(self) -> str:
        return self.caller.user_id if self.caller is not None else ""
