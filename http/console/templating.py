"""The templates: everything is escaped, and nothing is missing without an error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import falcon
import jinja2

from aigateway.http.console.routes import navigation
from aigateway.http.console.wording import FILTERS, percent
from aigateway.http.settings.version import own_version

__all__ = ["ASSETS", "Templates", "query"]

_FOLDER: Final = Path(__file__).parent
ASSETS: Final = _FOLDER / "static"


class Templates:
    """Loaded once, from the package."""

    def __init__(self) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(FILTERS, json=_compact_json)
        self._environment.globals.update(
            navigation=navigation, percent=percent, asset=_asset_address, version=own_version()
        )

    def respond(
        self, req: falcon.Request, resp: falcon.Response, template: str, **values: Any
    ) -> None:
        """A page as the answer to a request, for the one signed in."""
        resp.content_type = falcon.MEDIA_HTML
        visitor = getattr(req.context, "visitor", None)
        resp.text = self.page(template, query=query, here=req.path, visitor=visitor, **values)

    def page(self, template: str, **values: Any) -> str:
        """A whole page, or a fragment where the template is one."""
        return self._environment.get_template(template).render(**values)


def query(values: Mapping[str, object], **changed: object) -> str:
    """The query of an address with these filters; empty ones are left out."""
    told = {name: value for name, value in {**values, **changed}.items() if value}
    return f"?{urlencode(told)}" if told else ""


def _compact_json(value: object) -> str:
    """For an attribute, where autoescape makes it harmless."""
    return json.dumps(value, separators=(",", ":"))


_ADDRESSES: dict[str, str] = {}


def _asset_address(name: str) -> str:
    """Where an asset is, with a sign of its content, so that browsers may keep it for good."""
    if name not in _ADDRESSES:
        digest = hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()[:12]
        _ADDRESSES[name] = f"/static/{name}?v={digest}"
    return _ADDRESSES[name]
