"""Which of a server's tools are offered to a model, and under which names, sans-IO."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["ID_LIMIT", "BadPattern", "ToolFilter", "tool_ids"]

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


_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7F",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_POSIX_CLASS = re.compile(r"\[:(\^?[a-z]+):\]")
_SET_START = re.compile(r"\[\^?\]?")
"""A "]" right at the start is a member of the set."""
_MULTILINE = re.compile(r"\(\?[a-zA-Z]*m")
_RESERVED = {"[": r"\[", "&": r"\&", "|": r"\|", "~": r"\~", "--": r"-\-"}


class BadPattern(ValueError):
    """An allow or deny pattern cannot be compiled."""


class ToolFilter:
    """Allow and deny patterns: found anywhere in the tool's own name; deny wins.

    The patterns are written for Go (RE2), by those who configure the deployment.  Where Python
    would understand something else they are translated or refused: a deny pattern that
    silently means something else lets tools through.
    """

    def __init__(self, allow: str = "", deny: str = "") -> None:
        """An empty pattern says nothing.  Raises BadPattern."""
        self._allow = _compile(allow, "allow") if allow else None
        self._deny = _compile(deny, "deny") if deny else None

    def lets_through(self, name: str) -> bool:
        """Whether the tool with this name, as its server calls it, may be used."""
        if self._deny is not None and self._deny.search(name):
            return False
        return self._allow is None or self._allow.search(name) is not None


def _compile(pattern: str, which: str) -> re.Pattern[str]:
    try:
        return re.compile(_translated(pattern), re.ASCII)
    except (re.error, OverflowError, RecursionError) as ex:
        raise BadPattern(f"compile tool regex ({which}) {pattern!r}: {ex}") from ex


def _translated(pattern: str) -> str:
    """Say in Python's syntax what RE2 understands."""
    out: list[str] = []
    at = 0
    # Without (?m), RE2's $ is the very end; Python's also matches before a last newline.
    end = "$" if _MULTILINE.search(pattern) else r"\Z"
    while at < len(pattern):
        opening = _SET_START.match(pattern, at)
        if opening is not None:
            inside, at = _translated_set(pattern, opening.end())
            out += [opening[0], inside]
            continue
        piece = pattern[at : at + 2] if pattern[at] == "\\" else pattern[at]
        out.append({"$": end, r"\z": r"\Z"}.get(piece, piece))
        at += len(piece)
    return "".join(out)


def _translated_set(pattern: str, at: int) -> tuple[str, int]:
    """Translate the inside of a set, and say where it ends."""
    out: list[str] = []
    while at < len(pattern) and pattern[at] != "]":
        posix = _POSIX_CLASS.match(pattern, at)
        if posix is not None:
            if posix[1] not in _POSIX_CLASSES:
                raise BadPattern(f"compile tool regex {pattern!r}: unknown class {posix[0]}")
            out.append(_POSIX_CLASSES[posix[1]])
            at = posix.end()
            continue
        two = pattern[at : at + 2]
        piece = two if two == "--" or two[0] == "\\" else two[0]
        # Python reserves [, &&, ||, ~~ and -- in sets.
        out.append(_RESERVED.get(piece, piece))
        at += len(piece)
    return "".join(out), at
