"""A client of the Responses API over a WebSocket, by an independent library."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from gateway_process import GatewayProcess
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

__all__ = ["Session", "open_session", "ws_url"]


def ws_url(gateway: GatewayProcess) -> str:
    return f"ws{gateway.url.removeprefix('http')}/openai/v1/responses"


def open_session(gateway: GatewayProcess, user: str = "alice", **more: Any) -> Session:
    headers = {"Authorization": f"Bearer {gateway.key(user)}", **more.pop("headers", {})}
    url = more.pop("url", ws_url(gateway))
    opening = connect(
        url,
        additional_headers=headers,
        max_size=None,
        ping_interval=None,
        proxy=None,
        **{"compression": None, **more},
    )
    return Session(opening.__enter__())


class Session:
    """One connection; use it as a context manager."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def create(self, input: Any = "hi", **more: Any) -> None:
        """Ask for a response."""
        asked = {"type": "response.create", "model": "gpt-imaginary", "input": input, **more}
        self.connection.send(json.dumps(asked))

    def next(self) -> dict[str, Any]:
        """The next event."""
        event = json.loads(self.connection.recv(timeout=20))
        assert isinstance(event, dict)
        return event

    def answer(self) -> list[dict[str, Any]]:
        """The events of one response, its last one or an error included."""
        events = [self.next()]
        while events[-1]["type"] not in ("response.completed", "response.failed", "error"):
            events.append(self.next())
        return events

    def ask(self, input: Any = "hi", **more: Any) -> list[dict[str, Any]]:
        self.create(input, **more)
        return self.answer()

    def closed(self) -> tuple[int, str]:
        """How the gateway closes; what comes before that is dropped."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.connection.recv(timeout=20)
        close = self.connection.protocol.close_rcvd
        assert close is not None
        return close.code, close.reason
