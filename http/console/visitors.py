"""Who is signed in, and what that one may see and change."""

from __future__ import annotations

import hashlib
from enum import Enum

import falcon
from attrs import field, frozen

from aigateway.actors.control.local.people import User

__all__ = ["Role", "Visitor", "visitor_of"]


class Role(Enum):
    """What somebody may."""

    OWN = "own"
    """See one's own sessions, requests and spend; make and revoke one's own keys."""
    VIEWER = "viewer"
    """See all, and change nothing."""
    ADMIN = "admin"


@frozen
class Visitor:
    """Who is signed in."""

    who: str
    """For the table of changes."""
    form_token: str = field(repr=False)
    """What a form of theirs has to bring along."""
    role: Role = Role.ADMIN
    user: User | None = None
    """The user of the gateway who that is; None: none, or nobody knows."""
    problem: str = ""
    """Why this one sees nothing all the same."""

    @classmethod
    def with_cookie(
        cls,
        who: str,
        cookie: str,
        role: Role = Role.ADMIN,
        user: User | None = None,
        problem: str = "",
    ) -> Visitor:
        # APPSEC: only the console knows what it is made from: no script can read the cookie.
        token = hashlib.sha256(b"form\n" + cookie.encode()).hexdigest()
        return cls(who, token, role, user, problem)

    @property
    def owner(self) -> str | None:
        """The id of the user whose records alone may be seen; None: all may."""
        if self.role is not Role.OWN:
            return None
        # APPSEC: nobody comes this far who sees their own and has none; "" is nobody's id.
        return self.user.id if self.user is not None else ""

    def sees(self, user_id: str) -> bool:
        """Whether the records and keys of this user may be seen."""
        return self.owner in (None, user_id)

    def is_user(self, user_id: str) -> bool:
        """Whether that is the visitor, as far as anybody knows."""
        return self.user is not None and self.user.id == user_id

    @property
    def sees_all(self) -> bool:
        return self.role is not Role.OWN

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN

    @property
    def makes_keys(self) -> bool:
        """Admins for anybody, others for themselves."""
        return self.role is not Role.VIEWER


def visitor_of(req: falcon.Request) -> Visitor:
    """The one that the guard let in."""
    visitor = req.context.visitor
    assert isinstance(visitor, Visitor)
    return visitor
