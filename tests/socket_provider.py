"""A provider of the Responses API over WebSockets that does what the test's script says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from ssl import SSLContext
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

__all__ = ["SocketProvider", "completed", "response_events"]

Script = Callable[["SocketProvider", ServerConnection, dict[str, Any]], None]


def response_events(
    id: str, items: Iterable[dict[str, Any]] = (), text: str = "", **more: Any
) -> list[dict[str, Any]]:
    """The events of one response with these items of output, and this text."""
    items = list(items)
    response = {"id": id, "object": "response", "model": "gpt-imaginary", "output": []}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "status": "in_progress"}}
    ]
    if text:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"type": "message", "id": f"msg_{id}", "role": "assistant", "content": content}
        place = {"output_index": len(items), "item_id": message["id"], "content_index": 0}
        told.append(
            {"type": "response.output_item.added", **place, "item": {**message, "content": []}}
        )
        told += [
            {"type": "response.output_text.delta", **place, "delta": each} for each in text.split()
        ]
        items.append({**message, "status": "completed"})
    told += [
        {"type": "response.output_item.done", "output_index": place, "item": item}
        for place, item in enumerate(items)
    ]
    told.append(completed(id, items))
    return [{**each, "sequence_number": number, **more} for number, each in enumerate(told)]


def completed(id: str, items: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    """The last event of a response."""
    usage = {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 42,
    }
    return {
        "type": "response.completed",
        "response": {
            "id": id,
            "object": "response",
            "model": "gpt-imaginary",
            "status": "completed",
            "output": list(items),
            "usage": usage,
        },
    }


def _answer(provider: SocketProvider, connection: ServerConnection, asked: dict[str, Any]) -> None:
    more = {"stream_id": asked["stream_id"]} if "stream_id" in asked else {}
    number = len(provider.received)
    for each in response_events(f"resp_{number}", text="hello there", **more):
        connection.send(json.dumps(each))


class SocketProvider:
    """A provider on 127.0.0.1; use it as a context manager.

    ``script`` is called for each message; ``status`` other than 0 refuses handshakes.
    """

    def __init__(
        self, script: Script = _answer, *, status: int = 0, ssl: SSLContext | None = None
    ) -> None:
        self.news = threading.Condition()
        self.status = status
        self.reset(script)
        self._server = serve(
            self._handle,
            "127.0.0.1",
            0,
            compression=None,
            process_request=self._process,
            max_size=None,
            ping_interval=None,
            ssl=ssl,
        )
        self.port = self._server.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def reset(self, script: Script = _answer) -> None:
        """Forget what has been."""
        with self.news:
            self.script = script
            self.received: list[dict[str, Any]] = []
            """Messages, as they were read."""
            self.handshakes: list[Request] = []
            self.connections: list[ServerConnection] = []
            self.closed: list[tuple[int | None, str | None]] = []
            """How connections have ended."""

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        with self.news:
            self.handshakes.append(request)
            self.news.notify_all()
        if self.status:
            body = json.dumps({"error": {"message": "no", "type": "t"}})
            return connection.respond(HTTPStatus(self.status), body)
        return None

    def _handle(self, connection: ServerConnection) -> None:
        with self.news:
            self.connections.append(connection)
            self.news.notify_all()
        try:
            for message in connection:
                asked = json.loads(message)
                with self.news:
                    self.received.append(asked)
                    self.news.notify_all()
                self.script(self, connection, asked)
        except ConnectionClosed:
            pass
        finally:
            with self.news:
                self.closed.append((connection.close_code, connection.close_reason))
                self.news.notify_all()

    def wait(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Until something that was received makes it true."""
        with self.news:
            assert self.news.wait_for(condition, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        for connection in self.connections:
            connection.socket.close()
        self._thread.join(10)
