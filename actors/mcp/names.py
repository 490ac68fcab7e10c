"""The names under which tools of many servers are offered to a model, sans-IO."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["ID_LIMIT", "tool_ids"]

ID_LIMIT = 64
"""Characters of a tool name that the providers' APIs take."""

_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
_HASH = 8
"""Hexadecimal digits of a suffix; more where even these collide."""


def tool_ids(tools: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return an id for each (server id, tool name), all different.

    ``bmcp_<server>_<tool>`` with unfit characters replaced.  An id that is too long, or that
    several tools would share, ends with a hash of its own server and tool instead: it
    depends neither on the order of the tools nor on the process.
    """
    pairs = sorted(set(tools))
    plain = {pair: _plain(pair) for pair in pairs}
    shared = Counter(plain.values())
    ids = {
        pair: name for pair, name in plain.items() if shared[name] == 1 and len(name) <= ID_LIMIT
    }
    taken = set(ids.values())
    for pair in pairs:
        if pair not in ids:
            ids[pair] = _hashed(plain[pair], pair, taken)
            taken.add(ids[pair])
    return ids


def _plain(pair: tuple[str, str]) -> str:
    server, tool = (_UNFIT.sub("_", part) for part in pair)
    return f"bmcp_{server}_{tool}"


def _hashed(name: str, pair: tuple[str, str], taken: set[str]) -> str:
    digest = hashlib.sha256("\0".join(pair).encode()).hexdigest()
    length = _HASH
    while True:
        candidate = f"{name[: ID_LIMIT - length - 1]}_{digest[:length]}"
        if candidate not in taken:
            return candidate
        length += 1
