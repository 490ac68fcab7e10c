"""The way in and out: who is let in by which cookie, the link, the OpenID provider, sign-out."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import falcon
import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from aigateway.actors.control.local.console_sessions import (
    ConsoleSession,
    begin_session,
    end_session,
    find_session,
)
from aigateway.actors.control.local.people import NoSuch, User, user_called
from aigateway.actors.control.local.schema import Database
from aigateway.http.console.door import SESSION_SECONDS, Door
from aigateway.http.console.reach import Reach, is_local_name
from aigateway.http.console.records import Away, Records
from aigateway.http.console.routes import ENTRANCE, ROUTES, WAY_OUT
from aigateway.http.console.templating import Templates
from aigateway.http.console.visitors import Role, Visitor

if TYPE_CHECKING:
    from aigateway.http.console.oidc import Journey, Oidc

__all__ = ["Cookies", "Entrance", "Guard"]

_STORED: Final = "oidc-"
"""What the cookies of sessions in the database begin with; those of the link never do."""
_JOURNEY_SECONDS: Final = 600
"""For how long somebody may be at the provider."""
ATTEMPTS: Final = 60
"""Tries to sign in that one address has in a minute; a sign-in by OIDC is two."""

_HEADERS: Final[Mapping[str, str]] = {
    # APPSEC: nothing from elsewhere, nothing inline, no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)
_STRICT_TRANSPORT: Final = "max-age=31536000"

log = structlog.get_logger("ai-gateway.console")


@attrs.frozen
class Cookies:
    """Who comes with which cookie."""

    door: Door
    reach: Reach
    records: Records
    oidc: Oidc | None

    def name(self, req: falcon.Request, what: str = "console") -> str:
        """Browsers give a host's cookies to all its ports: two consoles must not sign each other
        out."""
        # APPSEC: no other host of the domain, and nothing without TLS, can set one of that name.
        prefix = "__Host-" if self.reach.is_secure(req) else ""
        return f"{prefix}aigateway-{what}-{req.port}"

    def put(
        self, req: falcon.Request, resp: falcon.Response, value: str, what: str = "console"
    ) -> None:
        """``what`` is "console", or "sign-in" for what a browser takes to the provider and back.

        The way back begins at another site, so that one is ``Lax``.
        """
        resp.set_cookie(
            self.name(req, what),
            value,
            max_age=SESSION_SECONDS if what == "console" else _JOURNEY_SECONDS,
            path="/",
            http_only=True,
            same_site="Strict" if what == "console" else "Lax",
            secure=self.reach.is_secure(req),
        )

    def take(self, req: falcon.Request, resp: falcon.Response, what: str = "console") -> None:
        resp.set_cookie(
            self.name(req, what), "", expires=_LONG_AGO, path="/", http_only=True,
            same_site="Strict" if what == "console" else "Lax", secure=self.reach.is_secure(req),
        )  # fmt: skip

    def of(self, req: falcon.Request, what: str = "console") -> list[str]:
        return req.get_cookie_values(self.name(req, what)) or []

    def visitor(self, req: falcon.Request) -> tuple[str, Visitor] | None:
        """Whoever a request comes from, with the cookie that says so.  Raises Away."""
        for cookie in self.of(req):
            found = self.knows(cookie)
            if found is not None:
                return cookie, found
        return None

    def knows(self, cookie: str) -> Visitor | None:
        """Whose cookie this is; None: nobody's.  Raises Away."""
        if not cookie.startswith(_STORED):
            known = self.door.knows(cookie)
            return Visitor.with_cookie(self.door.who, cookie) if known else None
        if self.oidc is None:
            return None
        with self.records.reading() as database:
            session = self._session(database, cookie)
            return None if session is None else self._visitor(database, cookie, session)

    def leave(self, cookie: str) -> ConsoleSession | None:
        """The cookie is worth nothing from now on; the session in the database that it was of."""
        if not cookie.startswith(_STORED):
            self.door.leave(cookie)
            return None
        with self.records.writing() as database:
            session = self._session(database, cookie)
            end_session(database, cookie.removeprefix(_STORED))
        return session

    def begin(self, session: ConsoleSession) -> str:
        """A cookie for somebody whom the provider has named.  Raises Away."""
        assert self.oidc is not None
        with self.records.writing() as database:
            user, _problem = _user(database, session)
            secret = begin_session(
                database, session,
                who=_who(session, user), role=self.oidc.settings.role_of(session.groups).value,
                seconds=SESSION_SECONDS, now=time.time(),
            )  # fmt: skip
        return f"{_STORED}{secret}"

    def _session(self, database: Database, cookie: str) -> ConsoleSession | None:
        if self.oidc is None:
            return None
        secret, issuer = cookie.removeprefix(_STORED), self.oidc.settings.issuer
        return find_session(database, secret, issuer=issuer, now=time.time())

    def _visitor(self, database: Database, cookie: str, session: ConsoleSession) -> Visitor:
        assert self.oidc is not None
        settings = self.oidc.settings
        role = settings.role_of(session.groups)
        user, problem = _user(database, session)
        if role is Role.OWN and user is None and not problem:
            problem = (
                f'{settings.name} calls you "{session.name}" (claim {settings.user_claim}), and the'
                " gateway has no user of that name. An admin makes one with `aigateway users"
                " create`, or with the first key for it."
            )
        return Visitor.with_cookie(_who(session, user), cookie, role, user, problem)


def _user(database: Database, session: ConsoleSession) -> tuple[User | None, str]:
    """The user of the gateway who has signed in, and why that is nobody who may come in."""
    try:
        user = user_called(database, session.name)
    except NoSuch as ex:
        return None, f"{ex.args[0]}, and nobody knows which of them you are."
    if user is not None and user.disabled_at is not None:
        return user, f'The user "{user.name}" of the gateway is disabled.'
    return user, ""


def _who(session: ConsoleSession, user: User | None) -> str:
    """For the table of changes."""
    return f"console: {session.name if user is None else user.name}"


class Guard:
    """Lets in who is signed in, where that one may go, and answers only those who mean this
    console."""

    def __init__(self, cookies: Cookies, templates: Templates) -> None:
        self._cookies = cookies
        self._reach = cookies.reach
        self._templates = templates

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        for name, value in _HEADERS.items():
            resp.set_header(name, value)
        if not self._reach.is_meant(req):
            names = "localhost and to loopback addresses"
            also = f", and to {self._reach.host}" if self._reach.host else ""
            raise falcon.HTTPError(
                421,
                title="Another host was meant",
                description=f"The console answers to {names}{also}.",
            )
        if not self._reach.comes_safely(req):
            raise falcon.HTTPForbidden(
                title="This did not come by TLS",
                description=f"Come by {self._reach.origin}, through the proxy that is there.",
            )
        if self._reach.is_secure(req):
            resp.set_header("Strict-Transport-Security", _STRICT_TRANSPORT)
        if req.method not in ("GET", "HEAD") and not self._is_from_here(req):
            raise falcon.HTTPForbidden(title="This came from another page")
        if (req.path in ENTRANCE and req.path != WAY_OUT) or req.path.startswith("/static/"):
            return
        found = self._cookies.visitor(req)
        if found is None:
            if _comes_from_another_site(req):
                # A strict cookie does not come along from there, but does from a page of ours.
                resp.complete = True
                resp.content_type = falcon.MEDIA_HTML
                resp.text = self._templates.page("again.html")
                return
            raise falcon.HTTPUnauthorized(title="Sign in")
        cookie, visitor = found
        req.context.visitor = visitor
        req.context.still_here = partial(self._is_still_here, cookie, visitor)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, params: Any
    ) -> None:
        """Whoever is signed in comes to what the table of routes allows, and nowhere else."""
        del resp, resource, params
        if req.uri_template in ENTRANCE:
            return
        visitor: Visitor = req.context.visitor
        if visitor.problem:
            raise falcon.HTTPForbidden(
                title="Nothing here is yours to see", description=visitor.problem
            )
        route = ROUTES.get(req.uri_template or "")
        if route is None or not route.lets_in(visitor.role, req.method):
            raise falcon.HTTPForbidden(
                title="This is not for you to see"
                if req.method in ("GET", "HEAD")
                else "This is not for you to change",
                description="An admin of the gateway can say who may.",
            )

    def _is_still_here(self, cookie: str, visitor: Visitor) -> bool:
        """Whether who has come with a cookie would be let in again, as the same."""
        try:
            return self._cookies.knows(cookie) == visitor
        except Away:
            return False

    def _is_from_here(self, req: falcon.Request) -> bool:
        """APPSEC: the cookie is SameSite=Strict, but other ports of this host are the same site.

        Browsers say where a request comes from in a header that no script can set; under our
        Referrer-Policy they give ``null`` for the origin of a form.
        """
        site = req.get_header("Sec-Fetch-Site")
        if site is not None:
            return site == "same-origin"
        return req.get_header("Origin") == self._reach.origin_of(req)


def _comes_from_another_site(req: falcon.Request) -> bool:
    """Whether somebody has followed a link on a page elsewhere."""
    return (
        req.method == "GET"
        and req.get_header("Sec-Fetch-Mode") == "navigate"
        and req.get_header("Sec-Fetch-Site") in ("cross-site", "same-site")
    )


class Entrance:
    """The link that works once, the provider, and the way out."""

    def __init__(self, cookies: Cookies, templates: Templates) -> None:
        self._cookies = cookies
        self._door = cookies.door
        self._reach = cookies.reach
        self._oidc = cookies.oidc
        self._templates = templates
        self._attempts = FixedWindowRateLimiter(MemoryStorage())

    def on_get_in(self, req: falcon.Request, resp: falcon.Response) -> None:
        if not req.has_param("token"):
            raise falcon.HTTPUnauthorized(title="Sign in")
        self._attempt(req)
        # The link is for whoever sits at this machine, or at the near end of a tunnel.
        here = self._reach.local and is_local_name(req.get_header("Host") or "")
        cookie = self._door.enter(req.get_param("token") or "") if here else None
        if cookie is None:
            raise falcon.HTTPForbidden(title="This link does not work (any more)")
        self._let_in(req, resp, cookie, "/now")

    def on_get_oidc(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Off to the provider."""
        from aigateway.http.console.oidc import Journey

        oidc = self._by_oidc(req)
        journey = Journey(leads_to=_page_of_ours(req.get_param("next") or ""))
        place = self._asked(lambda: oidc.way_there(journey, self._back(req)))
        told = json.dumps(attrs.asdict(journey)).encode()
        sealed = self._door.sealed(base64.urlsafe_b64encode(told).decode(), _JOURNEY_SECONDS)
        self._cookies.put(req, resp, sealed, "sign-in")
        resp.status = falcon.HTTP_303
        resp.set_header("Location", place)

    def on_get_callback(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Back from the provider."""
        oidc = self._by_oidc(req)
        journey = next(self._journeys(req), None)
        self._cookies.take(req, resp, "sign-in")
        if journey is None:
            raise falcon.HTTPForbidden(
                title="You are not signed in",
                description="This sign-in was begun in another browser, or long ago. Begin again.",
            )
        answer = {name: req.get_param(name) or "" for name in req.params}
        session = self._asked(lambda: oidc.arrived(journey, self._back(req), answer, time.time()))
        cookie = self._cookies.begin(session)
        log.info("signed in", name=session.name, issuer=session.issuer)
        self._let_in(req, resp, cookie, journey.leads_to)

    def on_post_out(self, req: falcon.Request, resp: falcon.Response) -> None:
        ended = [self._cookies.leave(cookie) for cookie in self._cookies.of(req)]
        self._cookies.take(req, resp)
        session = next((each for each in ended if each is not None), None)
        place = None
        if self._oidc is not None and session is not None:
            origin = self._reach.origin_of(req)
            place = self._oidc.way_out(session.id_token, f"{origin}/sign-in")
        if place is None:
            raise falcon.HTTPSeeOther("/now")
        # No redirect: the policy of the page with the form lets it lead to this console only.
        self._page(resp, "signed_out.html", place=place)

    def _by_oidc(self, req: falcon.Request) -> Oidc:
        if self._oidc is None:
            raise falcon.HTTPNotFound(title="Nobody signs in that way here")
        self._attempt(req)
        return self._oidc

    def _attempt(self, req: falcon.Request) -> None:
        if not self._attempts.hit(RateLimitItemPerMinute(ATTEMPTS), self._reach.client_of(req)):
            raise falcon.HTTPTooManyRequests(
                title="Too many tries to sign in",
                description="Wait for a minute.",
                retry_after=60,
            )

    def _asked(self, ask: Any) -> Any:
        from aigateway.http.console.oidc import NoSignIn

        try:
            return ask()
        except NoSignIn as ex:
            log.warning("nobody was signed in", reason=str(ex))
            raise falcon.HTTPForbidden(title="You are not signed in", description=str(ex)) from ex

    def _journeys(self, req: falcon.Request) -> Iterator[Journey]:
        from aigateway.http.console.oidc import Journey

        for cookie in self._cookies.of(req, "sign-in"):
            text = self._door.unsealed(cookie)
            if text is not None:
                yield Journey(**json.loads(base64.urlsafe_b64decode(text)))

    def _back(self, req: falcon.Request) -> str:
        return f"{self._reach.origin_of(req)}/sign-in/callback"

    def _let_in(
        self, req: falcon.Request, resp: falcon.Response, cookie: str, leads_to: str
    ) -> None:
        self._cookies.put(req, resp, cookie)
        # No redirect: it would belong to the page with the link, and a strict cookie would not
        # come along from there.
        self._page(resp, "signed_in.html", leads_to=leads_to)

    def _page(self, resp: falcon.Response, template: str, **values: object) -> None:
        resp.content_type = falcon.MEDIA_HTML
        resp.text = self._templates.page(template, **values)


def _page_of_ours(address: str) -> str:
    """An address to go on to.  APPSEC: a link may bring it along, so it must not lead elsewhere."""
    good = address.startswith("/") and address.isascii() and address.isprintable()
    if not good or address[:2] in ("//", "/\\") or len(address) > 2000 or address[:5] == "/sign":
        return "/now"
    return address
