"""What can go wrong between the gateway and an MCP server, by cause.

Every text is fit for a log, for a record and for the model that called the tool: it names
no token and quotes the server in a bounded piece only.
"""

from __future__ import annotations

__all__ = [
    "BadAnswer",
    "BadArguments",
    "DeadlinePassed",
    "HttpRefused",
    "McpError",
    "NoCommonVersion",
    "RpcRefused",
    "SessionLost",
    "StreamCut",
    "Unauthorized",
    "Unreachable",
    "quoted",
]

_QUOTE_LIMIT = 500
"""Characters of a server's own text that are passed on."""


class McpError(Exception):
    """An MCP server, or the way to it, did not do its part."""


class Unreachable(McpError):
    """No connection, or it broke before the answer was complete."""


class StreamCut(Unreachable):
    """An answer's event stream ended before the answer.

    It may be asked for again from ``last_event_id`` on (empty: it may not), after ``retry``
    seconds.
    """

    def __init__(self, message: str, last_event_id: str = "", retry: float = 0.0) -> None:
        super().__init__(message)
        self.last_event_id = last_event_id
        self.retry = retry


class DeadlinePassed(McpError):
    """The server did not answer in time."""


class HttpRefused(McpError):
    """The server answered with an HTTP error and no JSON-RPC error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unauthorized(HttpRefused):
    """401 or 403: the token is missing, expired or not good enough."""


class SessionLost(McpError):
    """The server does not know our session any more; the request was not handled."""


class BadAnswer(McpError):
    """The server answered something that is not MCP."""


class RpcRefused(McpError):
    """The server answered with a JSON-RPC error.

    ``data`` is its ``data`` member as raw JSON; ``status`` that of the HTTP answer.
    """

    def __init__(self, code: int, text: str, data: bytes = b"", status: int = 200) -> None:
        super().__init__(f"MCP error {code}: {quoted(text)}")
        self.code = code
        self.text = text
        self.data = data
        self.status = status


class NoCommonVersion(McpError):
    """The server speaks no protocol version that the gateway speaks."""


class BadArguments(McpError):
    """What the model gave as arguments is not a JSON object; nothing was sent."""


def quoted(text: str) -> str:
    """Return the beginning of a server's text, on one line."""
    line = " ".join(text[: _QUOTE_LIMIT * 2].split())
    return line if len(line) <= _QUOTE_LIMIT else f"{line[: _QUOTE_LIMIT - 1]}…"
