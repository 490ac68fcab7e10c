"""Calling a provider from the edge: one message to its actor, which sees to the rest."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

from aigateway.actors.actor.tree import provider_role
from aigateway.actors.codec.headers import Headers, first_of
from aigateway.actors.control.messages import Caller
from aigateway.actors.interception.headers import (
    UnsafeHeader,
    for_client,
    for_upstream,
    without_account,
)
from aigateway.actors.providers.messages import Opened, Perform, Refused
from aigateway.actors.providers.request import UpstreamRequest, patience_of, url_for
from aigateway.actors.upstream.errors import Unsendable
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer, api_error, plain
from aigateway.http.request.concealing import conceal
from aigateway.http.request.runtime import NoAnswer, Runtime, Stopping

GRACE = 5.0
"""Seconds that a provider's own timeout may come late."""

__all__ = ["Upstream", "actor_headers", "address_for", "headers_for", "refusal_answer"]


class Upstream:
    """Sends requests to provider actors."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def perform(
        self,
        config: ProviderConfig,
        request: UpstreamRequest,
        *,
        alone: bool = False,
        within: float = math.inf,
    ) -> Opened | Refused:
        """Send a request to ``config``'s provider, or to one that it falls back on.

        ``alone``: no other one may answer.  ``within``: seconds that it may take, if that is
        less than the providers are given."""
        patience = min(within, patience_of(config, None if alone else self._runtime.tree))
        then = () if alone else None
        deadline = time.monotonic() + patience
        try:
            result = self._runtime.ask(
                provider_role(config.name),
                lambda reply: Perform(request=request, reply=reply, deadline=deadline, then=then),
                patience + GRACE,
            )
        except NoAnswer as ex:
            return Refused(502, f"the provider's actor failed: {ex}", sent=ex.sent)
        except Stopping as ex:
            return Refused(503, str(ex), retry_after=1, sent=True)
        if isinstance(result, Opened):
            self._runtime.inflight.hold(result.exchange)
            if result.exchange.status < 400:
                if result.shared:
                    result.exchange.headers = without_account(result.exchange.headers)
                return result
        answering = self.provider_of(result) or config
        dialect = request.api or config.type
        keys = self._runtime.tree.keys_of(answering)
        return conceal(result, keys, dialect, quotes=answering.quoted)

    def provider_of(self, result: Opened | Refused) -> ProviderConfig | None:
        """The configuration of the provider that answered."""
        return self._runtime.tree.provider_config(result.provider_name)


def headers_for(headers: Headers, **rules: Any) -> list[tuple[str, str]]:
    """The client's headers as they go upstream; raises an Answer for unsafe ones."""
    try:
        return for_upstream(headers, **rules)
    except UnsafeHeader as ex:
        text = f"the request cannot be forwarded: {ex}"
        raise plain(400, text, reason=Reason.BAD_REQUEST) from ex


def actor_headers(config: ProviderConfig, caller: Caller) -> list[tuple[str, str]]:
    """The headers that name the user to this provider."""
    values = {"id": caller.user_id, "username": caller.username, "email": caller.email}
    return [(name, values.get(key, "")) for key, name in config.actor_headers.items()]


def address_for(config: ProviderConfig, rest: str, query: str) -> str:
    """Where a request would go; raises the Answer for a path or query that no URL may have."""
    try:
        return url_for(config, rest, query)
    except Unsendable as ex:
        text = "the request cannot be forwarded: bad path or query"
        raise plain(400, text, reason=Reason.BAD_REQUEST) from ex


def refusal_answer(dialect: str, refused: Refused) -> Answer:
    """What the client gets when no provider answered."""
    if refused.body is None:
        return api_error(
            dialect,
            refused.status,
            refused.message,
            reason=Reason.PROVIDER,
            retry_after=refused.retry_after,
        )
    headers: list[tuple[str, str]] = []
    with contextlib.suppress(UnsafeHeader):
        headers = [
            (name, value)
            for name, value in for_client(refused.headers)
            if name.lower() not in ("content-type", "content-length")
        ]
    if refused.retry_after is not None:
        headers.append(("Retry-After", str(refused.retry_after)))
    content_type = first_of(refused.headers, "content-type") or "application/json"
    return Answer(
        refused.status, refused.body, content_type, tuple(headers), reason=Reason.PROVIDER
    )
