"""Which requests belong together, and which of them belong to one account.

Prompt caches, stored responses, files and encrypted reasoning live in the provider's account.
So the requests of a session are sent with the same key as long as that key may be used; and
a request that names something which only one account knows is sent with no other key and to
no other provider.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from hashlib import blake2b
from typing import TypeAlias

from attrs import frozen
from msgspec import Raw

from aigateway.actors.codec.reading import Buffer, members, text
from aigateway.actors.interception.prompts import Conversation

__all__ = [
    "NO_AFFINITY",
    "NO_OPENING",
    "Affinity",
    "Opening",
    "affinity_of",
    "affinity_of_passed",
    "is_about_stored",
    "opening_of_completion",
    "opening_of_messages",
    "opening_of_response",
]

_SIZE = 16
"""Bytes of a session's digest: more than enough to tell sessions apart."""


@frozen
class Opening:
    """What a request's body says about where it belongs."""

    first: bytes = b""
    """A digest of the first thing that the user said in the conversation; empty where a later
    request need not repeat it."""
    bound: bool = False
    """It names something that one account alone knows."""
    stays: bool = False
    """Later requests of its conversation may."""
    names_stored: bool = False
    """It may name responses or conversations that are stored (:mod:`.stored_ids`)."""
    stored: bool = False
    """What it is answered may be stored under an id."""


NO_OPENING = Opening()


@frozen
class Affinity:
    """Where a request belongs, as the provider's actor needs it."""

    session: str = ""
    """The same for all requests of a session, in every process; empty: none is known."""
    bound: bool = False
    """Send it with the key of its session or not at all."""
    stays: bool = False
    """Its session has the same key in all processes, however busy that is."""


NO_AFFINITY = Affinity()

_STORED = ("/responses/", "/conversations")
"""Passed routes below which an account keeps what users have stored."""

# PERF: finding a name costs as much as reading the whole body, so what stands in known places is
# looked at there, and names that may stand anywhere are found only in bodies that may have them.
# The pattern is tried where a name was found.  Inside a string quotes are escaped, so a name that
# stands between bare quotes in front of a colon is a member's.
_Sought: TypeAlias = tuple[bytes, re.Pattern[bytes]]


def _sought(name: bytes, value: bytes) -> _Sought:
    return name, re.compile(rb"\s*:\s*" + value)


_FILE = (_sought(b'"file_id"', b'"'),)
_IN_ITEMS = (
    _sought(b'"encrypted_content"', b'"'),
    *_FILE,
    _sought(b'"container_id"', b'"'),
)
_IN_TOOLS = (
    _sought(b'"file_ids"', rb'\[\s*"'),
    _sought(b'"vector_store_ids"', rb'\[\s*"'),
    _sought(b'"container"', b'"'),
)
_PLAIN_TOOLS = frozenset({"function", "custom", "web_search"})
"""Types of tools that name nothing of an account."""


def opening_of_messages(messages: Conversation, container: Raw, readable: bytes) -> Opening:
    """What a request to the Messages API says; ``container`` is that member of it."""
    named = text(container) is not None or text(members(container).get("id")) is not None
    return Opening(_digest(_first_said(messages)), named or _has_any(readable, _FILE))


def opening_of_completion(messages: Conversation) -> Opening:
    """What a request for a completion says: it names nothing that is stored."""
    return Opening(_digest(_first_said(messages)))


def opening_of_response(
    readable: bytes,
    tools: Collection[str],
    *,
    goes_on: bool,
    names_stored: bool,
    stored: bool,
) -> Opening:
    """What a request to the Responses API says; ``tools`` are the types of those it has.

    It ``goes_on`` from a response or conversation before, without repeating that, so there a
    conversation cannot be told by its beginning.
    """
    sought = _IN_ITEMS if _PLAIN_TOOLS.issuperset(tools) else (*_IN_ITEMS, *_IN_TOOLS)
    bound = goes_on or _has_any(readable, sought)
    return Opening(b"", bound, stays=True, names_stored=names_stored, stored=stored)


def affinity_of(session_id: str | None, user_id: str, opening: Opening) -> Affinity:
    """Where a request belongs: to the session that its client names, else to the user's
    conversation that begins like this one, else to the user."""
    session = _session(session_id, user_id, opening.first)
    return Affinity(session, opening.bound, opening.stays)


def is_about_stored(route: str) -> bool:
    """Whether a passed route leads to what users have stored, where sessions count."""
    return route.startswith(_STORED)


def affinity_of_passed(session_id: str | None, user_id: str, route: str) -> Affinity:
    """Where a passed-through request belongs; ``route`` is the table's entry that it matched.

    What is stored (responses, conversations) is where the user's requests to the Responses API
    go.  Anything else says nothing about where that is.
    """
    if is_about_stored(route):
        return Affinity(_session(session_id, user_id, b""), route.endswith("/"), stays=True)
    return Affinity(_session(None, user_id, b"passed"))


def _session(session_id: str | None, user_id: str, first: bytes) -> str:
    kind, name = b"user", first
    if session_id:
        kind, name = b"session", session_id.encode("utf-8", "replace")
    whole = b"\0".join((kind, user_id.encode("utf-8", "replace"), name))
    return blake2b(whole, digest_size=_SIZE).hexdigest()


def _first_said(messages: Conversation) -> Buffer:
    """The first message of the user, as it is written; the first of all if there is none."""
    for place, raw in enumerate(messages.raw):
        if text(messages[place].get("role")) == "user":
            return raw
    return messages.raw[0] if messages.raw else b""


def _digest(data: Buffer) -> bytes:
    return blake2b(memoryview(data), digest_size=_SIZE).digest()


def _has_any(readable: bytes, sought: tuple[_Sought, ...]) -> bool:
    for name, value in sought:
        at = readable.find(name)
        while at >= 0:
            if value.match(readable, at + len(name)):
                return True
            at = readable.find(name, at + len(name))
    return False
