"""From an opened interception to one with tools injected."""

from __future__ import annotations

from collections.abc import Collection

from aigateway.actors.codec.decoding import decode
from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.interception.injected_chat import InjectedChat
from aigateway.actors.interception.injected_messages import InjectedMessages
from aigateway.actors.interception.injected_responses import InjectedResponses
from aigateway.actors.interception.injection import Encodings, inject
from aigateway.actors.interception.interface import Interception
from aigateway.actors.interception.relay import Relay
from aigateway.actors.interception.tools import ToolSet

__all__ = ["INJECTABLE", "with_tools"]

_KINDS: dict[str, type[InjectedInterception]] = {
    each.api: each for each in (InjectedMessages, InjectedChat, InjectedResponses)
}
INJECTABLE = frozenset(_KINDS)
"""The APIs into which tools are injected."""


def with_tools(
    interception: Interception,
    tool_set: ToolSet,
    encodings: Encodings,
    *,
    content_encoding: str = "",
    max_rounds: int,
    without: Collection[str] = (),
) -> Interception:
    """The interception with these tools offered but those named in ``without``; the same one
    when there are none to offer."""
    if not isinstance(interception, Relay) or interception.refusal is not None:
        return interception
    kind = _KINDS.get(interception.api)
    if kind is None:
        return interception
    body = interception.upstream_body()
    if content_encoding:
        body = decode(body, content_encoding)
    injected = inject(interception.api, body, tool_set, encodings, without)
    if injected is None:
        return interception
    return kind(interception, injected, content_encoding, max_rounds)
