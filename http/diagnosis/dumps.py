"""What ``--ai-gateway-dump-dir`` has of one request (:mod:`~aigateway.http.request.dump`), to be
shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs
from attrs import frozen

from aigateway.actors.actor.aside import aside

__all__ = ["dumped"]

_LONGEST: Final = 100_000
"""Bytes of one file that are read: more is in the folder."""
_MOST: Final = 12
"""Files of one request."""
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,100}")
_KINDS: Final = {"req": "request", "resp": "answer", "req_error": "error"}


@frozen
class _File:
    attempt: int
    """From 1 on."""
    kind: str
    """request, answer or error."""
    provider: str
    size: int
    """In bytes, all of it."""
    text: str
    path: str


def dumped(folders: Iterable[str], interception_id: str) -> list[dict[str, Any]]:
    """The files of a request in these folders, as dictionaries for JSON, in the order in which they
    were begun.  None when there are none.  Raises OSError."""
    # APPSEC: it becomes a part of a pattern for paths.
    if _ID.fullmatch(interception_id) is None:
        return []
    wanted = sorted({folder for folder in folders if folder})
    # A folder with very many dumps takes a while to be read.
    found = aside(lambda: [each for folder in wanted for each in _read(folder, interception_id)])
    found.sort(key=lambda file: (file.attempt, list(_KINDS.values()).index(file.kind)))
    return [attrs.asdict(file) for file in found[:_MOST]]


def _read(folder: str, interception_id: str) -> list[_File]:
    name = re.compile(rf"\d+-{interception_id}(?:-(\d+))?\.(req|resp|req_error)\.txt")
    files = []
    # By provider and model; a further attempt may be another provider's.
    for path in Path(folder).glob(f"*/*/*-{interception_id}*.txt"):
        if (match := name.fullmatch(path.name)) is None:
            continue
        with path.open("rb") as file:
            data = file.read(_LONGEST)
        files.append(
            _File(
                attempt=int(match[1] or 1),
                kind=_KINDS[match[2]],
                provider=path.parent.parent.name,
                size=path.stat().st_size,
                text=data.decode("utf-8", "replace"),
                path=str(path),
            )
        )
    return files
