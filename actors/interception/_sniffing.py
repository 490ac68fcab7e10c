"""What an answer's body is, by its first bytes: labels are not always right."""

from __future__ import annotations

__all__ = ["SNIFFED", "sniff"]

_STREAM_STARTS = (b"event:", b"data:", b"id:", b"retry:", b":")
SNIFFED = 1024
"""Bytes to look at.  If all of them are blank, the label is believed."""
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


def sniff(head: bytes, *, labelled: bool) -> bool | None:
    """Whether a body that begins with ``head`` is an event stream.

    ``labelled`` says that its content type is an event stream's: then fields that no standard
    knows may come first.  ``None`` when more bytes are needed to tell.
    """
    if len(head) < len(_BOM) and _BOM.startswith(head):
        return None
    start = head.removeprefix(_BOM).lstrip(_BLANK)
    if not start:
        return labelled if len(head) >= SNIFFED else None
    if labelled and not start.startswith((b"{", b"[")):
        if any(line.startswith(_STREAM_STARTS) for line in start.splitlines()):
            return True
        return None if len(head) < SNIFFED else False
    if any(name.startswith(start) and name != start for name in _STREAM_STARTS):
        return None
    return start.startswith(_STREAM_STARTS)
