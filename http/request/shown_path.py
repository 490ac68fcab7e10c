"""A request's path as it may stand in a log: without the keys that clients put into it."""

from __future__ import annotations

import re
from urllib.parse import unquote

from aigateway.actors.codec.secret_names import holds, is_secret_name

__all__ = ["shown_path"]

MASK = "********"

_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|xai|gsk|pplx|key|hf|r8|gh[pousr])[-_]|AIza|AKIA|ASIA|eyJ)"
    r"[-_A-Za-z0-9.]{16,}"
    r"|(?<![A-Za-z0-9])[A-Za-z0-9]{10}-[A-Za-z0-9]{22}(?![A-Za-z0-9])"
)
"""Keys of known providers, and a Coder token."""
_OPAQUE = re.compile(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9+=~]{24,}")
"""Letters of both cases and digits without a word in front: an id would say what it is of."""


def shown_path(path: str, token: str = "") -> str:
    """``path`` with each segment masked that is ``token``, a key, or a value under a secret's
    name (``/key=…``)."""
    if len(path) < 16 and not token:
        return path
    return "/".join(_shown(segment, token) for segment in path.split("/"))


def _shown(segment: str, token: str) -> str:
    plain = unquote(segment) if "%" in segment else segment
    if holds(plain, token):
        return MASK
    name, equals, _ = plain.partition("=")
    if equals and is_secret_name(name.rpartition(";")[2]):
        return f"{name}={MASK}"
    if _KEY.search(plain) or _OPAQUE.fullmatch(plain):
        return MASK
    return segment
