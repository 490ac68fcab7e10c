"""The console's web application."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import falcon
import structlog
from attrs import field, frozen

from aigateway.http.console.asking import OnTheBoard, ThisMachine
from aigateway.http.console.door import Door
from aigateway.http.console.entrance import Cookies, Entrance, Guard
from aigateway.http.console.now import Observer, Pulses
from aigateway.http.console.pages import Pages, Site
from aigateway.http.console.people import People
from aigateway.http.console.reach import Reach
from aigateway.http.console.records import Away, Records
from aigateway.http.console.routes import ENTRANCE, PAGES, PEOPLE, WRITES
from aigateway.http.console.templating import ASSETS, Templates, query
from aigateway.http.console.writes import Writes

if TYPE_CHECKING:
    from aigateway.http.console.oidc import Oidc, OidcSettings

__all__ = ["ConsoleApp", "Sources", "create_app"]

LIVE_PAGES: Final = 32
"""Streams of server-sent events at once; each holds a thread."""

log = structlog.get_logger("ai-gateway.console")


@frozen
class Sources:
    """Where the console looks."""

    local_db: str
    runtime_dir: str
    client_address: str
    reach: Reach = field(factory=Reach)
    oidc: OidcSettings | None = None
    """Who signs people in; None: the link alone does."""
    coderd: bool = False
    """The gateway is one of a Coder deployment: there are no records, and it is asked through
    the sockets in its ``runtime_dir``."""


class ConsoleApp(falcon.App[falcon.Request, falcon.Response]):
    """With the :attr:`pulses` that have to be stopped before the process can end."""

    pulses: Pulses


def create_app(sources: Sources, door: Door) -> ConsoleApp:
    """The whole console, for one process."""
    records = Records(sources.local_db)
    site = Site(
        records,
        ThisMachine(sources.runtime_dir) if sources.coderd else OnTheBoard(records),
        Templates(),
        sources.client_address,
    )

    def live(owner: str | None) -> Callable[[], str]:
        observer = Observer(site.records, site.gateways, owner=owner)
        return lambda: site.templates.page("_now.html", view=observer.look())

    cookies = Cookies(door, sources.reach, site.records, _oidc(sources.oidc))
    app = ConsoleApp(middleware=[Guard(cookies, site.templates)])
    app.pulses = Pulses(live, LIVE_PAGES)
    app.req_options.strip_url_path_trailing_slash = True
    app.resp_options.secure_cookies_by_default = False
    for resource, addresses in (
        (Pages(site, app.pulses), PAGES),
        (Writes(site), WRITES),
        (People(site), PEOPLE),
    ):
        for address, route in addresses.items():
            app.add_route(address, resource, suffix=route.suffix)
    entrance = Entrance(cookies, site.templates)
    for address, suffix in ENTRANCE.items():
        app.add_route(address, entrance, suffix=suffix)
    app.add_sink(_Assets().serve, r"/static/(?P<name>[A-Za-z0-9._/-]+)$")
    errors = _Errors(site.templates, sources)
    app.add_error_handler(Exception, errors.unforeseen)
    app.add_error_handler(falcon.HTTPError, errors.told)
    app.add_error_handler(Away, errors.away)
    return app


def _oidc(settings: OidcSettings | None) -> Oidc | None:
    if settings is None:
        return None
    # Not at the top: few have a provider, and the link needs nothing of all that.
    from aigateway.http.console.oidc import Oidc

    return Oidc(settings)


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

    def __init__(self, templates: Templates, sources: Sources) -> None:
        self._templates = templates
        self._provider = sources.oidc.name if sources.oidc is not None else ""
        self._has_link = sources.reach.local

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
        visitor = getattr(req.context, "visitor", None)
        here = req.path
        resp.text = self._templates.page(
            "error.html", code=code, title=title, text=text, here=here, visitor=visitor,
            provider=self._provider, has_link=self._has_link,
            wanted=query({"next": f"{here}?{req.query_string}" if req.query_string else here}),
        )  # fmt: skip
