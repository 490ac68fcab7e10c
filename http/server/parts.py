"""gunicorn with the gateway's request and response in the place of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

from gunicorn.http import parser, wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader

from aigateway.actors.waiting import patient
from aigateway.http.server.request import GatewayRequest
from aigateway.http.server.response import GatewayResponse

__all__ = ["use_own_parts"]


def use_own_parts(config: Any) -> None:
    """Have gunicorn make them from now on, in this process: it has no setting for that.

    PERF: ``config`` looks each setting up in two steps, a dozen times for each request; in a
    process that serves they do not change any more, so they become plain attributes.
    """
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})
    wsgi.Response = GatewayResponse
    # What an application may write errors to: it asks logging for its outputs each time.
    wsgi.WSGIErrorsWrapper = cache(wsgi.WSGIErrorsWrapper)
    RequestParser.mesg_class = GatewayRequest
    parser.SocketUnreader = _patient_unreader


def _patient_unreader(sock: Any) -> SocketUnreader:
    return SocketUnreader(patient(sock))
