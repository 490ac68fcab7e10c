"""Requests and answers written to files, for debugging (``--ai-gateway-dump-dir``).

Each attempt at a request gets up to three files beside each other: ``….req.txt`` with what was
sent to the provider, ``….resp.txt`` with what came back, byte for byte, and
``….req_error.txt`` when something broke.  Further attempts, with another key, at another
provider, or for another round of tools, have a number behind the name (``…-2.req.txt``) and
lie in the folder of the provider that they were sent to.

Credentials in headers are masked.  **Bodies are not**: they hold what users and models said,
so folders and files are readable by the gateway's user alone.

Off by default, and then nothing of this is imported.  A dump that cannot be written is
logged, once, and disturbs nobody.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import msgspec
import structlog

from aigateway.actors.codec.headers import Headers, is_secret_name, masked_query
from aigateway.actors.interception.headers import GOVERNANCE_PREFIX, mask
from aigateway.actors.providers.recording import Recording
from aigateway.actors.providers.request import Opened
from aigateway.actors.upstream.errors import UpstreamCut
from aigateway.actors.upstream.exchange import AnswerCopy, Exchange
from aigateway.http.request.relay import OpenAnswer, Patience

__all__ = [
    "Dump",
    "DumpedAnswer",
    "DumpedRecording",
    "dump_of_interception",
    "dump_of_passthrough",
]

NAME_LIMIT = 120
"""Characters of a file or folder name that come from a client; file systems take 255."""

_MASKED = frozenset(
    {
        "cookie",
        "cookie2",
        "proxy-authenticate",
        "set-cookie",
        "set-cookie2",
        "www-authenticate",
    }
)

log = structlog.get_logger("ai-gateway.dump")


def dump_of_interception(folder: str, provider: str, model: str, interception_id: str) -> Dump:
    """The dump of an intercepted request: one folder per provider and model."""
    name = f"{_milliseconds()}-{interception_id}"
    return Dump(Path(folder) / _safe(provider) / _safe(model or "unknown") / name)


def dump_of_passthrough(folder: str, provider: str, url: str) -> Dump:
    """The dump of a request that is passed through."""
    path = _safe(urlsplit(url).path.lstrip("/"))
    name = f"{_milliseconds()}-{path}-{uuid.uuid4().hex[:4]}"
    return Dump(Path(folder) / _safe(provider) / "passthrough" / name)


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _safe(text: str) -> str:
    """A name that stays in its folder, whatever a client called its model."""
    return re.sub(r"[^A-Za-z0-9._:@+-]", "-", text)[:NAME_LIMIT].lstrip(".") or "-"


class Dump:
    """The files of one request, attempt by attempt; ``base`` is the path of the first one's
    without suffix: below a folder for the provider, and one for the kind or the model."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._number = 0
        self._attempt = _Attempt(base)

    def request(
        self, method: str, url: str, headers: Headers, body: bytes, *, provider: str = ""
    ) -> None:
        """Write what is sent upstream: a new attempt begins."""
        self._number += 1
        base = self._base
        if provider:
            base = base.parents[1].with_name(_safe(provider)) / base.parent.name / base.name
        if self._number > 1:
            base = base.with_name(f"{base.name}-{self._number}")
        self._attempt = _Attempt(base, failed=self._attempt.failed)
        self._attempt.request(method, url, headers, body)

    def answer(self, exchange: Exchange) -> AnswerCopy:
        """The head of its answer is there."""
        self._attempt.answer(exchange)
        return self._attempt

    def data(self, data: bytes) -> None:
        """Write what arrived of the newest attempt's body."""
        self._attempt.data(data)

    def error(self, text: str) -> None:
        """Write what broke in the newest attempt."""
        self._attempt.error(text)

    def answer_of(self, opened: Opened, patience: Patience) -> OpenAnswer:
        """A passed-through answer, of which what breaks is written here."""
        return DumpedAnswer(self, opened, patience)

    def close(self) -> None:
        """Nothing more comes."""
        self._attempt.close()


class _Attempt:
    """The files of one attempt."""

    def __init__(self, base: Path, *, failed: bool = False) -> None:
        self._base = base
        self.failed = failed
        """It cannot be written, which was said."""
        self._head = b""
        self._answer: BinaryIO | None = None

    def request(self, method: str, url: str, headers: Headers, body: bytes) -> None:
        """Write what is sent upstream."""
        pretty = _pretty(body)
        parts = urlsplit(url)
        target = parts.path or "/"
        if parts.query:
            target += "?" + masked_query(parts.query)
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        if body or method in ("POST", "PUT", "PATCH"):
            kept.append(("Content-Length", str(len(pretty))))
        head = _head(f"{method} {target} HTTP/1.1", kept)
        self._guarded(lambda: self._write(".req.txt", head + pretty + b"\n"))

    def error(self, text: str) -> None:
        """Write what broke."""
        line = f"{text}\n".encode("utf-8", "backslashreplace")
        self._guarded(lambda: self._write(".req_error.txt", line))

    def answer(self, exchange: Exchange) -> None:
        """The head of the answer is there; its file is made with the first byte."""
        reason = f" {exchange.reason}" if exchange.reason else ""
        self._head = _head(f"HTTP/1.1 {exchange.status}{reason}", exchange.headers)

    def data(self, data: bytes) -> None:
        """Write what arrived of the body."""
        if data:
            self._guarded(lambda: self._append(data))

    def close(self) -> None:
        """Nothing more comes."""
        if self._head:
            self._guarded(lambda: self._append(b""))
        file, self._answer = self._answer, None
        if file is not None:
            self._guarded(file.close)

    def _append(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._answer = self._open(".resp.txt")
            self._answer.write(head)
        if self._answer is not None and data:
            self._answer.write(data)

    def _write(self, suffix: str, data: bytes) -> None:
        with self._open(suffix) as file:
            file.write(data)

    def _open(self, suffix: str) -> BinaryIO:
        _make(self._base.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(f"{self._base}{suffix}", flags, 0o600)
        # Unbuffered: a reader that follows the file sees each event when it comes.
        return open(descriptor, "wb", buffering=0)

    def _guarded(self, write: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            write()
        except OSError as ex:
            self.failed = True
            log.warning(
                "cannot write the dump of a request; check --ai-gateway-dump-dir",
                path=str(self._base),
                error=ex.strerror or str(ex),
            )


def _make(folder: Path) -> None:
    """Make a folder and those above it that are missing, for nobody else to look into."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _head(first: str, headers: Iterable[tuple[str, str]]) -> bytes:
    ordered = sorted(headers, key=lambda header: header[0].lower())
    lines = [first, *(f"{name}: {_shown(name, value)}" for name, value in ordered), "", ""]
    return "\r\n".join(lines).encode("utf-8", "backslashreplace")


def _shown(name: str, value: str) -> str:
    lower = name.lower()
    secret = lower in _MASKED or lower.startswith(GOVERNANCE_PREFIX) or is_secret_name(lower)
    return mask(value) if secret else value


def _pretty(body: bytes) -> bytes:
    """JSON with line breaks and its own order of members; anything else as it is."""
    try:
        return msgspec.json.format(body, indent=2)
    except (ValueError, RecursionError):
        return body


class DumpedRecording(Recording):
    """A recording whose end is written to a dump; the answer's exchange shows the rest."""

    def __init__(self, dump: Dump, *rest: Any) -> None:
        super().__init__(*rest)
        self._dump = dump

    def cut(self, reason: str, error_type: str) -> bytes:
        self._dump.error(reason)
        return super().cut(reason, error_type)

    def close(self) -> None:
        self._dump.close()
        super().close()


class DumpedAnswer(OpenAnswer):
    """A passed-through answer whose end is written to a dump; its exchange shows the rest."""

    def __init__(self, dump: Dump, *rest: Any) -> None:
        super().__init__(*rest)
        self._dump = dump

    def read(self) -> bytes | None:
        try:
            return super().read()
        except UpstreamCut as ex:
            self._dump.error(str(ex))
            raise

    def give_back(self) -> None:
        self._dump.close()
        super().give_back()
