"""gunicorn's request, with a short way through the headers that nearly all requests have.

PERF: gunicorn reads headers line by line with half a dozen checks for each: that takes twice as
long, 7 % of a request's CPU more (``python -m bench.own_parts``).  Here two passes of a regular
expression do it where nothing about the headers is special.  Everything else, every error among
it, is gunicorn's: what this module does not recognise it leaves alone.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gunicorn.http.body import ChunkedReader
from gunicorn.http.message import Request

__all__ = ["GatewayRequest", "plain_headers"]

_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = r"[^\x00-\x08\x0a-\x1f\x7f]*"
_FIELD = re.compile(rf"({_NAME}):({_VALUE})")
_FIELDS = re.compile(rf"{_NAME}:{_VALUE}(?:\r\n{_NAME}:{_VALUE})*+")
"""Whole lines, without the old way of folding one; the grammar is that of RFC 9110, 5.5."""
_SPECIAL: Final = frozenset(
    {"EXPECT", "X-FORWARDED-PROTO", "X-FORWARDED-PROTOCOL", "X-FORWARDED-SSL"}
)
"""Headers that gunicorn acts upon when it reads them."""
_LINE: Final = ("method", "uri", "path", "query", "fragment", "version")
"""What a request line says."""
_KEPT_LINE: Final = 200
_KEPT_LINES: Final = 256
"""Length and number of the request lines that are remembered, in this process."""
_SINGLE: Final = ("HOST", "CONTENT-TYPE")
"""Headers that may come once."""
_lines: dict[bytes, tuple[tuple[str, Any], ...]] = {}


class GatewayRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """A request that is read as gunicorn reads it, only quicker."""

    def parse_request_line(self, line_bytes: bytes) -> None:
        """Read method, target and version; a line that was read before is known."""
        known = _lines.get(line_bytes)
        if known is not None:
            for name, value in known:
                setattr(self, name, value)
            return
        super().parse_request_line(line_bytes)
        # A query may hold a secret, and is seldom the same twice.
        if len(line_bytes) <= _KEPT_LINE and b"?" not in line_bytes and len(_lines) < _KEPT_LINES:
            _lines[bytes(line_bytes)] = tuple((name, getattr(self, name)) for name in _LINE)

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:
        """The header lines in ``data`` as upper-case names and values, in order."""
        if not from_trailer and len(data) <= self.limit_request_field_size:
            headers = plain_headers(data)
            if (
                headers is not None
                and len(headers) <= self.limit_request_fields
                and self.cfg.header_map == "dangerous"
                and self._knows_schemes()
            ):
                return headers
        slowly: list[tuple[str, str]] = super().parse_headers(data, from_trailer)
        return slowly

    def set_body_reader(self) -> None:
        """Decide how the body is read: chunks are counted as soon as their size is known."""
        super().set_body_reader()
        if isinstance(self.body.reader, ChunkedReader):
            self.body.reader = CountedChunks(self, self.unreader)

    def _knows_schemes(self) -> bool:
        """Whether the headers that tell the scheme are those that are looked out for here."""
        return _SPECIAL.issuperset(self.cfg.secure_scheme_headers)


class CountedChunks(ChunkedReader):  # type: ignore[misc]  # gunicorn has no types
    """Chunks of which too large a one is refused by its size, not once its bytes are there."""

    def parse_chunk_size(self, unreader: Any, data: bytes | None = None) -> tuple[int, Any]:
        """The next chunk's size, and what has come of it.  Raises BodyTooLarge."""
        size, rest = super().parse_chunk_size(unreader, data)
        # Only the gateway's own unreader knows the limit, while it reads a body.
        if (pace := getattr(unreader, "pace", None)) is not None:
            pace.announce(size)
        return size, rest


def plain_headers(data: bytes) -> list[tuple[str, str]] | None:
    """Header lines without the last line's end, or None when anything about them is special."""
    text = data.decode("latin-1")
    if _FIELDS.fullmatch(text) is None:
        return None
    headers = [(name.upper(), value.strip(" \t")) for name, value in _FIELD.findall(text)]
    names = [name for name, _ in headers]
    if not _SPECIAL.isdisjoint(names) or any(names.count(name) > 1 for name in _SINGLE):
        return None
    return headers
