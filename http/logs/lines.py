"""One log entry as one line, without secrets: for people, as JSON, as Google Cloud Logging's JSON.

What a client or a provider sent may stand in a field, so nothing in a field can end the line or
reach a terminal as a control character.

:class:`SecretMask` is a net below the rule that no secret is logged: known secrets are registered
once; beside them, texts with the shape of a key are masked.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias
from urllib.parse import unquote_plus

import msgspec
from attrs import field

from aigateway.actors.codec.headers import is_secret_name
from aigateway.actors.values.frozen import frozen

__all__ = [
    "MASK",
    "SHORTEST",
    "LogEntry",
    "Renderer",
    "SecretMask",
    "format_exception",
    "human_line",
    "json_line",
    "stackdriver_line",
]


@frozen(kw_only=True)
class LogEntry:
    """What is logged: ``at`` in Unix seconds, ``level`` debug|info|warning|error|critical."""

    at: float
    level: str
    name: str
    message: str
    fields: Mapping[str, object] = field(factory=dict)
    exception: str = ""
    """A traceback, on several lines."""
    attached: str = ""
    """Other lines that belong to it."""


Renderer: TypeAlias = Callable[[LogEntry], str]

_SHORT_LEVELS = {"warning": "warn", "critical": "crit"}
_BARE = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def human_line(entry: LogEntry) -> str:
    """``2026-01-31 12:00:00.000 [info]  name: message  k=v  k=v``, times in UTC.

    The lines of a traceback, and what else is attached, follow indented.
    """
    level = _SHORT_LEVELS.get(entry.level, entry.level)
    parts = [f"{_moment(entry.at, ' ', 3)} [{level}]", f"{entry.name}: {_one_line(entry.message)}"]
    parts += [f"{_one_line(str(key))}={_human(value)}" for key, value in entry.fields.items()]
    line = "  ".join(parts)
    if entry.exception or entry.attached:
        below = (*entry.exception.splitlines(), *entry.attached.splitlines())
        indented = (f"    {_one_line(text)}".rstrip() for text in below)
        line = "\n".join([line, *indented])
    return line


def json_line(entry: LogEntry) -> str:
    """An object with ``ts``, ``level``, ``msg``, ``logger_names`` and ``fields``."""
    fields = _fields(entry)
    if entry.exception:
        fields["exception"] = entry.exception
    return _json(
        {
            "ts": _moment(entry.at, "T", 6) + "Z",
            "level": entry.level.upper(),
            "msg": entry.message,
            "logger_names": [entry.name],
            "fields": fields,
        }
    )


def stackdriver_line(entry: LogEntry) -> str:
    """An object with the special fields that Google's logging agent knows.

    https://cloud.google.com/logging/docs/structured-logging
    """
    line = {
        "severity": entry.level.upper(),
        "time": _moment(entry.at, "T", 6) + "Z",
        "message": entry.message,
        "logger": entry.name,
        "fields": _fields(entry),
    }
    if entry.exception:
        # Error Reporting groups by this field.
        line["stack_trace"] = entry.exception
    return _json(line)


def _fields(entry: LogEntry) -> dict[str, object]:
    fields = dict(entry.fields)
    if entry.attached:
        fields["attached"] = entry.attached
    return fields


def format_exception(exc_info: object) -> str:
    """The traceback of what ``exc_info`` may be: an exception, a triple, or nothing."""
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else None
    if error is None:
        return ""
    return "".join(traceback.format_exception(error)).rstrip("\n")


def _moment(at: float, separator: str, digits: int) -> str:
    whole = int(at)
    fraction = int((at - whole) * 10**digits)
    return f"{_second(whole, separator)}.{fraction:0{digits}d}"


# PERF: all lines of a second have it in common.
@lru_cache(maxsize=4)
def _second(whole: int, separator: str) -> str:
    return time.strftime(f"%Y-%m-%d{separator}%H:%M:%S", time.gmtime(whole))


def _one_line(text: str) -> str:
    # PERF: nearly everything is printable, and then there is nothing to look for.
    return text if text.isprintable() else _CONTROL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def _human(value: object) -> str:
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _one_line(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, bool | list | tuple | dict):
        return _one_line(_json(value))
    return _human(str(value))


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, RecursionError):
        # Keys that are no text, text that is no Unicode, rings.
        return json.dumps(_plain(value, 0), default=repr)


def _plain(value: object, depth: int) -> Any:
    if isinstance(value, dict) and depth < 4:
        return {_printable(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth < 4:
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, str):
        return _printable(value)
    return value if isinstance(value, bool | int | float | None) else _printable(repr(value))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


MASK = "********"

SHORTEST = 6
"""Characters; masking anything shorter would spoil ordinary words and save nobody."""

# PERF: nearly every line holds none of these, and looking for plain text is ten times faster
# than the expression: each has a text without which it cannot match.  Most lines have not even a
# letter of some, which is found out four times as fast again.
_SHAPES = (
    (
        " ",
        (
            ("earer ", re.compile(r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}")),
            ("asic ", re.compile(r"(?<=[Bb]asic )[A-Za-z0-9+/=]{8,}")),
        ),
    ),
    (
        "A",
        (
            ("AKIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
            ("AIza", re.compile(r"\bAIza[A-Za-z0-9_-]{30,}")),
        ),
    ),
    (
        "J",
        (("eyJ", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),),
    ),
    ("@", (("@", re.compile(r"(?<=://)[^/\s@:\"]+:[^/\s@\"]+(?=@)")),)),
    ("sk-", (("sk-", re.compile(r"\bsk-[A-Za-z0-9_-]{16,}")),)),
    ("xai-", (("xai-", re.compile(r"\bxai-[A-Za-z0-9_-]{16,}")),)),
    ("gsk_", (("gsk_", re.compile(r"\bgsk_[A-Za-z0-9_-]{16,}")),)),
    ("gh", (("gh", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}")),)),
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
        for letter, shapes in _SHAPES:
            if letter in text:
                for sign, shape in shapes:
                    if sign in text:
                        text = shape.sub(MASK, text)
        if "?" in text or "&" in text:
            text = _PARAMETER.sub(_masked_parameter, text)
        return text
