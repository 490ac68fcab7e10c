"""An MCP server for fault tests: it does what it should, except where a test says otherwise."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, frozen
from waiting import wait_until

__all__ = ["Exchange", "ScriptedServer", "Seen", "eventually", "tool"]


def tool(name: str, **more: Any) -> dict[str, Any]:
    """A definition as a server gives it."""
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def eventually(condition: Callable[[], Any], timeout: float = 5.0) -> Any:
    """Return the first true value of ``condition``; fail when there is none in time."""
    return wait_until(condition, "what the test waits for", timeout)


@frozen
class Seen:
    """A request that arrived.  ``rpc`` is the JSON-RPC method, or the HTTP method."""

    rpc: str
    headers: dict[str, str]
    message: dict[str, Any]
    path: str

    @property
    def params(self) -> dict[str, Any]:
        return self.message.get("params", {})


@define
class Exchange:
    """One request, and the ways to answer it."""

    server: ScriptedServer
    seen: Seen
    _handler: BaseHTTPRequestHandler

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def send_json(self, fields: dict[str, Any], status: int = 200, **headers: str) -> None:
        message = {"jsonrpc": "2.0", "id": self.seen.message.get("id"), **fields}
        self.send(status, json.dumps(message).encode(), Content_Type="application/json", **headers)

    def result(self, **fields: Any) -> None:
        self.send_json({"result": fields})

    def text(self, text: str) -> None:
        """Answer a call with a text."""
        self.result(content=[{"type": "text", "text": text}])

    def error(self, code: int, message: str, status: int = 200) -> None:
        self.send_json({"error": {"code": code, "message": message}}, status)

    def open_stream(self) -> None:
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Connection", "close")
        self._handler.end_headers()
        self._handler.close_connection = True

    def event(self, message: dict[str, Any] | None, *lines: str) -> None:
        """Send an event on the stream; None: one without data."""
        data = "" if message is None else json.dumps({"jsonrpc": "2.0", **message})
        text = "".join(f"{line}\n" for line in (*lines, f"data: {data}")) + "\n"
        self._handler.wfile.write(text.encode())
        self._handler.wfile.flush()

    def answer_event(self, text: str) -> None:
        result = {"content": [{"type": "text", "text": text}]}
        self.event({"id": self.seen.message["id"], "result": result})

    def hang(self) -> None:
        """Answer nothing until the client has gone or the server stops."""
        connection = self._handler.connection
        connection.settimeout(0.05)
        while not self.server.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                try:
                    gone = connection.recv(1) == b""
                except ConnectionError:
                    gone = True
                if gone:
                    self.server.hung_up.append(self.seen)
                    break
        self._handler.close_connection = True

    def cut(self) -> None:
        """Break the connection as a crash would."""
        self._handler.close_connection = True
        with contextlib.suppress(OSError):
            self._handler.wfile.flush()
            self._handler.connection.shutdown(socket.SHUT_RDWR)


Behaviour = Callable[[Exchange], None]


class ScriptedServer:
    """``sessions``: speaks 2025-11-25 with sessions; else 2026-07-28.

    ``on`` overrides what is done for a JSON-RPC method, an HTTP method or ``tool:NAME``.
    """

    def __init__(
        self,
        *tools: dict[str, Any],
        sessions: bool = False,
        changes: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tools = list(tools or (tool("echo"),))
        self.sessions = sessions
        self.changes = changes
        self.page_size = 1000
        self.on: dict[str, Behaviour] = {}
        self.seen: list[Seen] = []
        self.hung_up: list[Seen] = []
        self.live_sessions: set[str] = set()
        self.connections = 0
        self.stopping = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _handler_for(self))
        scheme = "http"
        if tls is not None:
            scheme = "https"
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._http.server_address[1]}/mcp"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()

    def got(self, rpc: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.rpc == rpc]

    def handle(self, exchange: Exchange) -> None:
        seen = exchange.seen
        self.seen.append(seen)
        names = [seen.rpc]
        if seen.rpc == "tools/call":
            names.insert(0, f"tool:{seen.params['name']}")
        for name in names:
            if name in self.on:
                self.on[name](exchange)
                return
        self.do(exchange)

    def do(self, exchange: Exchange) -> None:
        """What a server does that is all right."""
        seen = exchange.seen
        session = seen.headers.get("mcp-session-id")
        capabilities = {"tools": {"listChanged": self.changes}}
        match seen.rpc:
            case "server/discover" if not self.sessions:
                exchange.result(
                    resultType="complete",
                    supportedVersions=["2026-07-28"],
                    capabilities=capabilities,
                )
            case "server/discover":
                exchange.error(-32000, "Bad Request: Server not initialized", 400)
            case "initialize":
                new = f"session-{len(self.got('initialize'))}"
                self.live_sessions.add(new)
                result = {"protocolVersion": "2025-11-25", "capabilities": capabilities}
                exchange.send_json({"result": result}, Mcp_Session_Id=new)
            case _ if self.sessions and session not in self.live_sessions:
                exchange.error(-32001, "Session not found", 404)
            case "tools/list":
                self._list(exchange)
            case "tools/call":
                exchange.text(json.dumps(seen.params.get("arguments")))
            case "DELETE":
                self.live_sessions.discard(session or "")
                exchange.send(204)
            case "GET":
                exchange.send(405)
            case _:
                exchange.send(202)

    def _list(self, exchange: Exchange) -> None:
        start = int(exchange.seen.params.get("cursor", "0"))
        end = start + self.page_size
        more = {"nextCursor": str(end)} if end < len(self.tools) else {}
        exchange.result(tools=self.tools[start:end], **more)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is nothing special here."""


def _handler_for(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def finish(self) -> None:
            server.connections -= 1
            super().finish()

        def _take(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            message = json.loads(self.rfile.read(length)) if length else {}
            headers = {name.lower(): value for name, value in self.headers.items()}
            rpc = message.get("method") or ("answer" if message else self.command)
            server.handle(Exchange(server, Seen(rpc, headers, message, self.path), self))

        do_GET = do_POST = do_DELETE = _take

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
