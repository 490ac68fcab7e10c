"""Reading JSON that others wrote: fast, one level at a time, and never raising.

Values stay bytes (:class:`msgspec.Raw`) until somebody wants them, so reading one member of a
document of many megabytes costs a scan of it and no objects.  What is missing, broken or of an
unexpected type reads as empty: records are made of what can be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Raw

__all__ = [
    "Buffer",
    "NotJson",
    "Object",
    "as_count",
    "as_number",
    "boolean",
    "count",
    "is_json",
    "is_null",
    "is_string",
    "items",
    "json_text",
    "members",
    "number",
    "read_once",
    "source",
    "text",
    "values",
]

Buffer: TypeAlias = bytes | bytearray | memoryview | Raw
Object: TypeAlias = dict[str, Raw]
_T = TypeVar("_T")

_object = msgspec.json.Decoder(dict[str, Raw])
_array = msgspec.json.Decoder(list[Raw])
_any = msgspec.json.Decoder(Raw)
_scalar = msgspec.json.Decoder(str | int | float | bool | None)
_string = msgspec.json.Decoder(str)
_values = msgspec.json.Decoder(dict[str, Any])
_any_value = msgspec.json.Decoder(Any)

_MAX_COUNT = 2**63 - 1
"""Records travel as signed 64 bit integers."""

_DEPTH = 3
"""How deep :func:`values` looks for what can be read around what cannot."""

_REPLACEMENT = rb"\ufffd"
_SURROGATE = re.compile(
    rb"\\(?<!\\\\)(\\*+)u[dD]([89abAB]|[c-fC-F])[0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
)
"""Half a character, perhaps behind escaped backslashes, perhaps with its other half.

PERF: a pattern that begins with a letter is searched 20 times as fast as one that looks back."""


class NotJson(ValueError):
    """This is not one whole JSON document."""


def read_once(
    document: bytes, decode: Callable[[bytes], _T], by_members: Callable[[bytes], _T]
) -> _T:
    """Read the fields of a document that are wanted, and check all of it, in one pass.

    ``decode`` is that of a decoder of msgspec for a type that names the fields.  Where one of
    them is something unexpected, ``by_members`` has to find what can be read.  Both may be called
    with a copy whose strings have been repaired.  Raises :class:`NotJson`.
    """
    try:
        return decode(document)
    except msgspec.ValidationError:
        pass
    except (ValueError, RecursionError):
        document = _repaired(document)
        try:
            return decode(document)
        except msgspec.ValidationError:
            pass
        except (ValueError, RecursionError) as ex:
            raise NotJson from ex
    if not is_json(document):
        raise NotJson
    return by_members(document)


def members(data: Buffer | None) -> Object:
    """Split an object into its members; of equal names the last one counts."""
    if data is None:
        return {}
    try:
        return _object.decode(data)
    except msgspec.ValidationError:
        return {}
    except (ValueError, RecursionError):
        pass
    try:
        return _object.decode(_repaired(data))
    except (ValueError, RecursionError):
        return {}


def items(data: Buffer | None) -> list[Raw]:
    """Split an array into its elements."""
    if data is None:
        return []
    try:
        return _array.decode(data)
    except msgspec.ValidationError:
        return []
    except (ValueError, RecursionError):
        pass
    try:
        return _array.decode(_repaired(data))
    except (ValueError, RecursionError):
        return []


def text(data: Buffer | None) -> str | None:
    """Read a string; ``None`` when it is something else.

    Unpaired surrogates and bytes that are no UTF-8 become U+FFFD.
    """
    if data is None:
        return None
    try:
        return _string.decode(data)
    except msgspec.ValidationError:
        return None
    except ValueError:
        pass
    try:
        return _string.decode(_repaired(data))
    except ValueError:
        return None


def count(data: Buffer | None) -> int:
    """Read a number of tokens: not negative, at most 2^63 - 1, 0 when it is not a number."""
    return as_count(_scalar_of(data))


def as_count(value: object) -> int:
    """The same of a value that has been read."""
    if value.__class__ is int and 0 <= value <= _MAX_COUNT:
        return value
    known = as_number(value)
    return 0 if known is None else min(max(int(known), 0), _MAX_COUNT)


def number(data: Buffer | None) -> int | float | None:
    """Read a number, an amount of money for example; ``None`` when it is none."""
    return as_number(_scalar_of(data))


def as_number(value: object) -> int | float | None:
    """The same of a value that has been read."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _scalar_of(data: Buffer | None) -> object:
    if data is None:
        return None
    try:
        return _scalar.decode(data)
    except ValueError:
        return None


def values(data: Buffer | None) -> dict[str, Any]:
    """Read a small object with all that is in it; values that cannot be read are ``None``."""
    if data is None:
        return {}
    try:
        return _values.decode(data)
    except (ValueError, RecursionError):
        pass
    # A number that is not a number anywhere, or half a character: the rest can be read.
    return {name: _value(each, _DEPTH) for name, each in members(data).items()}


def _value(data: Raw, depth: int) -> Any:
    try:
        return _any_value.decode(data)
    except (ValueError, RecursionError):
        pass
    if depth:
        if fields := members(data):
            return {name: _value(each, depth - 1) for name, each in fields.items()}
        if elements := items(data):
            return [_value(each, depth - 1) for each in elements]
    return text(data)


def boolean(data: Buffer | None, *, loose: bool = False) -> bool:
    """Read a boolean; anything but ``true`` is false.

    ``loose`` reads as OpenAI gateways written in Go do: "true", "t" and "1" in any case and
    numbers other than zero are true as well.
    """
    if data is None:
        return False
    try:
        value = _scalar.decode(data)
    except ValueError:
        return False
    if loose:
        if isinstance(value, str):
            return value.lower() in {"true", "t", "1"}
        return bool(value)
    return value is True


def is_json(data: Buffer) -> bool:
    """Whether this is one whole JSON document (of any type)."""
    try:
        _any.decode(data)
        return True
    except (ValueError, RecursionError):
        pass
    try:
        _any.decode(_repaired(data))
        return True
    except (ValueError, RecursionError):
        return False


def is_null(data: Buffer | None) -> bool:
    """Whether a value is missing or null."""
    return data is None or (memoryview(data).nbytes == 4 and bytes(data) == b"null")


def is_string(data: Buffer | None) -> bool:
    """Whether a value that is JSON is a string; one behind white space counts as none.

    PERF: to look costs a sixth of what finding out does by reading it as something else."""
    return data is not None and bytes(memoryview(data)[:1]) == b'"'


def source(data: Buffer | None) -> str:
    """Give the JSON text itself, as it was written; what is missing reads as null."""
    if data is None:
        return "null"
    return bytes(data).decode("utf-8", "replace").strip(" \t\r\n")


def json_text(value: str) -> str:
    """Write a string as JSON."""
    return msgspec.json.encode(value).decode()


def _repaired(data: Buffer) -> bytes:
    """Make a copy whose strings the decoder accepts.

    Unpaired surrogate escapes are JSON by its grammar, and clients in JavaScript send them
    when they cut a string in the middle of a character.
    """
    valid = bytes(data).decode("utf-8", "replace").encode()
    return _SURROGATE.sub(_pair_or_replacement, valid)


def _pair_or_replacement(match: re.Match[bytes]) -> bytes:
    more, half, low = match.groups()
    is_escape = len(more) % 2 == 0
    if is_escape and low and half in b"89abAB":
        return match[0]
    first = match[0].removesuffix(low or b"")
    if is_escape:
        first = more + _REPLACEMENT
    return first + (_REPLACEMENT if low else b"")
