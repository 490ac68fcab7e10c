"""Which requests belong together, and which of them belong to one account.

Prompt caches, stored responses, files and encrypted reasoning live in the provider's account.
So the requests of a session are sent with the same key as long as that key may be used; and
a request that names something which only one account knows is sent with no other key and to
no other provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from attrs import frozen

from aigateway.actors.codec.reading import Buffer, members, text
from aigateway.actors.interception.routes import MESSAGES, RESPONSES, Api

__all__ = [
    "NO_AFFINITY",
    "NO_OPENING",
    "Affinity",
    "Opening",
    "affinity_of",
    "affinity_of_passed",
    "opening_of",
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

# PERF: finding a name costs little even in a body of many megabytes; the pattern is tried only
# where one was found.  Inside a string quotes are escaped, so a name that stands between bare
# quotes in front of a colon is a member's.
_BINDING: Mapping[str, Sequence[tuple[bytes, re.Pattern[bytes]]]] = {
    MESSAGES: tuple(
        (name, re.compile(rb"\s*:\s*" + value))
        for name, value in (
            (b'"file_id"', rb'"'),
            (b'"container"', rb'(?:"|\{[^{}]*"id"\s*:\s*")'),
        )
    ),
    RESPONSES: tuple(
        (name, re.compile(rb"\s*:\s*" + value))
        for name, value in (
            (b'"previous_response_id"', rb'"'),
            (b'"conversation"', rb'["{]'),
            (b'"encrypted_content"', rb'"'),
            (b'"file_id"', rb'"'),
            (b'"file_ids"', rb'\[\s*"'),
            (b'"vector_store_ids"', rb'\[\s*"'),
            (b'"container"', rb'"'),
            (b'"container_id"', rb'"'),
        )
    ),
}


def opening_of(api: Api, entries: Sequence[Buffer], readable: bytes) -> Opening:
    """What the body ``readable`` says; ``entries`` are the messages of its conversation.

    A request to the Responses API goes on from one before without repeating it, so there a
    conversation cannot be told by its beginning.
    """
    bound = _is_bound(api, readable)
    if api == RESPONSES:
        return Opening(b"", bound, stays=True)
    return Opening(_digest(_first_said(entries)), bound)


def affinity_of(session_id: str | None, user_id: str, opening: Opening) -> Affinity:
    """Where a request belongs: to the session that its client names, else to the user's
    conversation that begins like this one, else to the user."""
    session = _session(session_id, user_id, opening.first)
    return Affinity(session, opening.bound, opening.stays)


def affinity_of_passed(session_id: str | None, user_id: str, route: str) -> Affinity:
    """Where a passed-through request belongs; ``route`` is the table's entry that it matched.

    What is stored (responses, conversations) is where the user's requests to the Responses API
    go.  Anything else says nothing about where that is.
    """
    if route.startswith(_STORED):
        return Affinity(_session(session_id, user_id, b""), route.endswith("/"), stays=True)
    return Affinity(_session(None, user_id, b"passed"))


def _session(session_id: str | None, user_id: str, first: bytes) -> str:
    kind, name = b"user", first
    if session_id:
        kind, name = b"session", session_id.encode("utf-8", "replace")
    whole = b"\0".join((kind, user_id.encode("utf-8", "replace"), name))
    return blake2b(whole, digest_size=_SIZE).hexdigest()


def _first_said(entries: Sequence[Buffer]) -> Buffer:
    """The first message of the user, as it is written; the first of all if there is none."""
    for entry in entries:
        if text(members(entry).get("role")) == "user":
            return entry
    return entries[0] if entries else b""


def _digest(data: Buffer) -> bytes:
    return blake2b(memoryview(data), digest_size=_SIZE).digest()


def _is_bound(api: Api, readable: bytes) -> bool:
    return any(_has_member(readable, name, value) for name, value in _BINDING.get(api, ()))


def _has_member(readable: bytes, name: bytes, value: re.Pattern[bytes]) -> bool:
    at = readable.find(name)
    while at >= 0:
        if value.match(readable, at + len(name)):
            return True
        at = readable.find(name, at + len(name))
    return False
