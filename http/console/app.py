"""The console's web application."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import falcon
import structlog
from attrs import frozen

from aigateway.http.console.door import SESSION_SECONDS, Door, is_local_name
from aigateway.http.console.forms import Visitor
from aigateway.http.console.gateway import Gateway
from aigateway.http.console.now import Observer, Pulse
from aigateway.http.console.pages import Pages, Site
from aigateway.http.console.people import People
from aigateway.http.console.records import Away, Records
from aigateway.http.console.templating import ASSETS, Templates
from aigateway.http.console.writes import Writes

__all__ = ["ConsoleApp", "Sources", "create_app"]

LIVE_PAGES: Final = 32
"""Streams of server-sent events at once; each holds a thread."""

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

log = structlog.get_logger("ai-gateway.console")


@frozen
class Sources:
    """Where the console looks."""

    local_db: str
    runtime_dir: str
    client_address: str


class ConsoleApp(falcon.App[falcon.Request, falcon.Response]):
    """With the :attr:`pulse` that has to be stopped before the process can end."""

    pulse: Pulse


_PAGES: Final = {
    "/": "home",
    "/now": "now",
    "/now/events": "events",
    "/spend": "spend",
    "/spend.csv": "csv",
    "/sessions": "sessions",
    "/sessions/one": "session",
    "/requests": "requests",
    "/requests/{id}": "request",
    "/requests/{id}/{kind}/{number:int}": "text",
    "/providers": "providers",
    "/actors": "actors",
}
_WRITES: Final = {
    "/actors/restart": "restart",
    "/providers/test": "test",
    "/keys/{id}": "key",
    "/setup": "setup",
}
_PEOPLE: Final = {
    "/people": "people",
    "/people/{id}": "person",
    "/policy": "policy",
    "/audit": "audit",
}


def create_app(sources: Sources, door: Door) -> ConsoleApp:
    """The whole console, for one process."""
    site = Site(
        Records(sources.local_db),
        Gateway(sources.runtime_dir),
        Templates(),
        sources.client_address,
    )
    observer = Observer(site.records, site.gateway)
    pulse = Pulse(lambda: site.templates.page("_now.html", view=observer.look()), LIVE_PAGES)
    app = ConsoleApp(middleware=[_Guard(door, site.templates)])
    app.pulse = pulse
    app.req_options.strip_url_path_trailing_slash = True
    app.resp_options.secure_cookies_by_default = False
    for resource, addresses in (
        (Pages(site, pulse, observer), _PAGES),
        (Writes(site), _WRITES),
        (People(site), _PEOPLE),
    ):
        for address, name in addresses.items():
            app.add_route(address, resource, suffix=name)
    entrance = _Entrance(door, site.templates)
    app.add_route("/sign-in", entrance, suffix="in")
    app.add_route("/sign-out", entrance, suffix="out")
    app.add_sink(_Assets().serve, r"/static/(?P<name>[A-Za-z0-9._/-]+)$")
    errors = _Errors(site.templates)
    app.add_error_handler(Exception, errors.unforeseen)
    app.add_error_handler(falcon.HTTPError, errors.told)
    app.add_error_handler(Away, errors.away)
    return app


def _cookie_name(req: falcon.Request) -> str:
    """Browsers give a host's cookies to all its ports: two consoles must not sign each other
    out."""
    return f"aigateway-console-{req.port}"


class _Guard:
    """Lets in who is signed in, and answers only those who mean this machine."""

    def __init__(self, door: Door, templates: Templates) -> None:
        self._door = door
        self._templates = templates

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        for name, value in _HEADERS.items():
            resp.set_header(name, value)
        if not is_local_name(req.get_header("Host") or ""):
            raise falcon.HTTPError(
                421,
                title="Another host was meant",
                description="The console answers to localhost and to loopback addresses.",
            )
        if req.method not in ("GET", "HEAD") and not _is_from_here(req):
            raise falcon.HTTPForbidden(title="This came from another page")
        if req.path == "/sign-in" or req.path.startswith("/static/"):
            return
        cookies = req.get_cookie_values(_cookie_name(req)) or []
        cookie = next((each for each in cookies if self._door.knows(each)), None)
        if cookie is None:
            raise falcon.HTTPUnauthorized(title="Sign in")
        req.context.visitor = Visitor.with_cookie(self._door.who, cookie)


def _is_from_here(req: falcon.Request) -> bool:
    """APPSEC: the cookie is SameSite=Strict, but other ports of this host are the same site.

    Browsers say where a request comes from in a header that no script can set; under our
    Referrer-Policy they give ``null`` for the origin of a form.
    """
    site = req.get_header("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    return req.get_header("Origin") == req.prefix


class _Entrance:
    """The link that works once, and the way out."""

    def __init__(self, door: Door, templates: Templates) -> None:
        self._door = door
        self._templates = templates

    def on_get_in(self, req: falcon.Request, resp: falcon.Response) -> None:
        cookie = self._door.enter(req.get_param("token") or "")
        if cookie is None:
            raise falcon.HTTPForbidden(title="This link does not work (any more)")
        resp.set_cookie(
            _cookie_name(req),
            cookie,
            max_age=SESSION_SECONDS,
            path="/",
            http_only=True,
            same_site="Strict",
            secure=False,
        )
        resp.content_type = falcon.MEDIA_HTML
        # No redirect: it would belong to the page with the link, and a strict cookie would not
        # come along from there.
        resp.text = self._templates.page("signed_in.html")

    def on_post_out(self, req: falcon.Request, resp: falcon.Response) -> None:
        for cookie in req.get_cookie_values(_cookie_name(req)) or []:
            self._door.leave(cookie)
        resp.unset_cookie(_cookie_name(req), path="/", same_site="Strict")
        raise falcon.HTTPSeeOther("/now")


class _Assets:
    """What lies in ``static/``, read once."""

    def __init__(self) -> None:
        self._files = {
            str(path.relative_to(ASSETS)): (path.read_bytes(), _media_type(path))
            for path in ASSETS.rglob("*")
            if path.is_file()
        }

    def serve(self, req: falcon.Request, resp: falcon.Response, **named: str) -> None:
        name = named["name"]
        if name not in self._files:
            raise falcon.HTTPNotFound
        resp.data, resp.content_type = self._files[name]
        if req.get_param("v"):
            resp.set_header("Cache-Control", "private, max-age=31536000, immutable")


def _media_type(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


class _Errors:
    """Errors as pages that say what to do."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    def told(
        self, req: falcon.Request, resp: falcon.Response, ex: falcon.HTTPError, _params: Any
    ) -> None:
        resp.status = ex.status
        for name, value in dict(ex.headers or {}).items():
            resp.set_header(name, value)
        self._page(req, resp, ex.status_code, ex.title or "", ex.description or "")

    def away(self, req: falcon.Request, resp: falcon.Response, ex: Away, _params: Any) -> None:
        resp.status = falcon.HTTP_503
        self._page(req, resp, 503, "The records cannot be read", str(ex))

    def unforeseen(
        self, req: falcon.Request, resp: falcon.Response, ex: Exception, _params: Any
    ) -> None:
        log.error("a page of the console could not be made", path=req.path, exc_info=ex)
        resp.status = falcon.HTTP_500
        self._page(req, resp, 500, "This page could not be made", "The console's log says why.")

    def _page(
        self, req: falcon.Request, resp: falcon.Response, code: int, title: str, text: str
    ) -> None:
        resp.content_type = falcon.MEDIA_HTML
        signed_in = getattr(req.context, "visitor", None) is not None
        resp.text = self._templates.page(
            "error.html", code=code, title=title, text=text, here=req.path, signed_in=signed_in
        )
