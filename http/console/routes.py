"""Each address of the console, and who may come there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from aigateway.http.console.visitors import Role

__all__ = ["ENTRANCE", "PAGES", "PEOPLE", "ROUTES", "WAY_OUT", "WRITES", "Route", "navigation"]

ADMINS: Final = frozenset({Role.ADMIN})
SEE_ALL: Final = frozenset({Role.VIEWER, Role.ADMIN})
OWNERS: Final = frozenset({Role.OWN, Role.ADMIN})
"""Who may change what is theirs; for admins all is."""
EVERYBODY: Final = frozenset(Role)


@frozen
class Route:
    """One address of the console, and who may come there."""

    suffix: str
    """Of the handlers' names."""
    reads: frozenset[Role]
    writes: frozenset[Role] = frozenset()

    def lets_in(self, role: Role, method: str) -> bool:
        return role in (self.reads if method in ("GET", "HEAD") else self.writes)


PAGES: Final = {
    "/": Route("home", EVERYBODY),
    "/now": Route("now", EVERYBODY),
    "/now/events": Route("events", EVERYBODY),
    "/spend": Route("spend", EVERYBODY),
    "/spend.csv": Route("csv", EVERYBODY),
    "/sessions": Route("sessions", EVERYBODY),
    "/sessions/one": Route("session", EVERYBODY),
    "/requests": Route("requests", EVERYBODY),
    "/requests/{id}": Route("request", EVERYBODY),
    "/requests/{id}/{kind}/{number:int}": Route("text", EVERYBODY),
    "/providers": Route("providers", SEE_ALL),
    "/actors": Route("actors", SEE_ALL),
    "/actors/trace": Route("trace", SEE_ALL),
}
WRITES: Final = {
    "/actors/restart": Route("restart", ADMINS, ADMINS),
    "/providers/test": Route("test", ADMINS, ADMINS),
    "/requests/{id}/raw": Route("raw", ADMINS, ADMINS),
    "/keys/{id}": Route("key", EVERYBODY, OWNERS),
    "/setup": Route("setup", EVERYBODY, OWNERS),
}
PEOPLE: Final = {
    "/people": Route("people", SEE_ALL),
    "/people/{id}": Route("person", SEE_ALL, ADMINS),
    "/policy": Route("policy", SEE_ALL, ADMINS),
    "/audit": Route("audit", SEE_ALL),
}
ROUTES: Final[Mapping[str, Route]] = {**PAGES, **WRITES, **PEOPLE}
"""All addresses behind the door.

APPSEC: who sees their own alone comes to those that let ``Role.OWN`` in, and each of these asks
:attr:`~.visitors.Visitor.owner` whose records it may tell of.
"""
ENTRANCE: Final = {
    "/sign-in": "in",
    "/sign-in/oidc": "oidc",
    "/sign-in/callback": "callback",
    "/sign-out": "out",
}
"""Where nobody needs to be signed in, but for the last."""
WAY_OUT: Final = "/sign-out"

_NAVIGATION: Final = {
    "/now": "Now",
    "/sessions": "Sessions",
    "/requests": "Requests",
    "/spend": "Spend",
    "/providers": "Providers",
    "/actors": "Actors",
    "/people": "People",
    "/policy": "Policy",
    "/audit": "Audit log",
    "/setup": "Set up a client",
}


def navigation(role: Role) -> list[tuple[str, str]]:
    """The addresses and names of what somebody can be led to."""
    return [
        (address, name)
        for address, name in _NAVIGATION.items()
        if ROUTES[address].lets_in(role, "GET")
    ]
