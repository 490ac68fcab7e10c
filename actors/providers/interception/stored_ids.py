"""Ids of what a provider stores, where clients name them: in paths and in bodies.

A provider knows one account, the gateway's.  Who may see what is stored under an id is
known here only, so these ids have to be found before a request goes on.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from aigateway.actors.providers.interception.reading import members, source, text

__all__ = ["created_id", "ids_in_body", "ids_in_path", "is_stored"]

_PATH = re.compile(r"(?:/v1)?/(?:responses|conversations)/([^/;]+)")


def ids_in_path(rest: str) -> tuple[str, ...]:
    """The ids in a path below a provider's name, percent-encoded as it came."""
    found = _PATH.match(rest)
    return () if found is None else (unquote(found[1]),)


def ids_in_body(readable: bytes) -> tuple[str, ...]:
    """The ids that a request to the Responses API goes on from."""
    if not _may_have(readable, b"previous_response_id", b"conversation"):
        return ()
    fields = members(readable)
    conversation = fields.get("conversation")
    named = (
        text(fields.get("previous_response_id")),
        text(conversation) or text(members(conversation).get("id")),
    )
    return tuple(id for id in named if id)


def is_stored(readable: bytes) -> bool:
    """Whether the answer to a request to the Responses API is stored: unless it says no."""
    if not _may_have(readable, b"store"):
        return True
    return source(members(readable).get("store")) != "false"


def created_id(body: bytes) -> str:
    """The id of what was made, by the provider's answer; empty when there is none."""
    return text(members(body).get("id")) or ""


def _may_have(readable: bytes, *names: bytes) -> bool:
    """PERF: looking is cheaper than reading.  A name may be written with escapes."""
    return any(name in readable for name in names) or b"\\u" in readable
