"""What can go wrong between a worker and its upstream, by cause and phase."""

from __future__ import annotations

__all__ = [
    "AnswerTimeout",
    "BadHead",
    "ClosedUnanswered",
    "ConnectFailed",
    "ConnectTimeout",
    "GatewayEnds",
    "HeadCut",
    "KeyAway",
    "NotMade",
    "NotSent",
    "NotSupported",
    "OutOfFiles",
    "ProxyFailed",
    "Quiet",
    "SendFailed",
    "Unsendable",
    "UpstreamCut",
    "UpstreamError",
]


class UpstreamError(Exception):
    """The upstream did not do its part."""

    sent = True
    """Whether any byte of the request may have reached the upstream."""
    status = 502
    """The status for the client when its answer has not begun."""
    error_type = "server_error"
    retry_after: int | None = None
    """Seconds after which the client may ask again, where that can be said."""


class Unsendable(UpstreamError):
    """The request cannot be written as HTTP; nobody else could send it either."""

    sent = False
    status = 400
    error_type = "bad_request"


class NotMade(UpstreamError):
    """The request could not be made for this provider, for want of credentials.

    Another provider may be able to send it.
    """

    sent = False
    status = 500
    error_type = "unauthorized"


class KeyAway(NotMade):
    """The provider's key cannot be had now; it may be in a moment."""

    status = 503
    retry_after = 5


class NotSupported(UpstreamError):
    """The provider has no such operation for this model."""

    sent = False
    status = 501
    error_type = "bad_request"


class ConnectFailed(UpstreamError):
    """No connection to the upstream (refused, unknown host, TLS)."""

    sent = False


class OutOfFiles(ConnectFailed):
    """This process may open no more files: the gateway's trouble, of which the upstream knows
    nothing."""

    status = 503
    error_type = "overloaded"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("the gateway has too many connections open (files), try again later")


class ProxyFailed(ConnectFailed):
    """The proxy on the way could not be reached, or made no way through."""


class ConnectTimeout(ConnectFailed):
    """No connection to the upstream within the connect timeout."""

    status = 504
    error_type = "timeout"


class SendFailed(UpstreamError):
    """The connection broke while the request was sent."""


class NotSent(SendFailed):
    """The connection was broken before the first byte of the request could be sent."""

    sent = False


class AnswerTimeout(UpstreamError):
    """The upstream did not begin its answer in time."""

    status = 504
    error_type = "timeout"


class HeadCut(UpstreamError):
    """The connection broke, or what came was not HTTP, before the answer's head was complete."""


class BadHead(HeadCut):
    """What came is not HTTP, or its head is far too large."""


class ClosedUnanswered(HeadCut, SendFailed):
    """The connection was closed before any byte of an answer: what a connection that was idle
    does when the upstream closes it as the next request arrives."""


class UpstreamCut(UpstreamError):
    """The connection broke inside the answer's body."""


class GatewayEnds(UpstreamCut):
    """Nothing was wrong with the upstream: this process ends, and broke off itself."""

    status = 503


class Quiet(Exception):
    """Nothing has arrived for a while; reading may go on."""
