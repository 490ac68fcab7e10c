"""Ids of what a provider stores, where clients name them: in paths and in bodies.

A provider knows one account, the gateway's.  Who may see what is stored under an id is
known here only, so these ids have to be found before a request goes on.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from aigateway.actors.codec.reading import members, text
from aigateway.actors.codec.splice import object_members

__all__ = ["created_id", "ids_in_body", "ids_in_path", "is_stored", "values_before"]

_PATH = re.compile(
    r"(?:/openai)?(?:/v1)?/(?:responses|conversations|files|batches|messages/batches)/([^/;]+)"
    r"|/v1(?:alpha|beta)?/(cachedContents/[^/;]+)"
)


def ids_in_path(rest: str) -> tuple[str, ...]:
    """The ids in a path below a provider's name, percent-encoded as it came."""
    found = _PATH.match(rest)
    return () if found is None else (unquote(found[1] or found[2]),)


def ids_in_body(readable: bytes) -> tuple[str, ...]:
    """The ids that a request to the Responses API goes on from, of what one to Gemini's has
    cached, or of the file that a batch consists of."""
    if not _may_have(readable, b"previous_response_id", b"conversation", b"cached", b"file_id"):
        return ()
    names = ("previous_response_id", "cachedContent", "cached_content", "input_file_id")
    named = [text(value) for name in names for value in _values(readable, name)]
    for conversation in _values(readable, "conversation"):
        named += [text(conversation), *map(text, _values(conversation, "id"))]
    return tuple(id for id in named if id)


def values_before(readable: bytes) -> list[bytes]:
    """The values, as they are written, by which a request to the Responses API may say what it
    goes on from; nulls say nothing."""
    told = _values(readable, "previous_response_id") + _values(readable, "conversation")
    return [each for each in told if each != b"null"]


def is_stored(readable: bytes) -> bool:
    """Whether the answer to a request to the Responses API may be stored: unless it says no."""
    if not _may_have(readable, b"store"):
        return True
    said = _values(readable, "store")
    return not said or any(value != b"false" for value in said)


def created_id(body: bytes) -> str:
    """The id of what was made, by the provider's answer; empty when there is none.

    Google calls it a name.
    """
    made = members(body)
    return text(made.get("id")) or text(made.get("name")) or ""


def _values(document: bytes, name: str) -> list[bytes]:
    """All values of a member: of a name that is written twice a provider may take the first."""
    if name not in members(document):
        return []
    return [
        document[each.value_start : each.value_end]
        for each in object_members(document)
        if each.name == name
    ]


def _may_have(readable: bytes, *names: bytes) -> bool:
    """PERF: looking is cheaper than reading.  A name may be written with escapes."""
    return any(name in readable for name in names) or b"\\u" in readable
