"""How the text of a setting becomes a value, one object per kind of value.

Flags and environment variables are always text; YAML may hold the value itself.  Every
failure is a :class:`ValueError` that says what the value must be, so that the caller only
has to put the name of the setting in front.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from aigateway.actors.control.coderd.extra_headers import BadHeader, headers_of
from aigateway.actors.control.local.address import address_problem, is_postgresql, shown
from aigateway.actors.upstream.endpoint import Proxy
from aigateway.actors.values.models import BadModelList, ModelList, parse_models
from aigateway.actors.values.sharing import BadGroup, read_group

__all__ = [
    "ADDRESS",
    "BOOL",
    "DATABASE",
    "DURATION",
    "GROUP",
    "HEADER",
    "HEADERS",
    "Kind",
    "MODELS",
    "NETWORKS",
    "ORIGINS",
    "PATH",
    "REGEXES",
    "SIZE",
    "STORAGE",
    "PROXY",
    "STRING",
    "TIMEOUT",
    "URL",
    "WORDS",
    "choice",
    "number",
    "optional_address",
    "split_address",
    "whole_number",
]


@frozen
class Kind:
    """A kind of value: how it is read from text or YAML, and how it is shown."""

    name: str
    metavar: str
    must_be: str
    """Completes "must be …" in an error."""
    from_text: Callable[[str], Any]
    from_yaml: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    is_list: bool = False
    may_hold_secret: bool = False
    empty: Any = None
    """What empty text means; None: it is as wrong as any other bad text."""
    alone: str = ""
    """What a flag without a value means; empty: it needs one."""

    def read(self, raw: Any) -> Any:
        """Convert ``raw``, text or a YAML value.  Raises ValueError with the reason."""
        if isinstance(raw, str):
            if not raw and self.empty is not None:
                return self.empty
            convert = self.from_text
        else:
            convert = self.from_yaml
        try:
            return convert(raw)
        except (ValueError, TypeError, OverflowError, AttributeError) as ex:
            detail = f" ({ex})" if type(ex) is _DetailError else ""
            raise ValueError(f"must be {self.must_be}{detail}") from None


class _DetailError(ValueError):
    """A reason worth showing beside the general one."""


# -- yes or no

_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off"})


def _bool_text(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _bool_yaml(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError


BOOL = Kind(
    "bool",
    "[true|false]",
    "true or false",
    _bool_text,
    _bool_yaml,
    lambda v: str(v).lower(),
    alone="true",
)


# -- numbers


def whole_number(least: int = 0) -> Kind:
    """A whole number of at least ``least``."""

    def checked(value: int) -> int:
        if value < least:
            raise ValueError
        return value

    def from_text(text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text):
            raise ValueError
        return checked(int(text))

    def from_yaml(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        return checked(value)

    return Kind("int", "N", f"a whole number of at least {least}", from_text, from_yaml)


def number(least: float = 0.0) -> Kind:
    """A number of at least ``least``, with or without a fraction."""

    def checked(value: float) -> float:
        if not math.isfinite(value) or value < least:
            raise ValueError
        return value

    def from_yaml(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        return checked(float(value))

    return Kind(
        "float", "N", f"a number of at least {least:g}", lambda t: checked(float(t)), from_yaml
    )


# -- durations: 10s, 5m, 1h30m, 1.5s, 250ms; seconds inside

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|µs|ns|h|m|s)")


def _duration_text(text: str) -> float:
    text = text.strip()
    if text == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise ValueError
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not text or not math.isfinite(total):
        raise ValueError
    return total


def _duration_yaml(value: object) -> float:
    if value == 0 and not isinstance(value, bool):
        return 0.0
    raise ValueError


def _duration_show(seconds: float) -> str:
    if seconds <= 0:
        return "0"
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "m"), (rest, "s")]
    return "".join(f"{amount:g}{unit}" for amount, unit in parts if amount)


def _more_than_zero(convert: Callable[[Any], float]) -> Callable[[Any], float]:
    def checked(value: object) -> float:
        seconds = convert(value)
        if seconds <= 0:
            raise ValueError
        return seconds

    return checked


DURATION = Kind(
    "duration",
    "DURATION",
    "a duration with its unit, such as 10s, 5m or 1h30m",
    _duration_text,
    _duration_yaml,
    _duration_show,
)


TIMEOUT = Kind(
    "duration",
    "DURATION",
    "a duration above zero with its unit, such as 10s, 5m or 1h30m",
    _more_than_zero(_duration_text),
    _more_than_zero(_duration_yaml),
    _duration_show,
)


# -- sizes: bytes inside

_SIZES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def _size_text(text: str) -> int:
    match = re.fullmatch(r"\s*([0-9]{1,18})\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].lower() not in _SIZES:
        raise ValueError
    return int(match[1]) * _SIZES[match[2].lower()]


def _size_yaml(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _size_show(size: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit.lower()] == 0:
            return f"{size // _SIZES[unit.lower()]}{unit}"
    return str(size)


SIZE = Kind(
    "size",
    "SIZE",
    "a size in bytes or with a unit, such as 32MiB",
    _size_text,
    _size_yaml,
    _size_show,
)


# -- text


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    if "\0" in value:
        raise _DetailError("it contains a NUL character")
    return value


STRING = Kind("str", "TEXT", "text", _text, _text, empty="")


def _path(value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return os.path.expanduser(_text(value))


PATH = Kind("path", "PATH", "a path", _path, _path, empty="")


def choice(*names: str) -> Kind:
    """One of ``names``."""

    def one_of(value: object) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return Kind("choice", "|".join(names), "one of " + ", ".join(names), one_of, one_of)


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _header(value: object) -> str:
    if not _TOKEN.fullmatch(_text(value)):
        raise ValueError
    return str(value)


HEADER = Kind("header", "NAME", "a header name (RFC 9110 token)", _header, _header, empty="")


# -- addresses


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[ipv6]:port``.  Raises ValueError; an empty host is allowed."""
    host, colon, port = address.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(address)
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host or "/" in host or host != host.strip():
        raise ValueError(address)
    return host, int(port)


def _address(value: object) -> str:
    split_address(_text(value))
    return str(value)


ADDRESS = Kind("address", "HOST:PORT", "host:port, such as 127.0.0.1:4001", _address, _address)


def optional_address(default: str) -> Kind:
    """Where to listen, or nowhere; ``default`` where somebody only says that it is wanted."""

    def from_text(text: str) -> str:
        with suppress(ValueError):
            return default if _bool_text(text) else ""
        return _address(text)

    def from_yaml(value: object) -> str:
        return (default if value else "") if isinstance(value, bool) else _address(value)

    return Kind(
        "optional address",
        "[HOST:PORT]",
        f"host:port, such as {default}, or true or false",
        from_text,
        from_yaml,
        empty="",
        alone="true",
    )


def _url(value: object) -> str:
    text = _text(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    _ = parts.port
    return text


def _show_url(text: str) -> str:
    """Hide the user and password that an address may hold."""
    return re.sub(r"(?<=://)[^/@]*@", "****@", text)


URL = Kind(
    "url", "URL", "an address that starts with http:// or https://", _url, _url, _show_url, empty=""
)


def _proxy(value: object) -> str:
    text = _text(value).strip()
    try:
        Proxy.of(text)
    except ValueError as ex:
        raise _DetailError(str(ex)) from None
    return text


PROXY = Kind("proxy", "URL", "the address of a proxy", _proxy, _proxy, _show_url, empty="")


def _database(value: object) -> str:
    if not isinstance(value, str) or not is_postgresql(value.strip()):
        return _path(value)
    address = value.strip()
    problem = address_problem(address)
    if problem:
        raise _DetailError(problem)
    return address


DATABASE = Kind(
    "database",
    "FILE|ADDRESS",
    "the path of a file or an address postgresql://user:password@host:port/database",
    _database,
    _database,
    shown,
    may_hold_secret=True,
    empty="",
)


_STORAGES = ("memory", "redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster")


def _storage(value: object) -> str:
    scheme, separator, _rest = _text(value).strip().partition("://")
    if not separator or scheme not in _STORAGES:
        raise ValueError
    return str(value).strip()


STORAGE = Kind(
    "storage",
    "ADDRESS",
    "memory:// or an address redis://host:port/db",
    _storage,
    _storage,
    _show_url,
    may_hold_secret=True,
)


# -- regular expressions


def _regex(value: object) -> str:
    try:
        re.compile(_text(value))
    except re.error as ex:
        raise _DetailError(f"{value!r}: {ex}") from None
    return str(value)


def _regexes_text(text: str) -> tuple[str, ...]:
    """Split at commas; an expression that holds a comma goes between double quotes."""
    return tuple(_regex(part) for row in csv.reader([text]) for part in row if part)


def _regexes_yaml(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_regex(part) for part in value if part)


REGEXES = Kind(
    "regex list",
    "REGEX,...",
    "a list of regular expressions",
    _regexes_text,
    _regexes_yaml,
    ",".join,
    is_list=True,
    empty=(),
)


def _networks(value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    words = _words(value)
    try:
        return tuple(ip_network(word) for word in words if word)
    except ValueError as ex:
        raise _DetailError(str(ex)) from None


NETWORKS = Kind(
    "network list",
    "NETWORK,...",
    "a list of addresses or networks, such as 10.0.0.0/8,2001:db8::/32",
    _networks,
    _networks,
    lambda networks: ",".join(map(str, networks)),
    is_list=True,
    empty=(),
)


def _origins(value: object) -> tuple[str, ...]:
    return tuple(_origin(word) for word in _words(value) if word)


def _origin(word: str) -> str:
    """An origin as browsers write it: scheme and host in lower case, no port that is the usual."""
    if word == "*":
        return word
    try:
        parts = urlsplit(word)
        port = parts.port
    except ValueError as ex:
        raise _DetailError(f"{word!r}: {ex}") from None
    if not (parts.scheme and parts.hostname) or parts.username or parts.path.strip("/"):
        raise _DetailError(f"{word!r} is not scheme://host or scheme://host:port")
    if parts.query or parts.fragment or "*" in parts.netloc:
        raise _DetailError(f"{word!r} has more than scheme, host and port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, usual) else "")


ORIGINS = Kind(
    "origin list",
    "ORIGIN,...",
    "a list of origins, such as https://chat.example.com,http://localhost:5173, or *",
    _origins,
    _origins,
    ",".join,
    is_list=True,
    empty=(),
)


# -- lists of models


def _models(value: object) -> ModelList | None:
    try:
        return parse_models(_text(value))
    except BadModelList as ex:
        raise _DetailError(str(ex)) from None


MODELS = Kind(
    "models",
    "NAME[=NAME],...",
    "names of models with commas between them, each perhaps with the provider's name for it "
    "behind a =",
    _models,
    _models,
)


def _group(value: object) -> tuple[tuple[str, int], ...]:
    try:
        return read_group(_text(value))
    except BadGroup as ex:
        raise _DetailError(str(ex)) from None


GROUP = Kind(
    "group",
    "NAME[:WEIGHT],...",
    "names of providers with commas between them, each perhaps with a weight behind a :",
    _group,
    _group,
)


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
