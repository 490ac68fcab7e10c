"""Where the references of a schema lead, inside the same document."""

from __future__ import annotations

from urllib.parse import unquote

__all__ = ["References"]

_WALKED = 100_000
"""Values of a document that are looked at for names."""


class References:
    """Finds what ``$ref`` and its kin name: pointers, anchors and ids of this document.

    What lies elsewhere is not fetched.
    """

    def __init__(self, document: object) -> None:
        self._document = document
        self._named: dict[str, object] | None = None

    def find(self, reference: str) -> object:
        """The schema that is meant; None when it is not here."""
        base, _, fragment = reference.partition("#")
        start = self._document if not base else self._by_name().get(base)
        if start is None and base and not fragment:
            # Some write the bare name of a definition.
            start = self._definition(base)
        if start is None or not fragment:
            return start
        if fragment.startswith("/"):
            return _pointed_to(start, fragment)
        return self._by_name().get(f"#{fragment}")

    def _definition(self, name: str) -> object:
        if not isinstance(self._document, dict):
            return None
        for place in ("$defs", "definitions"):
            known = self._document.get(place)
            if isinstance(known, dict) and name in known:
                return known[name]
        return None

    def _by_name(self) -> dict[str, object]:
        if self._named is None:
            self._named = _names(self._document)
        return self._named


def _names(document: object) -> dict[str, object]:
    """Schemas by their ids, and by "#" and their anchors; of equal ones the first counts."""
    found: dict[str, object] = {}
    todo, left = [document], _WALKED
    while todo and left:
        part = todo.pop()
        left -= 1
        if isinstance(part, list):
            todo += part
        if not isinstance(part, dict):
            continue
        for name in ("$id", "id"):
            if isinstance(part.get(name), str):
                found.setdefault(part[name].removesuffix("#"), part)
        for name in ("$anchor", "$dynamicAnchor"):
            if isinstance(part.get(name), str):
                found.setdefault(f"#{part[name]}", part)
        todo += part.values()
    return found


def _pointed_to(document: object, pointer: str) -> object:
    """Follow a JSON pointer (RFC 6901) in the form of a URI's fragment."""
    for step in pointer[1:].split("/"):
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            return None
    return document
