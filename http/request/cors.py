"""What a browser is told before it lets the script of a web page call the gateway (CORS).

A page may call only where its origin is listed.  Browsers ask first, without any key, so that
question is answered before anybody is asked who calls.  Who may call stays a matter of keys: no
cookie counts here, and none is allowed for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aigateway.http.request.answers import Answer
from aigateway.http.request.inbound import Inbound

__all__ = ["ANY_ORIGIN", "Cors", "without_cors"]

ANY_ORIGIN = "*"
_PREFIX = "access-control-"
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_METHOD = re.compile(_TOKEN)
_NAMES = re.compile(rf"{_TOKEN}(?:[ \t]*,[ \t]*{_TOKEN})*")
_MAX_AGE = "600"
"""Seconds for which a browser need not ask again; a changed list holds after as many at most."""


class Cors:
    """The origins of web pages whose scripts may call."""

    def __init__(self, origins: Sequence[str]) -> None:
        """``origins`` are written as browsers write them, or :data:`ANY_ORIGIN`."""
        self._any = ANY_ORIGIN in origins
        self._origins = frozenset(origins)

    def headers(self, inbound: Inbound) -> list[tuple[str, str]]:
        """What every answer to this request is given."""
        if self._any:
            return [*_allowed(ANY_ORIGIN)]
        origin = inbound.header("Origin")
        allowed = _allowed(origin) if origin in self._origins else ()
        return [*allowed, ("Vary", "Origin")]

    def preflight(self, inbound: Inbound) -> Answer | None:
        """The answer to a browser that asks whether it may call; None for any other request."""
        method = inbound.header("Access-Control-Request-Method")
        origin = inbound.header("Origin")
        if inbound.method != "OPTIONS" or not origin or not _METHOD.fullmatch(method):
            return None
        headers = [("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")]
        if self._any or origin in self._origins:
            headers.append(("Access-Control-Allow-Methods", method))
            names = inbound.header("Access-Control-Request-Headers").strip()
            if _NAMES.fullmatch(names):
                headers.append(("Access-Control-Allow-Headers", names))
            if inbound.header("Access-Control-Request-Private-Network") == "true":
                # The gateway may be in a network of its own, and the page in the internet.
                headers.append(("Access-Control-Allow-Private-Network", "true"))
            headers.append(("Access-Control-Max-Age", _MAX_AGE))
        return Answer(204, b"", "text/plain; charset=utf-8", tuple(headers))


def without_cors(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers without a provider's word on which pages may read the answer."""
    return [(name, value) for name, value in headers if not name.lower().startswith(_PREFIX)]


def _allowed(origin: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", "*"),
    )
