"""Headers in the order in which they came, and by name; and the names under which clients send
secrets, in headers, in queries, in cookies.

PERF: a request's headers are asked for a dozen names on its way, by clients that send twenty
of them.  They are gone through once.

There is no list of all names of secrets: each proxy, gateway and vendor has one of its own.  So
a name counts by its last word, with the few that end alike and hold no secret left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import unquote_plus

__all__ = [
    "HeaderList",
    "Headers",
    "first_of",
    "has_any",
    "holds",
    "is_secret_name",
    "joined",
    "masked_query",
    "same_name",
    "values_of",
    "without_secret_cookies",
    "without_secrets",
]


Headers: TypeAlias = Sequence[tuple[str, str]]
"""Names and values in the order in which they came."""

_NONE: Sequence[str] = ()


class HeaderList(tuple[tuple[str, str], ...]):
    """A sequence of names and values that remembers where each name is."""

    by_name: Mapping[str, Sequence[str]]
    """All values of each name, without surrounding white space, by name in lower case."""

    def __init__(self, _fields: Iterable[tuple[str, str]] = ()) -> None:
        found: dict[str, list[str]] = {}
        for name, value in self:
            key, value = name.lower(), value.strip()
            if (values := found.get(key)) is None:
                found[key] = [value]
            else:
                values.append(value)
        self.by_name = found


def values_of(headers: Headers, name: str) -> Sequence[str]:
    """All values of a header, in order, without surrounding white space."""
    wanted = name.lower()
    if isinstance(headers, HeaderList):
        return headers.by_name.get(wanted, _NONE)
    return [value.strip() for key, value in headers if key.lower() == wanted]


def first_of(headers: Headers, name: str) -> str:
    """The first value of a header that is not blank, or nothing."""
    for value in values_of(headers, name):
        if value:
            return value
    return ""


def joined(headers: Headers, name: str) -> str:
    """All values of a header as one, with commas between (RFC 9110, 5.3); empty without any."""
    return ",".join(values_of(headers, name))


def has_any(headers: Headers, names: frozenset[str]) -> bool:
    """Whether a header is there that has one of these names (in lower case)."""
    if isinstance(headers, HeaderList):
        return not names.isdisjoint(headers.by_name)
    return any(name.lower() in names for name, _value in headers)


_SECRET = re.compile(
    r"""(?:^|-)(?:
        authori[sz]ation|authentication|auth|bearer|credentials?|passw(?:or)?d|pwd
        |[a-z0-9]*(?:token|secret|apikey|jwt)|secret-?id|assertion|signature|sig|oidc-data
        |(?:access|auth|license|subscription|private|account|functions)key|key
        |[a-z0-9]*access-?key-?id
    )$
    |^(?:cf-access-|x-amz-(?:security|signature|credential))""",
    re.VERBOSE,
)
_NO_SECRET = re.compile(
    r"""(?:^|-)(?:
        idempotency-?key|cache-?key|sort-?key|routing-?key|partition-?key|affinity-?key
        |(?:next|prev|previous|last|start|end)-?key
        |(?:next-?)?page-?token|continuation-?token|sync-?token|next-?token|cursor-?token
    )$""",
    re.VERBOSE,
)
_CODER_COOKIE = re.compile(r"(?:__host-|__secure-)?coder[-_]", re.IGNORECASE)
"""Cookies of a Coder deployment, ``coder_session_token`` first of all.  Their names may have a
prefix that browsers know."""
_SESSION_COOKIE = re.compile(
    r"(?:.*[-_.])?(?:[a-z]*sess(?:ion)?(?:[-_]?id)?|sid|oauth2_proxy.*)", re.I
)
"""Cookies by which a browser is signed in somewhere."""


_LONG = 8
"""Characters of a token from which on no other text has it by chance."""


# PERF: the same names come with every request.
@lru_cache(maxsize=1024)
def same_name(name: str) -> str:
    """A header's name as the next server may read it: CGI and WSGI know no difference between
    ``Content-Length`` and ``CONTENT_LENGTH``."""
    return name.lower().replace("_", "-")


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether what stands under this name of a header, a query or a cookie is to be kept
    secret.  Case and the difference between ``-`` and ``_`` do not matter."""
    name = same_name(name)
    return _SECRET.search(name) is not None and _NO_SECRET.search(name) is None


def holds(text: str, token: str) -> bool:
    """Whether ``token`` stands in ``text``; one of a few letters only as a word of its own."""
    return bool(token) and (token in text if len(token) >= _LONG else token in text.split())


def without_secrets(query: str, token: str = "") -> str:
    """A query without its secrets, nor any parameter that holds ``token``; the rest as it came."""
    if not query:
        return query
    kept = [part for part in query.split("&") if not _is_secret_part(part, token)]
    return "&".join(kept)


def masked_query(query: str) -> str:
    """A query whose secrets are replaced by dots, to be shown to people."""
    return "&".join(
        f"{part.partition('=')[0]}=..." if _is_secret_part(part, "") else part
        for part in query.split("&")
    )


def without_secret_cookies(headers: Headers) -> list[tuple[str, str]]:
    """Headers whose cookies have lost those that are somebody's credential.

    A ``Cookie`` header of which nothing is left goes.
    """
    kept = []
    for name, value in headers:
        if name.lower() == "cookie":
            cookies = [part.strip() for part in value.split(";")]
            value = "; ".join(each for each in cookies if each and not _is_secret_cookie(each))
            if not value:
                continue
        kept.append((name, value))
    return kept


def _is_secret_part(part: str, token: str) -> bool:
    # Some servers take a semicolon for an ampersand.
    for pair in part.split(";"):
        if is_secret_name(unquote_plus(pair.partition("=")[0]).strip()):
            return True
        if holds(unquote_plus(pair), token) or holds(unquote_plus(pair.partition("=")[2]), token):
            return True
    return False


def _is_secret_cookie(cookie: str) -> bool:
    name = cookie.partition("=")[0].strip()
    return (
        _CODER_COOKIE.match(name) is not None
        or _SESSION_COOKIE.fullmatch(name) is not None
        or is_secret_name(name)
    )
