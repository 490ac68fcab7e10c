"""What each API takes of a tool's definition: the tables behind :mod:`.tool_schemas`.

A provider that dislikes one tool refuses the whole request, so what is here is what all of an
API's models are known to take, not the most that one of them does.  Sources: the providers'
references of function calling, and the texts of their refusals.
"""

from __future__ import annotations

import re

from attrs import frozen

from aigateway.actors.interception.routes import MESSAGES

__all__ = ["ANTHROPIC", "GEMINI", "OPENAI", "ToolRules", "rules_for"]

_JSON_SCHEMA = frozenset(
    {
        "type", "title", "description", "default", "examples", "enum", "format", "pattern",
        "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
        "multipleOf", "items", "minItems", "maxItems", "uniqueItems", "properties", "required",
        "additionalProperties", "minProperties", "maxProperties", "anyOf",
    }
)  # fmt: skip
"""Keywords that are kept.  Others are folded into these or dropped: a model makes nothing of
them, and the tool's server checks the arguments itself."""


@frozen(kw_only=True)
class ToolRules:
    """What one API takes."""

    name: str
    """For logs."""
    keywords: frozenset[str]
    key: re.Pattern[str]
    """What a property's key must match, whole."""
    longest_description: int | None
    """Characters of a tool's description; None: no limit is known."""
    one_type: bool = False
    """``type`` is one name, null is ``nullable``, beside ``anyOf`` there is nothing, enums are
    texts that are not empty, an object has properties: Google's Schema object."""
    formats: frozenset[tuple[str, str]] | None = None
    """Pairs of type and format that are taken; None: any."""


ANTHROPIC = ToolRules(
    name="anthropic",
    keywords=_JSON_SCHEMA | {"prefixItems"},
    # "Property keys should match pattern '^[a-zA-Z0-9_.-]{1,64}$'"
    key=re.compile(r"[a-zA-Z0-9_.-]{1,64}"),
    longest_description=None,
)
"""Schemas must be valid JSON Schema 2020-12, and the root has no anyOf, oneOf or allOf."""

OPENAI = ToolRules(
    name="openai",
    # "array schema missing items": items are asked for, so tuples are told as those.
    keywords=_JSON_SCHEMA,
    # Many models of other makers answer to this API, Anthropic's too.
    key=ANTHROPIC.key,
    # "Expected a string with maximum length 1024"
    longest_description=1024,
)
"""Chat Completions and Responses, of any provider."""

_SCHEMA_OBJECT = frozenset(
    {
        "type", "format", "description", "enum", "items", "properties", "required", "minimum",
        "maximum", "anyOf",
    }
)  # fmt: skip
_FORMATS = frozenset(
    {
        ("string", "date-time"), ("integer", "int32"), ("integer", "int64"), ("number", "float"),
        ("number", "double"),
    }
)  # fmt: skip

GEMINI = ToolRules(
    name="gemini",
    # "Unknown name … Cannot find field" for what its Schema object lacks.  Bounds on lengths
    # are in it, but many of them in one request are refused.
    keywords=_SCHEMA_OBJECT,
    # Names are identifiers there: no digit, dot or dash in front.
    key=re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}"),
    longest_description=1024,
    one_type=True,
    # "only 'enum' and 'date-time' are supported for STRING type"
    formats=_FORMATS,
)
"""Google's models, of which OpenAI's API is one of the entrances."""


def rules_for(api: str, model: str) -> ToolRules:
    """The rules for requests to ``api`` for ``model``."""
    if api == MESSAGES:
        return ANTHROPIC
    return GEMINI if "gemini" in model.lower() else OPENAI
