"""Read a tool's schema as its server wrote it, whatever that is, into a few plain keywords.

Servers write any draft of JSON Schema, OpenAPI's dialect of it, and mistakes.  What comes out
of :func:`read_schema` is one form of all that: an object schema without references, whose
keywords hold what they should.

- References are replaced by what they name.  A schema that contains itself is unrolled a few
  times and then cut; so is one that would grow too large.
- ``allOf`` is merged into the schema it stands in; ``oneOf`` becomes ``anyOf``, ``const`` an
  ``enum``, tuples ``prefixItems``, patterns of keys ``additionalProperties``.
- At the root, where no provider takes them, the branches of ``anyOf`` become one object: all
  their properties, and of what they require that which all of them do.

A keyword that says something impossible is dropped: the server checks the arguments against
its own schema anyway.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from aigateway.actors.interception._schema_references import References
from aigateway.actors.interception.schema_merging import (
    Node,
    both,
    distinct,
    either,
    type_names,
)

__all__ = ["CUT_OFF", "UnusableSchema", "read_schema"]

CUT_OFF = "cut off"
"""Marks a node of which no more was read: it may hold any key of the others."""

ATTEMPTS = ((2, 20), (1, 10), (1, 5), (1, 3))
"""How often a schema may contain itself, and how deep schemas may lie in each other.  The next
pair is tried when the one before makes too much of it."""
NODES = 2000
"""Schemas in one tool's schema, after references were replaced."""

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_MEANT = {
    "str": "string", "text": "string", "char": "string", "date": "string", "datetime": "string",
    "date-time": "string", "time": "string", "uuid": "string", "uri": "string", "url": "string",
    "enum": "string", "file": "string", "binary": "string", "int": "integer", "int32": "integer",
    "int64": "integer", "long": "integer", "float": "number", "double": "number",
    "decimal": "number", "bool": "boolean", "dict": "object", "map": "object",
    "record": "object", "struct": "object", "list": "array", "tuple": "array", "set": "array",
    "none": "null", "nil": "null",
}  # fmt: skip
"""Names that are no types, and the types that are meant."""

_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
)  # fmt: skip
_OF_OBJECTS = ("properties", "required", "additionalProperties")
_LARGEST = 2**63 - 1

_PORTABLE = re.compile(r"(?:[^\\(]|\\[\\dDwWsSnrt/.^$*+?()\[\]{}|-]|\((?:\?:)?(?!\?))*")
"""Patterns that any engine takes.  "regex lookaround is not supported", OpenAI says, and other
engines differ in escapes."""


class UnusableSchema(ValueError):
    """No object schema can be made of this; the text says why."""


class _TooLarge(Exception):
    pass


def read_schema(document: object) -> Node:
    """Read an input schema; true and null stand for none.  Raises UnusableSchema."""
    if document is True or document is None:
        document = {}
    if not isinstance(document, dict):
        raise UnusableSchema("its input schema is not an object")
    references = References(document)
    for unroll, depth in ATTEMPTS:
        try:
            return _folded(_Reader(references, unroll, depth).read(document))
        except _TooLarge:
            continue
    raise UnusableSchema(f"its input schema is too large: more than {NODES} schemas in it")


class _Reader:
    def __init__(self, references: References, unroll: int, depth: int) -> None:
        self._references = references
        self._unroll = unroll
        self._deepest = depth
        self._left = NODES

    def read(self, schema: object, depth: int = 0, seen: tuple[str, ...] = ()) -> Node:
        """``seen``: the references that led here."""
        self._left -= 1
        if self._left < 0:
            raise _TooLarge
        if not isinstance(schema, dict):
            return {}
        if depth > self._deepest:
            return _stub(schema)
        node = self._own(schema, depth, seen)
        for part in self._parts(schema, depth, seen):
            node = both(node, part)
        node = self._with_branches(node, schema, depth, seen)
        for name in ("then", "else", "dependentSchemas", "dependencies"):
            self._add_optional(node, schema.get(name), depth, seen)
        if "type" not in node:
            _infer_type(node)
        _settle_enum(node)
        if schema.get("nullable") is True:
            _allow_null(node)
        return node

    def _parts(self, schema: Node, depth: int, seen: tuple[str, ...]) -> Iterable[Node]:
        """What has to hold as well."""
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = schema.get(name)
            if not isinstance(reference, str):
                continue
            target = self._references.find(reference)
            if target is schema:
                continue
            if seen.count(reference) >= self._unroll:
                yield _stub(target)
            else:
                yield self.read(target, depth + 1, (*seen, reference))
        every = schema.get("allOf")
        for part in every if isinstance(every, list) else ():
            yield self.read(part, depth + 1, seen)

    def _own(self, schema: Node, depth: int, seen: tuple[str, ...]) -> Node:
        node: Node = {}
        types = _types(schema.get("type"))
        if types:
            node["type"] = types[0] if len(types) == 1 else types
        for name in ("title", "description", "format"):
            if isinstance(schema.get(name), str) and schema[name]:
                node[name] = schema[name]
        _read_values(node, schema)
        _read_bounds(node, schema)
        self._read_object(node, schema, depth, seen)
        self._read_array(node, schema, depth, seen)
        return node

    def _read_object(self, node: Node, schema: Node, depth: int, seen: tuple[str, ...]) -> None:
        given, required = schema.get("properties"), schema.get("required")
        names = list(required) if isinstance(required, list) else []
        if isinstance(given, dict):
            properties = {}
            for key, inner in given.items():
                if inner is False:
                    continue
                properties[key] = self.read(inner, depth + 1, seen)
                if isinstance(inner, dict) and inner.get("required") is True:
                    # As drafts before 4 say it.
                    names.append(key)
            node["properties"] = properties
        names = list(dict.fromkeys(name for name in names if isinstance(name, str)))
        if names:
            node["required"] = names
        rest = schema.get("additionalProperties")
        patterns = schema.get("patternProperties")
        if isinstance(patterns, dict) and patterns and not isinstance(rest, dict):
            found = [self.read(inner, depth + 1, seen) for inner in patterns.values()]
            node["additionalProperties"] = either(found)
        elif isinstance(rest, bool):
            node["additionalProperties"] = rest
        elif isinstance(rest, dict):
            node["additionalProperties"] = self.read(rest, depth + 1, seen)

    def _read_array(self, node: Node, schema: Node, depth: int, seen: tuple[str, ...]) -> None:
        items, places = schema.get("items"), schema.get("prefixItems")
        if isinstance(items, list):
            # A tuple, as drafts before 2020-12 say it.
            places, items = items, schema.get("additionalItems")
        if isinstance(places, list) and places:
            node["prefixItems"] = [self.read(inner, depth + 1, seen) for inner in places]
        if isinstance(items, dict):
            node["items"] = self.read(items, depth + 1, seen)
        elif items is True:
            node["items"] = {}

    def _with_branches(self, node: Node, schema: Node, depth: int, seen: tuple[str, ...]) -> Node:
        for name in ("anyOf", "oneOf"):
            given = schema.get(name)
            if not isinstance(given, list) or "anyOf" in node:
                continue
            branches = [self.read(b, depth + 1, seen) for b in given if b is not False]
            branches = distinct(branches)
            if len(branches) == 1:
                node = both(node, branches[0])
            elif branches and {} not in branches:
                node["anyOf"] = branches
        return node

    def _add_optional(self, node: Node, given: object, depth: int, seen: tuple[str, ...]) -> None:
        """Show the properties that a condition brings."""
        if not isinstance(given, dict):
            return
        branches = [given] if "properties" in given or "$ref" in given else list(given.values())
        for branch in branches:
            if not isinstance(branch, dict):
                continue
            for key, inner in self.read(branch, depth + 1, seen).get("properties", {}).items():
                node.setdefault("properties", {}).setdefault(key, inner)


# -- single keywords


def _types(given: object) -> list[str]:
    names = given if isinstance(given, list) else [given]
    types = []
    for name in names:
        if isinstance(name, str):
            name = name.strip().lower()
            types.append(name if name in TYPES else _MEANT.get(name, ""))
    if "" in types:
        # Some other type is allowed as well, "any" perhaps: so nothing is said.
        return []
    return list(dict.fromkeys(types))


def _is_scalar(value: object) -> bool:
    if isinstance(value, str | bool) or value is None:
        return True
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= _LARGEST


def _read_values(node: Node, schema: Node) -> None:
    values = schema.get("enum")
    if "const" in schema:
        values = [schema["const"]]
    if isinstance(values, list) and values and all(map(_is_scalar, values)):
        node["enum"] = distinct(values)
    default = schema.get("default")
    flat = default if isinstance(default, list) else [default]
    if default is not None and all(map(_is_scalar, flat)):
        node["default"] = default
    examples = schema.get("examples")
    if isinstance(examples, list):
        shown = [value for value in examples if _is_scalar(value)]
        if shown:
            node["examples"] = shown


def _read_bounds(node: Node, schema: Node) -> None:
    for name in _NUMBERS:
        value = schema.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_scalar(value):
            continue
        if name != "multipleOf" or value > 0:
            node[name] = value
    for own, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive) is True and own in node:
            # As draft 4 says it.
            node[exclusive] = node.pop(own)
    for name in _COUNTS:
        value = schema.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_scalar(value):
            continue
        if value >= 0 and value == int(value):
            node[name] = int(value)
    if isinstance(schema.get("uniqueItems"), bool):
        node["uniqueItems"] = schema["uniqueItems"]
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and _is_portable(pattern):
        node["pattern"] = pattern


def _is_portable(pattern: str) -> bool:
    if len(pattern) > 500 or not pattern.isascii() or not _PORTABLE.fullmatch(pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _infer_type(node: Node) -> None:
    if any(name in node for name in _OF_OBJECTS):
        node["type"] = "object"
    elif "items" in node or "prefixItems" in node:
        node["type"] = "array"


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "integer" if isinstance(value, int) else "number"


def _settle_enum(node: Node) -> None:
    """Let the values of an enum be of the node's type: OpenAI refuses others."""
    values = node.get("enum")
    if values is None:
        return
    types = type_names(node)
    if types:
        fits = {*types, *(("integer",) if "number" in types else ())}
        fitting = [value for value in values if value is None or _type_of(value) in fits]
        if any(value is not None for value in fitting):
            values = node["enum"] = fitting
        else:
            types = []
    kinds = distinct([*types, *map(_type_of, values)])
    if "number" in kinds and "integer" in kinds:
        kinds.remove("integer")
    if not types or None in values:
        node["type"] = kinds[0] if len(kinds) == 1 else kinds


def _allow_null(node: Node) -> None:
    types = type_names(node)
    if types and "null" not in types:
        node["type"] = [*types, "null"]
        if "enum" in node and None not in node["enum"]:
            node["enum"] = [*node["enum"], None]
    elif "anyOf" in node:
        node["anyOf"] = distinct([*node["anyOf"], {"type": "null"}])


def _stub(schema: object) -> Node:
    """What is left of a schema that is not read any further."""
    types = _types(schema.get("type")) if isinstance(schema, dict) else []
    if not types and isinstance(schema, dict) and "properties" in schema:
        types = ["object"]
    node: Node = {CUT_OFF: True}
    if types:
        node["type"] = types[0] if len(types) == 1 else types
    return node


def _folded(root: Node) -> Node:
    """The root as one object.  Raises UnusableSchema."""
    types = type_names(root)
    if types and "object" not in types:
        raise UnusableSchema("the type of its input schema is not object")
    branches = [branch for branch in _flat(root) if _may_be_object(branch)]
    if "anyOf" in root and not branches and "properties" not in root:
        raise UnusableSchema("no branch of its input schema is an object")
    own = root.get("properties", {})
    found: dict[str, list[Node]] = {}
    for branch in branches:
        for key, inner in branch.get("properties", {}).items():
            found.setdefault(key, []).append(inner)
    properties = dict(own)
    for key, nodes in found.items():
        if not properties.get(key):
            properties[key] = either(nodes)
    required = list(root.get("required", ()))
    if branches:
        all_of_them = set.intersection(*(set(b.get("required", ())) for b in branches))
        first = branches[0].get("required", ())
        required += [name for name in first if name in all_of_them and name not in required]
    node: Node = {"type": "object", "properties": properties}
    if required:
        node["required"] = required
    rest = [part.get("additionalProperties") for part in branches or [root]]
    if all(each is False for each in rest):
        node["additionalProperties"] = False
    elif "additionalProperties" in root and not branches:
        node["additionalProperties"] = root["additionalProperties"]
    return node


def _flat(node: Node) -> Iterable[Node]:
    """The branches of a node, and theirs, each with what holds for all of them."""
    for branch in node.get("anyOf", ()):
        if "anyOf" not in branch:
            yield branch
            continue
        around = {name: value for name, value in branch.items() if name != "anyOf"}
        for inner in _flat(branch):
            yield both(around, inner)


def _may_be_object(node: Node) -> bool:
    types = type_names(node)
    return "enum" not in node and (not types or "object" in types)
