"""Which injected tools a provider's refusal is about.

A refusal of a tool's definition says where it stands in the request, or what it is called:

- Anthropic, and AWS in front of it: ``tools.3.custom.input_schema: …``
- OpenAI: ``Invalid schema for function 'NAME': …`` with ``"param": "tools[3].function.parameters"``
- Google: ``GenerateContentRequest.tools[0].function_declarations[3].parameters…``, where the
  first number is always 0
- others: a ``loc`` such as ``["body", "tools", 3, "function"]``
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator

import msgspec

from aigateway.actors.codec.reading import Object, items, members, text

__all__ = ["refused_tools"]

_DECLARATION = re.compile(r"\bfunction_?[dD]eclarations(?:\[|\.)(\d{1,5})\b")
_TOOL = re.compile(r"\btools(?:\[|\.)(\d{1,5})\b")
_SPEAKING = frozenset(
    {"message", "param", "detail", "details", "msg", "description", "field", "loc", "error",
     "errors", "fieldviolations", "metadata", "raw", "reason"}
)  # fmt: skip
"""Members of refusals that say what is wrong; what a client sent may be quoted in others."""
_DEEPEST = 8


def refused_tools(request: bytes, refusal: bytes, injected: Collection[str]) -> dict[str, str]:
    """Return those of the ``injected`` tools, by name, that a refusal of ``request`` is about,
    each with the text that says so.

    The client's own tools are never among them.  A refusal may quote what a client sent, so
    this is a suspicion: it is right if the request passes without the tool.
    """
    names = [_name_of(members(tool)) for tool in items(members(request).get("tools"))]
    found: dict[str, str] = {}
    for said in _texts(refusal):
        for name in _named(said, names, injected):
            found.setdefault(name, said)
    return found


def _named(said: str, names: list[str], injected: Collection[str]) -> Iterator[str]:
    places = [int(number) for number in _DECLARATION.findall(said)]
    if not places:
        places = [int(number) for number in _TOOL.findall(said)]
    for place in places:
        if place < len(names) and names[place] in injected:
            yield names[place]
    for name in injected:
        if name in said and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said):
            yield name


def _name_of(tool: Object) -> str:
    return text(tool.get("name")) or text(members(tool.get("function")).get("name")) or ""


def _texts(refusal: bytes) -> list[str]:
    """What a refusal says, in each of its members that say something."""
    try:
        decoded = msgspec.json.decode(refusal)
    except (ValueError, RecursionError):
        return []
    return list(_said(decoded, 0))


def _said(value: object, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        yield value
        if depth and value.startswith(("{", "[")):
            # Routers hand the provider's own refusal on as text.
            with contextlib.suppress(ValueError, RecursionError):
                yield from _said(msgspec.json.decode(value), depth + 1)
    elif isinstance(value, list):
        if all(isinstance(step, str | int) for step in value):
            yield ".".join(map(str, value))
        for inner in value:
            yield from _said(inner, depth + 1)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name.lower() in _SPEAKING:
                yield from _said(inner, depth + 1)
