"""gunicorn's response object, where WSGI has no word for what an answer needs.

``start_response`` is a method of that object; under another server the functions here do
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["close_behind", "keep_own_headers"]

OWNED = frozenset({"server", "date"})
"""Headers that gunicorn writes itself and takes from no application."""


def close_behind(start_response: Any) -> None:
    """Close the connection behind this answer: WSGI servers own the Connection header."""
    response = getattr(start_response, "__self__", None)
    force_close = getattr(response, "force_close", None)
    if force_close is not None:
        force_close()


def keep_own_headers(start_response: Any, headers: Sequence[tuple[str, str]]) -> None:
    """Send a relayed Server or Date in the place of gunicorn's, which drops them otherwise."""
    response = getattr(start_response, "__self__", None)
    own = {name.lower(): (name, value) for name, value in headers if name.lower() in OWNED}
    usual = getattr(response, "default_headers", None)
    if own and usual is not None:
        setattr(response, "default_headers", lambda: [_line(line, own) for line in usual()])  # noqa: B010


def _line(line: str, own: Mapping[str, tuple[str, str]]) -> str:
    relayed = own.get(line.split(":", 1)[0].lower())
    return line if relayed is None else f"{relayed[0]}: {relayed[1]}\r\n"
