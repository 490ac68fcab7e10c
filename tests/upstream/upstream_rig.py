"""What tests below the actors need: connections, servers, single exchanges."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from provider_rig import PATIENCE

from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.exchange import Exchange
from aigateway.actors.upstream.kept import HeaderPairs, KeptConnection, prepare


def connect(url: str, *, timeout: float = 5.0, **options: str) -> socket.socket:
    return Connector(Endpoint.of(url), timeout=timeout, **options).connect()


@contextlib.contextmanager
def listening(
    serve: Callable[[socket.socket], None], family: int = socket.AF_INET, *, backlog: int = 16
) -> Iterator[int]:
    """A server on the loopback interface; ``serve`` gets each connection in turn."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    listener = socket.create_server((host, 0), family=family, backlog=backlog)
    over = threading.Event()

    def accept() -> None:
        while not over.is_set():
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                if not over.is_set():
                    serve(sock)

    port = listener.getsockname()[1]
    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield port
    finally:
        over.set()
        socket.create_connection((host, port)).close()
        thread.join(PATIENCE)
        listener.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def begin(
    kept: KeptConnection, body: bytes = b"{}", *, method: str = "POST", timeout: float = 10.0
) -> Exchange:
    headers = HeaderPairs([("Content-Length", str(len(body)))])
    return kept.exchange(prepare(method, "http://upstream/path", headers, body), timeout)
