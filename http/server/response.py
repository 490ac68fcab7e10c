"""gunicorn's response object, where WSGI has no word for what an answer needs.

``start_response`` is a method of that object; under another server the functions here do
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["close_behind", "keep_own_headers"]


def close_behind(start_response: Any) -> None:
    """Close the connection behind this answer: WSGI servers own the Connection header."""
    response = getattr(start_response, "__self__", None)
    if hasattr(response, "force_close"):
        response.force_close()


def keep_own_headers(start_response: Any, headers: Sequence[tuple[str, str]]) -> None:
    """Send a relayed Server or Date instead of gunicorn's, not beside it."""
    response = getattr(start_response, "__self__", None)
    own = {name.lower() for name, _ in headers} & {"server", "date"}
    if not own or not hasattr(response, "default_headers"):
        return
    usual = response.default_headers
    response.default_headers = lambda: _without(usual(), own)


def _without(lines: Sequence[str], names: Collection[str]) -> list[str]:
    return [line for line in lines if line.split(":", 1)[0].lower() not in names]
