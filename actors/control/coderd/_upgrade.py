"""An upgrade that coderd did not grant, told the way coderd's own clients tell it."""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any

from attrs import frozen

from aigateway.actors.control.coderd.versions import NEWEST, ApiVersion
from aigateway.actors.upstream.errors import Quiet, UpstreamError
from aigateway.actors.upstream.exchange import Exchange, UpstreamConnection

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


def read_refusal(url: str, status: int, sock: Any) -> UpgradeRefused:
    """Make an error of the HTTP answer that can be read from ``sock`` from its first byte on.

    Reading from it may raise OSError.
    """
    exchange = Exchange(UpstreamConnection(sock), bodiless=False)
    body = b""
    with contextlib.suppress(UpstreamError, Quiet, OSError):
        # A body that breaks off is still worth showing.
        exchange.read_head(math.inf)
        while len(body) < _MAX_BODY and (more := exchange.read()):
            body += more
    headers = {name.lower(): value for name, value in reversed(exchange.headers)}
    location = headers.get("location", "")
    message, detail, validations = _read_body(headers.get("content-type", ""), body[:_MAX_BODY])
    if 300 <= status < 400:
        message, detail = f"redirected to {location or 'nowhere'}", ""
    return UpgradeRefused(url, status, message, detail, validations, location)


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
