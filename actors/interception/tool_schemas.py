"""Make a tool's definition one that a provider takes, and know the way back.

:mod:`.schema_reading` brings a server's schema into one plain form; here that form is written
as one API wants it (:mod:`.tool_rules`).  Keys that it refuses are renamed, and
:class:`~.tool_keys.WayBack` renames them in the calls.  The same definition always gives the
same bytes, because providers cache prompts by those.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import msgspec
from attrs import evolve, frozen

from aigateway.actors.interception.schema_merging import (
    Node,
    both,
    either,
    type_names,
)
from aigateway.actors.interception.schema_reading import (
    CUT_OFF,
    UnusableSchema,
    read_schema,
)
from aigateway.actors.interception.tool_keys import (
    NOTHING,
    WayBack,
    wanted_names,
    way_back_of_branches,
)
from aigateway.actors.interception.tool_rules import ToolRules

__all__ = ["CUT", "FittedTool", "UnusableSchema", "fit_tool"]

KEPT = 2048
"""Definitions whose schemas are kept as they were made."""
LARGEST = 128 * 1024
"""Bytes of one tool's schema: about what a model's context can spare for one."""
CUT = " […, cut]"
"""Ends a description that was too long."""
_SHOWN_KEY = 200
"""Characters of a server's key that a description repeats."""

_BY_TYPE = {
    "string": ("enum", "format", "pattern", "minLength", "maxLength"),
    "integer": ("enum", "format", "minimum", "maximum"),
    "number": ("enum", "format", "minimum", "maximum"),
    "boolean": (),
    "object": ("properties", "required"),
    "array": ("items",),
}
"""Which keywords go with which type, where each branch has one type."""
_SCALARS: list[Node] = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]
"""What "anything" becomes where a type is asked for and objects need properties."""

_INNER = frozenset(
    {"properties", "required", "additionalProperties", "items", "prefixItems", "anyOf"}
)
"""Keywords that are written again."""

Written: TypeAlias = tuple[Node, WayBack | None]


@frozen
class FittedTool:
    """A definition as one API takes it."""

    description: str
    schema: bytes
    way_back: WayBack | None
    """None: the model's arguments are what the server expects."""
    notes: tuple[str, ...] = ()
    """What the tool's server should know."""


def fit_tool(description: str, schema: bytes, rules: ToolRules) -> FittedTool:
    """Fit a tool's description and its input schema, a JSON object.  Raises UnusableSchema."""
    written, way_back, notes = _fit_schema(schema, rules)
    limit = rules.longest_description
    if limit is not None and len(description) > limit:
        notes = (*notes, f"its description was cut from {len(description)} to {limit} characters")
        description = description[: limit - len(CUT)] + CUT
    return FittedTool(description, written, way_back, notes)


@lru_cache(KEPT)
def _fit_schema(schema: bytes, rules: ToolRules) -> tuple[bytes, WayBack | None, tuple[str, ...]]:
    try:
        document = msgspec.json.decode(schema)
    except (ValueError, RecursionError) as ex:
        raise UnusableSchema(f"its input schema cannot be read: {ex}") from ex
    root = read_schema(document)
    names = wanted_names(_keys(root), rules.key)
    written, way_back = _Writer(rules, names).root(root)
    encoded = msgspec.json.encode(written)
    if len(encoded) > LARGEST:
        raise UnusableSchema(f"its input schema is over {LARGEST} bytes")
    notes: tuple[str, ...] = ()
    if names:
        shown = ", ".join(repr(key[:40]) for key in sorted(names)[:5])
        notes = (f"{len(names)} of its properties have names that are not taken: {shown}",)
    return encoded, way_back, notes


def _keys(node: object) -> set[str]:
    """All keys of properties, at any depth."""
    keys: set[str] = set()
    todo = [node]
    while todo:
        part = todo.pop()
        if not isinstance(part, dict):
            continue
        for key, inner in part.get("properties", {}).items():
            keys.add(key)
            todo.append(inner)
        todo += [part.get("items"), part.get("additionalProperties")]
        todo += part.get("prefixItems", ())
        todo += part.get("anyOf", ())
    return keys


class _Writer:
    def __init__(self, rules: ToolRules, names: dict[str, str]) -> None:
        self._rules = rules
        self._names = names
        self._back = {name: key for key, name in names.items()}

    def root(self, node: Node) -> Written:
        written, way_back = self._object(node)
        return {"type": "object", "properties": {}, **written}, way_back

    def write(self, node: Node) -> Written:
        if self._rules.one_type:
            return self._one_type(node)
        taken = self._rules.keywords
        out = {name: v for name, v in node.items() if name in taken and name not in _INNER}
        below, way_back = self._object(node)
        out.update(below)
        places = [self.write(place) for place in node.get("prefixItems", ())]
        shown = [place for place, _ in places]
        if shown and "prefixItems" in taken:
            out["prefixItems"] = shown
        elif shown:
            out["items"] = either([*shown, *([out["items"]] if "items" in out else ())])
        if "array" in type_names(node) and "items" not in out:
            out["items"] = {}
        branches = [self.write(branch) for branch in node.get("anyOf", ())]
        shown = _distinct([branch for branch, _ in branches])
        if len(shown) == 1:
            out = {**shown[0], **out}
        elif shown and {} not in shown:
            out["anyOf"] = shown
        ways = [way_back, *(way for _, way in branches)]
        ways += [WayBack({}, way) for _, way in places if way is not None]
        return out, way_back_of_branches(ways)

    def _object(self, node: Node) -> Written:
        """What a node says of keys, and of an array's elements."""
        out: Node = {}
        keys: dict[str, tuple[str, WayBack | None]] = {}
        items = rest = None
        if "properties" in node:
            properties = {}
            for key, inner in node["properties"].items():
                name = self._names.get(key, key)
                written, way = self.write(inner)
                if name != key:
                    written = self._named(written, key)
                properties[name] = written
                if name != key or way is not None:
                    keys[name] = (key, way)
            out["properties"] = properties
        required = [
            self._names.get(key, key)
            for key in node.get("required", ())
            if key in node.get("properties", {})
        ]
        if required:
            out["required"] = required
        if "additionalProperties" in node and "additionalProperties" in self._rules.keywords:
            out["additionalProperties"] = node["additionalProperties"]
            if isinstance(node["additionalProperties"], dict):
                out["additionalProperties"], rest = self.write(node["additionalProperties"])
        if "items" in node:
            out["items"], items = self.write(node["items"])
        everywhere = self._back if CUT_OFF in node else NOTHING
        if not keys and items is None and rest is None and not everywhere:
            return out, None
        return out, WayBack(keys, items, rest, everywhere)

    def _named(self, node: Node, key: str) -> Node:
        """The schema of a renamed property, which says what it is called."""
        if self._rules.one_type and "anyOf" in node:
            return {"anyOf": [self._named(branch, key) for branch in node["anyOf"]]}
        told = f"Stands for {msgspec.json.encode(key[:_SHOWN_KEY]).decode()}."
        return {**node, "description": f"{told} {node.get('description', '')}".strip()}

    # -- where a type is one name

    def _one_type(self, node: Node) -> Written:
        types = type_names(node)
        nullable = "null" in types
        branches = list(node.get("anyOf", ()))
        if {"type": "null"} in branches:
            nullable = True
            branches.remove({"type": "null"})
        types = [name for name in types if name != "null"]
        if branches:
            # Nothing stands beside branches, so each gets what held for all.
            around = {name: value for name, value in node.items() if name != "anyOf"}
            shown = [both(branch, around) for branch in branches]
        elif len(types) > 1:
            shown = [_of_type(node, name) for name in types]
        elif types:
            return self._typed(node, types[0], nullable)
        elif nullable:
            return self._typed(node, "string", nullable)
        else:
            shown = [_with_text(node, scalar) for scalar in _SCALARS]
        written = [self._one_type(each) for each in shown]
        flat: list[Node] = []
        for each, _ in written:
            flat += each.get("anyOf", [each])
        if nullable:
            flat = [{**each, "nullable": True} for each in flat]
        flat = _distinct(flat)
        way_back = way_back_of_branches([way for _, way in written])
        if way_back is not None and way_back.as_text and any(map(_is_text, shown)):
            # A text may be meant as one.
            way_back = evolve(way_back, as_text=False)
        return (flat[0] if len(flat) == 1 else {"anyOf": flat}), way_back

    def _typed(self, node: Node, kind: str, nullable: bool) -> Written:
        rules = self._rules
        out: Node = {"type": kind}
        if "description" in node:
            out["description"] = node["description"]
        below, way_back = self._object(node)
        if kind == "object" and not below.get("properties"):
            out = {"type": "string", **{n: v for n, v in out.items() if n != "type"}}
            told = "A JSON object, written as text."
            out["description"] = f"{out.get('description', '')} {told}".strip()
            everywhere = NOTHING if way_back is None else way_back.everywhere
            way_back = WayBack({}, everywhere=everywhere, as_text=True)
        elif kind == "object":
            out.update({n: below[n] for n in ("properties", "required") if n in below})
        elif kind == "array":
            out["items"], way_back = self._items(node, below, way_back)
        else:
            way_back = None
            for name in _BY_TYPE[kind]:
                if name in rules.keywords and name in node:
                    out[name] = node[name]
            if rules.formats is not None and (kind, out.get("format", "")) not in rules.formats:
                out.pop("format", None)
            _settle_texts(out)
        if nullable:
            out["nullable"] = True
        return out, way_back

    def _items(self, node: Node, below: Node, way_back: WayBack | None) -> Written:
        places = [self.write(place) for place in node.get("prefixItems", ())]
        shown = [place for place, _ in places]
        if below.get("items"):
            shown.append(below["items"])
        ways = [way_back, *(WayBack({}, way) for _, way in places if way is not None)]
        items = either(shown) if shown else {}
        if "anyOf" in items:
            items = {"anyOf": _distinct(items["anyOf"])}
        if not items:
            items, _ = self._one_type({})
        return items, way_back_of_branches(ways)


def _of_type(node: Node, kind: str) -> Node:
    """What a node says of values of one type."""
    kept = {"type", "description", "prefixItems" if kind == "array" else "", *_BY_TYPE[kind]}
    return {**{name: value for name, value in node.items() if name in kept}, "type": kind}


def _is_text(node: Node) -> bool:
    return type_names(node) == ["string"]


def _with_text(node: Node, branch: Node) -> Node:
    return {**branch, "description": node["description"]} if "description" in node else branch


def _settle_texts(out: Node) -> None:
    """Keep an enum only if it is one of texts, and tell of the others in words."""
    values = out.pop("enum", None)
    if values is None:
        return
    texts = [value for value in values if isinstance(value, str) and value]
    if out["type"] == "string":
        if texts:
            out["enum"] = texts
        return
    told = msgspec.json.encode([value for value in values if value is not None]).decode()
    out["description"] = f"{out.get('description', '')} One of {told}.".strip()


def _distinct(nodes: list[Node]) -> list[Node]:
    found: list[Node] = []
    for node in nodes:
        if node not in found:
            found.append(node)
    return found
