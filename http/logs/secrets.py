"""Mask secrets in finished log lines: a net below the rule that no secret is logged.

Known secrets are registered once; beside them, texts with the shape of a key are masked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from aigateway.actors.codec.headers import is_secret_name

__all__ = ["MASK", "SHORTEST", "SecretMask"]

MASK = "********"

SHORTEST = 6
"""Characters; masking anything shorter would spoil ordinary words and save nobody."""

# PERF: nearly every line holds none of these, and looking for plain text is ten times faster
# than the expression: each has a text without which it cannot match.
_SHAPES = (
    ("earer ", re.compile(r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}")),
    ("asic ", re.compile(r"(?<=[Bb]asic )[A-Za-z0-9+/=]{8,}")),
    ("sk-", re.compile(r"\bsk-[A-Za-z0-9_-]{16,}")),
    ("AKIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
    ("AIza", re.compile(r"\bAIza[A-Za-z0-9_-]{30,}")),
    ("eyJ", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    ("xai-", re.compile(r"\bxai-[A-Za-z0-9_-]{16,}")),
    ("gsk_", re.compile(r"\bgsk_[A-Za-z0-9_-]{16,}")),
    ("gh", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}")),
    ("@", re.compile(r"(?<=://)[^/\s@:\"]+:[^/\s@\"]+(?=@)")),
)


_PARAMETER = re.compile(r"(?<=[?&;])([A-Za-z0-9_.%+-]{1,64})=[^&;\s\"'#\\]+")
"""One parameter of a query."""


def _masked_parameter(match: re.Match[str]) -> str:
    name = match[1]
    return f"{name}={MASK}" if is_secret_name(unquote_plus(name).strip()) else match[0]


class SecretMask:
    """Knows secrets and takes them out of text."""

    def __init__(self) -> None:
        self._known: tuple[str, ...] = ()

    def add(self, values: Iterable[str]) -> None:
        """Mask these from now on; what is shorter than :data:`SHORTEST` is left alone."""
        secrets = {value.strip() for value in values}
        secrets = {value for value in secrets if len(value) >= SHORTEST}
        # A secret may stand in a line as it is, or escaped as JSON does it.
        escaped = {
            json.dumps(value, ensure_ascii=ascii_only)[1:-1]
            for value in secrets
            for ascii_only in (False, True)
        }
        # The longest first: one secret may begin with another.
        self._known = tuple(sorted({*self._known, *secrets, *escaped}, key=len, reverse=True))

    def clear(self) -> None:
        self._known = ()

    def apply(self, text: str) -> str:
        """Return ``text`` without secrets."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, MASK)
        for sign, shape in _SHAPES:
            if sign in text:
                text = shape.sub(MASK, text)
        if "?" in text or "&" in text:
            text = _PARAMETER.sub(_masked_parameter, text)
        return text
