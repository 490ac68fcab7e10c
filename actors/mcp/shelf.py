"""Sets of tools that may be given out without asking the actor that keeps them.

Requests come by the thousand, and the actor has other things to do, so what it would answer
without looking anything up lies here for all to read.  The actor alone writes.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

from attrs import frozen

from aigateway.actors.mcp.messages import ToolSet

__all__ = ["ToolShelf", "UserKey", "user_key"]

UserKey: TypeAlias = tuple[str, bytes]
"""A user, and a digest of the session token: it may be the token for one of the servers."""


def user_key(user_id: str, session_token: str) -> UserKey:
    """By what users are kept apart."""
    return user_id, hashlib.sha256(session_token.encode()).digest()


@frozen
class _Shelved:
    tool_set: ToolSet
    fresh_until: float


class ToolShelf:
    """The sets that are fresh, by user.  Times are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._sets: dict[UserKey, _Shelved] = {}

    def find(self, key: UserKey, now: float) -> ToolSet | None:
        """The user's set; None when the actor has to be asked."""
        shelved = self._sets.get(key)
        return shelved.tool_set if shelved is not None and now < shelved.fresh_until else None

    # -- for the actor

    def put(self, key: UserKey, tool_set: ToolSet, fresh_until: float) -> None:
        self._sets[key] = _Shelved(tool_set, fresh_until)

    def drop(self, key: UserKey) -> None:
        self._sets.pop(key, None)

    def clear(self) -> None:
        self._sets.clear()
