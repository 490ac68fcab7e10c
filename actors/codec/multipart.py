"""The fields of a form with files (``multipart/form-data``, RFC 7578), and where they stand in it.

Values are found and replaced at byte offsets, so that all else stays as its client wrote it.

APPSEC: who decides by a field must find the one that a server finds.  So whatever servers read in
different ways is refused: lines that end with LF alone before a boundary, folded header lines,
a part with two names, and a form that is never closed.
"""

from __future__ import annotations

import re

from attrs import frozen

__all__ = ["NotMultipart", "Part", "boundary_of", "parts_of", "with_value"]

_LIMIT = 1000
"""Parts of one form."""
_HEAD_LIMIT = 16 * 1024
"""Bytes of the headers of one part."""
_BOUNDARY = re.compile(r';[ \t]*boundary=(?:"([^"\\]*)"|([^\s;,"]*))', re.IGNORECASE)
_LEGAL = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-]", re.ASCII)
"""RFC 2046, section 5.1.1."""
_BEHIND_BOUNDARY = re.compile(rb"--|[ \t]*\r\n")
_PARAMETER = re.compile(rb';[ \t]*([^=;" \t]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;"]*)', re.DOTALL)
_DISPOSITION = b"content-disposition"


class NotMultipart(ValueError):
    """The body is not a form, or one that two servers may read in two ways; the text says why."""


@frozen
class Part:
    """One field, and where in the body its value is."""

    name: str
    is_file: bool
    start: int
    end: int


def boundary_of(content_type: str) -> bytes:
    """What separates the parts, by the value of a Content-Type; empty where it is not a form.

    Raises :class:`NotMultipart` for a form without a usable boundary.
    """
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        return b""
    found = _BOUNDARY.findall(content_type)
    boundary: str = found[0][0] or found[0][1] if len(found) == 1 else ""
    if not _LEGAL.fullmatch(boundary):
        raise NotMultipart("its Content-Type has no usable boundary")
    return boundary.encode("ascii")


def parts_of(body: bytes, boundary: bytes) -> list[Part]:
    """All parts, in their order.  Raises :class:`NotMultipart`."""
    line = b"--" + boundary
    between = b"\r\n" + line
    if body.count(b"\n" + line) != body.count(between):
        raise NotMultipart("a boundary stands behind a line that does not end with CRLF")
    at = 0 if body.startswith(line) else _next(body, between, 0) + len(b"\r\n")
    parts: list[Part] = []
    while True:
        behind = _BEHIND_BOUNDARY.match(body, at + len(line))
        if behind is None:
            raise NotMultipart("it begins with no boundary")
        if behind[0] == b"--":
            return parts
        if len(parts) == _LIMIT:
            raise NotMultipart(f"it has more than {_LIMIT} parts")
        # A part may have no headers at all: then the blank line comes at once.
        head_at = behind.end()
        blank = body.find(b"\r\n\r\n", head_at - len(b"\r\n"), head_at + _HEAD_LIMIT)
        if blank < 0:
            raise NotMultipart("a part's headers do not end")
        start = blank + len(b"\r\n\r\n")
        # Of an empty value the line end before the boundary is the one behind the headers.
        end = _next(body, between, start - len(b"\r\n"))
        parts.append(_part(body[head_at : max(blank, head_at)], start, max(end, start)))
        at = end + len(b"\r\n")


def with_value(
    body: bytes, boundary: bytes, name: str, value: bytes, *, add: bool = False
) -> bytes:
    """The body with this value in each field of that name that is not a file.

    ``add``: where there is none it gets one.  Raises :class:`NotMultipart`.
    """
    pieces = []
    at = 0
    for part in parts_of(body, boundary):
        if part.name == name and not part.is_file:
            pieces += [body[at : part.start], value]
            at = part.end
    if add and not pieces:
        head = b'Content-Disposition: form-data; name="%s"' % name.encode()
        pieces.append(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, head, value))
        at = body.index(b"--" + boundary)
    return b"".join([*pieces, body[at:]])


def _next(body: bytes, between: bytes, start: int) -> int:
    """Where the next boundary is, or rather the line end before it."""
    at = start
    while (at := body.find(between, at)) >= 0:
        # A longer line that only begins like a boundary is none.
        if _BEHIND_BOUNDARY.match(body, at + len(between)):
            return at
        at += 1
    raise NotMultipart("it is not closed")


def _part(head: bytes, start: int, end: int) -> Part:
    names: list[bytes] = []
    is_file = False
    for line in head.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            raise NotMultipart("a part has a header of several lines")
        header, _, value = line.partition(b":")
        if header.strip().lower() != _DISPOSITION:
            continue
        for parameter, given in _PARAMETER.findall(value):
            if parameter.lower() in (b"name", b"name*"):
                names.append(given)
            is_file |= parameter.lower() in (b"filename", b"filename*")
    if len(names) != 1:
        raise NotMultipart("a part has no name, or several")
    name = names[0].strip()
    if name.startswith(b'"'):
        name = re.sub(rb"\\(.)", rb"\1", name[1:-1], flags=re.DOTALL)
    return Part(name.decode("utf-8", "replace"), is_file, start, end)
