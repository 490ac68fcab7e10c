"""One log entry as one line: for people, as JSON, as Google Cloud Logging's JSON.

Pure functions.  What a client or a provider sent may stand in a field, so nothing in a field
can end the line or reach a terminal as a control character.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
from attrs import field, frozen

__all__ = [
    "Entry",
    "Renderer",
    "format_exception",
    "human_line",
    "json_line",
    "stackdriver_line",
]


@frozen(kw_only=True)
class Entry:
    """What is logged: ``at`` in Unix seconds, ``level`` debug|info|warning|error|critical."""

    at: float
    level: str
    name: str
    message: str
    fields: Mapping[str, Any] = field(factory=dict)
    exception: str = ""
    """A traceback, on several lines."""
    attached: str = ""
    """Other lines that belong to it."""


Renderer: TypeAlias = Callable[[Entry], str]

_SHORT_LEVELS = {"warning": "warn", "critical": "crit"}
_BARE = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def human_line(entry: Entry) -> str:
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


def json_line(entry: Entry) -> str:
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


def stackdriver_line(entry: Entry) -> str:
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


def _fields(entry: Entry) -> dict[str, Any]:
    fields = dict(entry.fields)
    if entry.attached:
        fields["attached"] = entry.attached
    return fields


def format_exception(exc_info: Any) -> str:
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


def _human(value: Any) -> str:
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _one_line(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, bool | list | tuple | dict):
        return _one_line(_json(value))
    return _human(str(value))


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, RecursionError):
        # Keys that are no text, text that is no Unicode, rings.
        return json.dumps(_plain(value, 0), default=repr)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, dict) and depth < 4:
        return {_printable(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth < 4:
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, str):
        return _printable(value)
    return value if isinstance(value, bool | int | float | None) else _printable(repr(value))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
