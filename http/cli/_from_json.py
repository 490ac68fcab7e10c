"""Values of attrs classes from the JSON that they were written as."""

from __future__ import annotations

import types
import typing
from typing import Any, TypeVar

import attrs

__all__ = ["from_json"]

T = TypeVar("T")


def from_json(cls: type[T], data: object) -> T:
    """What ``attrs.asdict`` made ``data`` of.  Fields that are not known here are left out: a
    newer gateway may tell more.  Raises TypeError and ValueError for what is none."""
    if not isinstance(data, dict):
        raise TypeError(f"a {cls.__name__} must be a JSON object")
    known: Any = attrs.resolve_types(cls)  # type: ignore[type-var]
    given = {
        field.name: _value(field.type, data[field.name])
        for field in attrs.fields(known)
        if field.init and field.name in data
    }
    return cls(**given)


def _value(kind: Any, data: Any) -> Any:
    if data is None:
        return None
    if attrs.has(kind):
        return from_json(kind, data)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (wanted,) = [part for part in parts if part is not type(None)][:1]
        return _value(wanted, data)
    if origin is tuple:
        if not isinstance(data, list):
            raise TypeError("a list is wanted")
        each = [parts[0]] * len(data) if parts[-1] is Ellipsis else parts
        return tuple(_value(part, item) for part, item in zip(each, data, strict=True))
    return data
