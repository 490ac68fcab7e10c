"""Several schemas as one, in the plain form of :mod:`.schema_reading`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias, TypeVar

__all__ = ["Node", "both", "distinct", "either", "type_names"]

T = TypeVar("T")
Node: TypeAlias = dict[str, Any]
"""A schema with plain keywords only; ``{}`` allows anything."""


def distinct(values: Iterable[T]) -> list[T]:
    """Without what is there twice; 1 is not true."""
    found: dict[str, T] = {}
    for value in values:
        found.setdefault(f"{type(value).__name__} {value!r}", value)
    return list(found.values())


def type_names(node: Node) -> list[str]:
    """The types of a node; none: any."""
    given = node.get("type")
    return list(given) if isinstance(given, list) else [given] if given else []


def both(one: Node, other: Node) -> Node:
    """What holds when both do; where they cannot be reconciled, ``one``."""
    node = {**other, **one}
    if "properties" in one and "properties" in other:
        merged = dict(one["properties"])
        for key, inner in other["properties"].items():
            merged[key] = both(merged[key], inner) if key in merged else inner
        node["properties"] = merged
    if "required" in one and "required" in other:
        node["required"] = distinct([*one["required"], *other["required"]])
    if "type" in one and "type" in other:
        common = [name for name in type_names(one) if name in type_names(other)]
        if common:
            node["type"] = common[0] if len(common) == 1 else common
    if "enum" in one and "enum" in other:
        common = [value for value in one["enum"] if value in other["enum"]]
        node["enum"] = common or one["enum"]
    for part, rest in ((one, other), (other, one)):
        named = rest.get("properties", {}).keys() - part.get("properties", {}).keys()
        if part.get("additionalProperties") is False and named:
            # A part forbids what the other one names.
            node.pop("additionalProperties", None)
    return node


def either(nodes: list[Node]) -> Node:
    """What holds when one of them does."""
    nodes = distinct(nodes)
    if len(nodes) == 1:
        return nodes[0]
    if not nodes or {} in nodes:
        return {}
    if all("enum" in node for node in nodes):
        # The property by which branches are told apart, mostly.
        values = distinct([value for node in nodes for value in node["enum"]])
        kinds = distinct([name for node in nodes for name in type_names(node)])
        merged = {**nodes[0], "enum": values, "type": kinds[0] if len(kinds) == 1 else kinds}
        merged.pop("default", None)
        return merged
    flat = [
        each for node in nodes for each in (node["anyOf"] if set(node) == {"anyOf"} else [node])
    ]
    return {"anyOf": distinct(flat)}
