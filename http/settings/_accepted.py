"""Kinds of options that are there for the Coder deployment's sake: its headers, its own options."""

from __future__ import annotations

import csv
from typing import Any

from aigateway.actors.control.coderd.extra_headers import BadHeader, headers_of
from aigateway.http.settings._kinds import Kind

__all__ = ["HEADERS", "WORDS"]


def _parts(text: str) -> tuple[str, ...]:
    """Split at commas; what holds a comma goes between double quotes."""
    return tuple(part for row in csv.reader([text]) for part in row if part)


def _headers(value: Any) -> tuple[str, ...]:
    lines = _parts(value) if isinstance(value, str) else tuple(value)
    try:
        headers_of(lines)
    except BadHeader as ex:
        raise ValueError(str(ex)) from None
    return lines


def _words(value: Any) -> tuple[str, ...]:
    words = _parts(value) if isinstance(value, str) else tuple(str(word) for word in value)
    return tuple(word.strip() for word in words)


HEADERS = Kind(
    "header list",
    "NAME=VALUE,...",
    "a list of headers name=value, none of which the gateway sets itself",
    _headers,
    _headers,
    ",".join,
    is_list=True,
    may_hold_secret=True,
    empty=(),
)

WORDS = Kind(
    "word list",
    "WORD,...",
    "a list of words",
    _words,
    _words,
    ",".join,
    is_list=True,
    empty=(),
)
