"""The most that a request may use, from its body: an estimate that is never too low where that can
be known.

- Input: a token for each two bytes of the body (of English, code and Chinese a token takes three or
  more), pictures for what a picture takes at most; documents a token for each byte.  What the body
  only names (a stored conversation, something cached, an address) may be as long as the longest
  context.
- Output: what the request allows, for each answer that it asks for; where it says nothing what the
  longest-winded models write at most.
- Tools that the provider runs itself: their requests, and what comes back as input.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from aigateway.actors.codec.reading import Object, count, items, members, text
from aigateway.actors.interception.routes import (
    COMPACTION,
    CONVERSE,
    GEMINI,
    GEMINI_EMBEDDING,
    MESSAGES,
    MODEL_CALL,
    RESPONSES,
    Api,
)
from aigateway.actors.values.frozen import frozen

__all__ = ["LONGEST_CONTEXT", "LONGEST_OUTPUT", "MADE_PICTURE", "PICTURE", "MostUsed", "most_used"]

LONGEST_CONTEXT = 1_000_000
"""Tokens of input that models take, but for very few."""
LONGEST_OUTPUT = 128_000
"""Tokens that models write in one answer, unless a request allows more."""
PICTURE = 5_000
"""Tokens of one picture."""
MADE_PICTURE = 20_000
"""Tokens that a model writes for one; the largest of OpenAI's take 6,240, drafts come on top."""
_BYTES_OF_TOKEN = 2
_OVERHEAD = 1_000
"""Tokens that providers add, for tools above all."""
_TOOL_USES = 5
"""Requests of a provider's own tool in one answer, unless the request allows others."""
_TOOL_RESULT = 20_000
"""Tokens of input that one of them brings."""

_BASE64 = (string.ascii_letters + string.digits + "+/").encode()
_REST = re.compile(rb"([A-Za-z0-9+/]+)={0,2}")
_PICTURE_BYTES = 4096
"""Base64 from which on it is a picture, where the body speaks of one."""
_LOOKED_FOR_PICTURES = 16 * 1024
"""Bytes from which on pictures are worth looking for."""

_WEB_SEARCH = ("web_search", "google_search", "googleSearch")
_RUN_THERE = ("web_search", "web_fetch", "code_execution", "code_interpreter", "file_search", "mcp")


_MORE = ("previous_response_id", "conversation", "cachedContent", "cached_content", "container")
"""Fields that name what is stored elsewhere."""


@frozen
class MostUsed:
    """Tokens, and metadata of a token record as far as they have prices."""

    input_tokens: int
    output_tokens: int
    metadata: Mapping[str, Any]


def most_used(api: Api, readable: bytes) -> MostUsed:
    """What a request may use at most; ``readable`` is its body without content coding."""
    fields = members(readable)
    metadata: dict[str, Any] = {}
    for name in ("service_tier", "speed"):
        if told := text(fields.get(name)):
            metadata[name] = told
    if api == MESSAGES and b'"1h"' in readable:
        metadata["cache_ephemeral_1h_input"] = True
    given = LONGEST_CONTEXT if _names_more(fields) else _input(readable)
    uses = searches = 0
    if "tools" in fields:
        for tool in items(fields["tools"]):
            found, searching = _uses(members(tool))
            uses += found
            searches += found if searching else 0
    if "web_search_options" in fields:
        uses, searches = uses + _TOOL_USES, searches + _TOOL_USES
    if searches:
        metadata["web_search_requests"] = searches
    given = min(given + uses * _TOOL_RESULT, LONGEST_CONTEXT)
    return MostUsed(given, _output(api, fields), metadata)


def _input(readable: bytes) -> int:
    size, pictures = len(readable), 0
    if b"application/pdf" in readable:
        return min(size + _OVERHEAD, LONGEST_CONTEXT)
    if size >= _LOOKED_FOR_PICTURES:
        runs = list(_runs(readable))
        if runs and b"image" in readable:
            size -= sum(runs)
            pictures = len(runs)
    linked = readable.count(b"image_url") if b'"http' in readable else 0
    used = size // _BYTES_OF_TOKEN + (pictures + linked) * PICTURE + _OVERHEAD
    return min(used, LONGEST_CONTEXT)


def _runs(readable: bytes) -> Iterator[int]:
    """The lengths of all runs of base64 that are as long as a picture's.

    PERF: each covers one of the places that are looked at, and most text is something else there
    at the first look.  A regular expression that looks everywhere takes 6 ms for 450 KB.
    """
    end = 0
    for place in range(0, len(readable), _PICTURE_BYTES):
        rest = _REST.match(readable, place)
        if place < end or rest is None:
            continue
        before = readable[max(0, place - _PICTURE_BYTES) : place]
        start = len(before.rstrip(_BASE64)) - len(before) + place
        if rest.end(1) - start >= _PICTURE_BYTES:
            end = rest.end()
            yield end - start


def _names_more(fields: Object) -> bool:
    """Whether it goes on from something that is not in the body."""
    return not fields.keys().isdisjoint(_MORE) and any(
        bytes(fields[name]) != b"null" for name in _MORE if name in fields
    )


def _uses(tool: Object) -> tuple[int, bool]:
    """How often a tool may run at the provider's, and whether it searches the web."""
    kind = text(tool.get("type")) or ""
    if any(name in tool for name in _WEB_SEARCH):
        return _TOOL_USES, True
    if kind.startswith(_RUN_THERE):
        return count(tool.get("max_uses")) or _TOOL_USES, kind.startswith("web_search")
    return 0, False


def _output(api: Api, fields: Object) -> int:
    if api == COMPACTION:
        return LONGEST_OUTPUT
    if api in (MODEL_CALL, GEMINI_EMBEDDING):
        return _made(fields)
    if api == GEMINI:
        fields = members(fields.get("generationConfig", fields.get("generation_config")))
        most = _first(fields, "maxOutputTokens", "max_output_tokens")
        answers = _first(fields, "candidateCount", "candidate_count")
    elif api == CONVERSE:
        most, answers = count(members(fields.get("inferenceConfig")).get("maxTokens")), 1
    elif api == RESPONSES:
        most, answers = count(fields.get("max_output_tokens")), 1
    else:
        most = _first(fields, "max_completion_tokens", "max_tokens")
        answers = 1 if api == MESSAGES else count(fields.get("n"))
    return (most or LONGEST_OUTPUT) * max(answers, 1)


def _made(fields: Object) -> int:
    """What is written by a model that holds no conversation: pictures, sound, text, or nothing."""
    if "prompt" in fields:
        return max(count(fields.get("n")), 1) * MADE_PICTURE
    # A form has a recording or a picture in it.
    return LONGEST_OUTPUT if not fields or "voice" in fields else 0


def _first(fields: Object, *names: str) -> int:
    return max(count(fields.get(name)) for name in names)
