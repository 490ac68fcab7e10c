"""Looks at what others have said and were answered: each is a row of the table of changes.

What is recorded of a request beside its content (who, when, which model, tokens, cost) may be
looked at without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aigateway.actors.control.local.audit import Change

__all__ = ["look_at_many", "look_at_one"]

_NAMED = 20
"""Users that a row names; of more it has the number."""


def look_at_one(kind: str, what: str, user_id: str, username: str) -> Change:
    """At one thing of one user: ``kind`` is ``session``, for example, ``what`` is "session 7"."""
    return Change(f"look.{kind}", f"{what} of user {username}", after={"user_id": user_id})


def look_at_many(
    kind: str, what: str, whose: Iterable[tuple[str, str, str]], **told: Any
) -> Change | None:
    """At a list that has some content of each, as the beginnings of prompts.

    ``whose`` has for each its user's id and name, and that content; ``told`` is said besides.
    None: there is no content in it.
    """
    users = dict.fromkeys((user_id, name) for user_id, name, content in whose if content)
    if not users:
        return None
    names = sorted({name for _id, name in users})
    shown = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        shown += f" and {len(names) - _NAMED} more"
    after = {"user_ids": sorted({id for id, _name in users}), **told}
    return Change(f"look.{kind}", f"{what} of {shown}", after=after)
