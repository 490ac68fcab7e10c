"""Where the embedded control plane's database is: the path of a file, or PostgreSQL's address."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

__all__ = [
    "LocalDatabaseAway",
    "LocalDatabaseError",
    "address_problem",
    "is_postgresql",
    "password_of",
    "shown",
]

_SCHEME = re.compile(r"postgres(?:ql)?:(?://)?", re.IGNORECASE)
_USABLE = re.compile(r"postgres(?:ql)?://")
_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[^\[\]:/@?#,]*)(?::\d*)?"
_AUTHORITY = re.compile(rf"(?:[^:/@?#]*(?::[^:/@?#]*)?@)?{_HOST}(?:,{_HOST})*")
_SECRET_PARAMETER = re.compile(r"(?<=[?&])([^=&]*(?:password|secret)[^=&]*)=[^&]*", re.IGNORECASE)
_MASK = "****"


class LocalDatabaseError(Exception):
    """The database given as ``--local-db`` cannot be used; the text says why and what to do."""


class LocalDatabaseAway(LocalDatabaseError):
    """It cannot be reached now; that may pass."""


def is_postgresql(address: str | os.PathLike[str]) -> bool:
    """Whether it is meant to be PostgreSQL's; a path never is."""
    return isinstance(address, str) and _SCHEME.match(address) is not None


def address_problem(address: str) -> str:
    """What is wrong with an address of PostgreSQL, in words that repeat nothing of it; or empty.

    libpq would read another host out of a password with an unescaped ``@`` or ``/``, look that
    up, and tell it in an error.
    """
    if not _USABLE.match(address):
        return "an address of PostgreSQL begins with postgresql://"
    if not address.isprintable() or " " in address:
        return "the address has spaces or control characters; write them as %20 and the like"
    authority, separators, rest = _parted(address)
    if not _AUTHORITY.fullmatch(authority) or "@" in rest.partition("?")[0] or "#" in rest:
        return (
            "it must be postgresql://user:password@host:port/database; characters such as"
            " @ : / ? # in a user or password are written as %40 %3A %2F %3F %23"
        )
    return "" if separators else "the database's name is missing behind the host: /name"


def password_of(address: str | os.PathLike[str]) -> str:
    """The password in an address of PostgreSQL; empty when there is none, or it is a path."""
    if not isinstance(address, str) or not is_postgresql(address):
        return ""
    try:
        parts = urlsplit(address)
        if parts.password:
            return unquote(parts.password)
    except ValueError:
        return ""
    found = re.search(r"[?&]password=([^&]*)", address)
    return unquote(found[1]) if found else ""


def shown(address: str | os.PathLike[str]) -> str:
    """The address as it may be shown: without the password."""
    if not is_postgresql(address):
        return os.fspath(address)
    text = os.fspath(address)
    # To the last "@": a password that was not escaped goes with it.
    text = re.sub(r"^([^:]*:(?://)?[^:/@]*):.*@", rf"\1:{_MASK}@", text)
    return _SECRET_PARAMETER.sub(rf"\1={_MASK}", text)


def _parted(address: str) -> tuple[str, str, str]:
    behind = address.partition("://")[2]
    match = re.match(r"([^/?#]*)([/?]?)(.*)", behind, re.DOTALL)
    assert match is not None
    return match[1], match[2], match[3]
