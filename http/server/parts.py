"""gunicorn with the gateway's request and response in the place of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

from gunicorn.http import parser, wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader

from aigateway.actors.upstream.waiting import patient
from aigateway.http.request.inbound import Pace
from aigateway.http.server.request import GatewayRequest
from aigateway.http.server.response import GatewayResponse

__all__ = ["GatewayUnreader", "use_own_parts"]


def use_own_parts(config: Any) -> None:
    """Have gunicorn make them from now on, in this process: it has no setting for that.

    PERF: ``config`` looks each setting up in two steps, a dozen times for each request; in a
    process that serves they do not change any more, so they become plain attributes.  That is
    2 to 3 % of a request's CPU, an errors wrapper kept half a percent
    (``python -m bench.own_parts``).
    """
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})
    wsgi.Response = GatewayResponse
    # What an application may write errors to: it asks logging for its outputs each time.
    wsgi.WSGIErrorsWrapper = cache(wsgi.WSGIErrorsWrapper)
    RequestParser.mesg_class = GatewayRequest
    parser.SocketUnreader = GatewayUnreader


class GatewayUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads from a client: with patience, and a request's body at its pace."""

    def __init__(self, sock: Any) -> None:
        super().__init__(patient(sock))
        self._plain = sock
        self.pace: Pace | None = None
        """Of the body that is being read."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.pace is None:
            data: bytes = super().chunk(size_hint)
            return data
        size = max(self.mxchunk, min(size_hint or 0, self.max_body_chunk))
        return self.pace.receive(self._plain, size)
