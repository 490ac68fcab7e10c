"""gunicorn with the gateway's request and response in the place of its own."""

from __future__ import annotations

from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser

from aigateway.http.server.request import GatewayRequest
from aigateway.http.server.response import GatewayResponse

__all__ = ["use_own_parts"]


def use_own_parts() -> None:
    """Have gunicorn make them from now on, in this process: it has no setting for that."""
    wsgi.Response = GatewayResponse
    RequestParser.mesg_class = GatewayRequest
