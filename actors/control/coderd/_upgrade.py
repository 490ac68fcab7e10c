"""An upgrade that coderd did not grant, told the way coderd's own clients tell it."""

from __future__ import annotations

import http.client
import io
import json
import re
from collections.abc import Callable
from typing import Any

from attrs import frozen

from aigateway.actors.control.coderd.versions import NEWEST, ApiVersion

__all__ = ["DialError", "UpgradeRefused", "Validation", "read_refusal"]

FATAL_STATUSES = frozenset({400, 401, 403, 404})
"""Answers that will not change by asking again (spec: connect loop)."""

_MAX_BODY = 16 * 1024
_MAX_DETAIL = 512


class DialError(Exception):
    """coderd could not be reached; trying again may help unless ``fatal`` is set."""

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


@frozen
class Validation:
    """One field that coderd finds wrong."""

    field: str
    detail: str


class UpgradeRefused(DialError):
    """coderd (or something before it) answered with another status than 101."""

    def __init__(
        self,
        url: str,
        status: int,
        message: str,
        detail: str = "",
        validations: tuple[Validation, ...] = (),
        location: str = "",
    ) -> None:
        lines = [f"GET {url}: unexpected status code {status}: {message}"]
        if detail:
            lines.append(f"\tError: {detail}")
        lines.extend(f"\t{item.field}: {item.detail}" for item in validations)
        super().__init__("\n".join(lines), fatal=status in FATAL_STATUSES)
        self.url = url
        self.status = status
        self.message = message
        self.detail = detail
        self.validations = validations
        self.location = location
        """Where a redirect points to."""

    def older_version(self) -> ApiVersion | None:
        """The version to ask for instead, if coderd refused ours for being newer."""
        if self.status != 400:
            return None
        for item in self.validations:
            if item.field == "server_api_version":
                version = ApiVersion.parse(item.detail)
                if version is not None and version.major == NEWEST.major and version < NEWEST:
                    return version
        return None


def read_refusal(
    url: str, status: int, head: bytes, read: Callable[[int], bytes]
) -> UpgradeRefused:
    """Make an error of an HTTP answer of which ``head`` was read already.

    ``read`` returns what follows, or ``b""`` at the end; it may raise OSError.
    """
    content_type, location, body = _read_answer(head, read)
    message, detail, validations = _read_body(content_type, body)
    if 300 <= status < 400:
        message, detail = f"redirected to {location or 'nowhere'}", ""
    return UpgradeRefused(url, status, message, detail, validations, location)


class _Replay(io.RawIOBase):
    def __init__(self, head: bytes, read: Callable[[int], bytes]) -> None:
        self._head = head
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        data = data or self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


def _read_answer(head: bytes, read: Callable[[int], bytes]) -> tuple[str, str, bytes]:
    response = http.client.HTTPResponse(_Replay(head, read))  # type: ignore[arg-type]
    body = b""
    try:
        response.begin()
        while len(body) < _MAX_BODY and (more := response.read1(_MAX_BODY - len(body))):
            body += more
    except (http.client.HTTPException, OSError, ValueError):
        # A body that breaks off is still worth showing.
        pass
    headers = response.headers or http.client.HTTPMessage()
    return headers.get("Content-Type", ""), headers.get("Location", ""), body


def _read_body(content_type: str, body: bytes) -> tuple[str, str, tuple[Validation, ...]]:
    text = _printable(body.decode(errors="replace"))
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return f'unexpected non-JSON response "{_printable(content_type)}"', text, ()
    message = _text(answer.get("message"))
    if not message:
        return "the response has no message", text, ()
    items = answer.get("validations")
    validations = tuple(
        Validation(_text(item.get("field")), _text(item.get("detail")))
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
    )
    return message, _text(answer.get("detail")), validations


def _text(value: object) -> str:
    return _printable(value) if isinstance(value, str) else ""


def _printable(text: str) -> str:
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", text).strip()
    return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}..."
