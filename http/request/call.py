"""One request on its way through the edge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from attrs import define, field

from aigateway.actors.codec.header_list import Headers
from aigateway.actors.control.messages import Caller
from aigateway.actors.providers.messages import Opened
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.request.inbound import Inbound
from aigateway.http.request.relay import Patience

if TYPE_CHECKING:
    from aigateway.http.request.dump import Dump
    from aigateway.http.request.relay import Finished
    from aigateway.http.tracing.request import RequestTrace

__all__ = ["Call"]


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
    patience: Patience = field(factory=lambda: Patience(0.0, 300.0))
    """How long the body of its answer waits for a silent provider."""
    answer_headers: Headers | None = None
    """The answer's headers where they are not those of the upstream."""
    make_body: Callable[[Opened, Callable[[Finished], None]], Iterator[bytes]] | None = None
    """Makes the answer's body where it is not relayed as it comes: tools were injected."""
    watch: Callable[[bytes, bool], None] | None = None
    """Is shown the answer to a passed request as it is relayed."""
    dump: Dump | None = None
    trace: RequestTrace | None = None
    stages: dict[str, float] = field(factory=dict)
    """Seconds spent in each stage that is over."""
    stage: str = "edge"
    """The stage that it is in: edge, authorize, read, place (it waits for one), record,
    provider (until the head of its answer is there), relay."""
    admitted: bool = False
    """It has a place."""
    waited: float = 0.0
    """Seconds beside ``first_byte`` in which it waited for an upstream or for tools, before its
    answer was relayed."""
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

    def traced(self, headers: Headers) -> Headers:
        """The client's headers as the provider gets them next: with the trace's context."""
        return headers if self.trace is None else self.trace.calling(headers)

    @property
    def provider_name(self) -> str:
        return self.provider.name if self.provider is not None else ""

    @property
    def user_id(self) -> str:
        return self.caller.user_id if self.caller is not None else ""
