"""Names of properties that a provider takes, and the way back from what a model wrote.

A server may call a property ``$top`` or ``filter[id]``; providers refuse such keys.  Each gets
a name that no other property of the tool has, and a :class:`WayBack` turns the arguments of a
call into what the server expects.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec
from attrs import frozen
from msgspec import Raw

from aigateway.actors.codec.reading import is_json, items, members, text

__all__ = ["NOTHING", "WayBack", "way_back_of_branches", "wanted_names"]

KEY_LIMIT = 64
"""Characters of a key; all APIs agree."""
NOTHING: Mapping[str, str] = MappingProxyType({})
_HASH = 8
_UNFIT = re.compile(r"[^a-zA-Z0-9_.-]+")


def wanted_names(keys: Collection[str], fits: re.Pattern[str]) -> dict[str, str]:
    """Return a name for each key that does not fit, unlike all keys and all other names.

    It depends on the keys alone, not on their order.
    """
    unfit = sorted({key for key in keys if not fits.fullmatch(key)})
    taken = {key for key in keys if fits.fullmatch(key)}
    plain = {key: _plain(key, fits) for key in unfit}
    shared = Counter(plain.values())
    names = {}
    for key, name in plain.items():
        if shared[name] == 1 and name not in taken and len(name) <= KEY_LIMIT:
            names[key] = name
    taken.update(names.values())
    for key in unfit:
        if key not in names:
            names[key] = _hashed(plain[key], key, taken)
            taken.add(names[key])
    return names


def _plain(key: str, fits: re.Pattern[str]) -> str:
    name = _UNFIT.sub("_", key).strip("_") or "key"
    return name if fits.fullmatch(name[:1]) else f"_{name}"


def _hashed(name: str, key: str, taken: Collection[str]) -> str:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    length = _HASH
    while True:
        candidate = f"{name[: max(KEY_LIMIT - length - 1, 1)]}_{digest[:length]}"
        if candidate not in taken:
            return candidate
        length += 1


@frozen
class WayBack:
    """How the arguments for a schema differ from what the tool's server expects."""

    keys: Mapping[str, tuple[str, WayBack | None]]
    """What the model's keys are called by the server, and the way back inside their values.
    Other keys stay."""
    elements: WayBack | None = None
    """Inside the elements of an array."""
    rest: WayBack | None = None
    """Inside the values of keys that the schema does not name."""
    everywhere: Mapping[str, str] = NOTHING
    """What keys are called at any depth below, where it is not known which ones come."""
    as_text: bool = False
    """An object that the model can only write as text."""

    def arguments(self, written: str) -> str:
        """The arguments as the server expects them; values keep their text.

        What is not a JSON object comes back as it is.
        """
        data = written.encode("utf-8", "surrogatepass").strip()
        if not data.startswith(b"{") or not is_json(data):
            return written
        return self._value(data).decode("utf-8", "surrogatepass")

    def _value(self, data: bytes) -> bytes:
        if self.as_text and data.startswith(b'"'):
            meant = (text(data) or "").strip().encode()
            if not meant.startswith(b"{") or not is_json(meant):
                return data
            data = meant
        below = self if self.everywhere else None
        if data.startswith(b"["):
            way = self.elements or below
            if way is None:
                return data
            return b"[" + b",".join(way._value(bytes(element)) for element in items(data)) + b"]"
        if not data.startswith(b"{"):
            return data
        changed = {}
        unnamed = self.rest or below
        for key, value in members(data).items():
            name, inside = self.keys.get(key, (self.everywhere.get(key, key), unnamed))
            changed[name] = value if inside is None else Raw(inside._value(bytes(value)))
        return msgspec.json.encode(changed)


def way_back_of_branches(ways: Collection[WayBack | None]) -> WayBack | None:
    """The way back from whichever branch the model chose."""
    known = [way for way in ways if way is not None]
    if len(known) < 2:
        return known[0] if known else None
    inner: dict[str, list[WayBack | None]] = {}
    names: dict[str, str] = {}
    for way in known:
        for key, (name, below) in way.keys.items():
            names[key] = name
            inner.setdefault(key, []).append(below)
    return WayBack(
        {key: (name, way_back_of_branches(inner[key])) for key, name in names.items()},
        way_back_of_branches([way.elements for way in known]),
        way_back_of_branches([way.rest for way in known]),
        next((way.everywhere for way in known if way.everywhere), NOTHING),
        any(way.as_text for way in known),
    )
