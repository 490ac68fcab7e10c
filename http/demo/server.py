"""The imitation provider's HTTP server: it carries :func:`imitation.answer`, nothing more."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from aigateway.http.demo.imitation import HeardRequest, Imitated, answer

__all__ = ["ImitationServer"]


class ImitationServer:
    """Serves the imitation provider on 127.0.0.1 from threads of its own.

    ``keys`` are the API keys it knows (None: any will do), ``delay`` is the pause before each
    event of a stream in seconds, ``heard`` is told every request before it is answered.  Use it
    as a context manager, or :meth:`stop` it.
    """

    def __init__(
        self,
        *,
        keys: Collection[str] | None = None,
        delay: float = 0.0,
        port: int = 0,
        heard: Callable[[HeardRequest], None] | None = None,
    ) -> None:
        self._server = _Server(("127.0.0.1", port), keys, delay, heard)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="imitation provider", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Root address without a trailing slash; OpenAI's API is below ``/v1``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Stop listening and break what is still open."""
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(
        self,
        address: tuple[str, int],
        keys: Collection[str] | None,
        delay: float,
        heard: Callable[[HeardRequest], None] | None,
    ) -> None:
        self.keys = keys
        self.delay = delay
        self.heard = heard
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The base class's own looks up the name of the address, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        with self._lock:
            self._open.discard(request)

    def close_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are ordinary; all else is a bug worth a traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        request = HeardRequest(
            method=self.command,
            path=self.path.partition("?")[0],
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self._read_body(),
            query=self.path.partition("?")[2],
        )
        if self.server.heard is not None:
            self.server.heard(request)
        reply = answer(request, self.server.keys)
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.events is None:
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else reply.body)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._stream(reply, reply.events)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _answer

    def _stream(self, reply: Imitated, events: tuple[bytes, ...]) -> None:
        for event in events:
            if self.server.delay:
                self.server.stopping.wait(self.server.delay)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        if reply.breaks_off:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline() not in (b"\r\n", b"\n", b""):
            pass
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the demonstration shows what the gateway recorded."""
