"""The listener: who may connect, and where."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from attrs import frozen
from google.protobuf.message import Message

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.coderd.wire.yamux import Limits

from ._connection import Connection
from ._deployment import Deployment
from ._faults import Faults
from ._frames import HttpRequest, accepted, json_answer, parse_request, plain_answer

__all__ = ["FakeCoderd"]

PATHS = ("/api/v2/ai-gateway/serve", "/api/v2/aibridge/serve")
KEY_HEADER = "x-coder-ai-governance-gateway-key"


@frozen
class _Refusal:
    answer: bytes
    times: int | None


class FakeCoderd:
    """A coderd for tests: a real listener, its own state, faults on command.

    ::

        with FakeCoderd() as coderd:
            alice = coderd.deployment.add_user("alice", "tok-alice-secret")
            ...  # a gateway with url=coderd.url and key=coderd.gateway_key

    It serves API ``version`` and nothing newer.  What fails in its threads is in ``notes``.
    """

    def __init__(
        self,
        *,
        version: str = "1.4",
        gateway_key: str = "gateway-key",
        paths: tuple[str, ...] = PATHS,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        port: int = 0,
    ) -> None:
        self.version = version
        self.gateway_key: str | None = gateway_key
        self.paths = paths
        self.deployment = Deployment()
        self.faults = Faults()
        self.requests: list[HttpRequest] = []
        """Every request for an upgrade, granted or not."""
        self.connections: list[Connection] = []
        self.notes: list[str] = []
        self._tls = tls
        self._limits = limits or Limits()
        self._refusal: _Refusal | None = None
        self._after_upgrade = b""
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._stopped = threading.Event()

    def __enter__(self) -> FakeCoderd:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Close everything; nothing is served on this port any more."""
        self._stopped.set()
        # Closing alone does not wake the thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self.connections):
            connection.resume()
            connection.cut()
        for thread in list(self._threads):
            thread.join(5.0)

    # -- on command

    def refuse(
        self, status: int, body: Mapping[str, Any] | bytes | str, *, times: int | None = None
    ) -> None:
        """Answer upgrades with this, the next ``times`` times or until :meth:`admit`."""
        if isinstance(body, Mapping):
            answer = json_answer(status, body)
        else:
            raw = body.encode() if isinstance(body, str) else body
            answer = plain_answer(status, raw, "text/plain; charset=utf-8")
        self._refusal = _Refusal(answer, times)

    def refuse_with(self, answer: bytes, *, times: int | None = None) -> None:
        """Answer upgrades with these bytes."""
        self._refusal = _Refusal(answer, times)

    def admit(self) -> None:
        """Answer upgrades again."""
        self._refusal = None

    def send_after_upgrade(self, frames: bytes) -> None:
        """Send these raw bytes right behind each 101."""
        self._after_upgrade = frames

    def cut_connections(self, *, reset: bool = False) -> None:
        """End the TCP connections of all gateways without a word."""
        for connection in self.open_connections():
            connection.cut(reset=reset)

    def close_connections(self, code: int = 1000) -> None:
        for connection in self.open_connections():
            connection.close(code)

    def delete_gateway_key(self) -> None:
        """Revoke the key: gateways are dropped, and refused from now on."""
        self.gateway_key = None
        self.close_connections()

    def stall(self) -> None:
        """Read and answer nothing."""
        for connection in self.open_connections():
            connection.stall()

    def resume(self) -> None:
        for connection in self.open_connections():
            connection.resume()

    def go_away(self) -> None:
        """Tell gateways to open no more streams."""
        for connection in self.open_connections():
            connection.go_away()

    def set_providers(self, *providers: pb.AIProvider) -> None:
        """Replace the providers and tell whoever watches."""
        with self.deployment.changed:
            self.deployment.providers = providers
        for connection in self.open_connections():
            connection.signal_watchers()

    def end_watches(self, error: str | None = None) -> None:
        for connection in self.open_connections():
            connection.end_watches(error)

    # -- seeing

    def open_connections(self) -> list[Connection]:
        return [connection for connection in self.connections if not connection.closed.is_set()]

    def calls(self, rpc: str) -> list[Message]:
        """The requests of all calls of ``rpc`` (without the service) that were acted upon."""
        with self.deployment.changed:
            return [request for name, request in self.deployment.calls if name == rpc]

    def wait_for_call(self, rpc: str, count: int = 1) -> None:
        """Wait until ``rpc`` was called that often."""
        self.wait_for(lambda: self.deployment.count_calls(rpc) >= count)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait for something that a call or a connection changes."""
        self.deployment.wait_for(condition, timeout)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def note_call(self, name: str) -> None:
        with self.deployment.changed:
            self.deployment.calls.append((name, pb.WatchAIProvidersRequest()))
            self.deployment.changed.notify_all()

    # -- serving

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="fake-coderd", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._greet, sock)

    def _greet(self, sock: socket.socket) -> None:
        try:
            # Answers are small and many: Nagle would hold them back.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            head = _read_head(sock)
        except (OSError, ValueError) as ex:
            self.note(f"before the upgrade: {ex!r}")
            sock.close()
            return
        if not head:
            sock.close()
            return
        request = parse_request(head)
        refusal = self._judge(request)
        with self.deployment.changed:
            self.requests.append(request)
            self.deployment.changed.notify_all()
        with contextlib.suppress(OSError):
            answer = accepted(request) + self._after_upgrade if refusal is None else refusal
            sock.sendall(answer)
        if refusal is not None:
            _linger(sock)
            return
        connection = Connection(self, sock, len(self.connections), self._limits)
        with self.deployment.changed:
            self.connections.append(connection)
            self.deployment.changed.notify_all()
        connection.serve()
        with self.deployment.changed:
            self.deployment.changed.notify_all()

    def _judge(self, request: HttpRequest) -> bytes | None:
        """In coderd's order: what stands before it, the key, the version."""
        refusal = self._refusal
        if refusal is not None:
            left = None if refusal.times is None else refusal.times - 1
            self._refusal = None if left == 0 else _Refusal(refusal.answer, left)
            return refusal.answer
        if request.path not in self.paths:
            return json_answer(404, {"message": "Route not found."})
        key = request.headers.get(KEY_HEADER, "")
        if not key:
            return json_answer(401, {"message": "AI Gateway key required."})
        if key != self.gateway_key:
            return json_answer(401, {"message": "AI Gateway key invalid."})
        given = parse_qs(urlsplit(request.target).query).get("version", [""])[0]
        error = self._version_error(given)
        if error:
            validations = [
                {"field": "version", "detail": error},
                {"field": "client_api_version", "detail": given},
                {"field": "server_api_version", "detail": self.version},
            ]
            return json_answer(
                400,
                {"message": "Incompatible or unparsable version", "validations": validations},
            )
        return None

    def _version_error(self, given: str) -> str:
        if not re.fullmatch(r"\d+\.\d+", given):
            return f"invalid version string: {given}"
        major, minor = map(int, given.split("."))
        own_major, own_minor = map(int, self.version.split("."))
        if major > own_major:
            return f"server is at version {self.version}, behind requested major version {given}"
        if major < own_major:
            return f"version {given} is no longer supported"
        if minor > own_minor:
            return f"server is at version {self.version}, behind requested minor version {given}"
        return ""


def _read_head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # A byte at a time: what follows the head belongs to the WebSocket.
        byte = sock.recv(1)
        if not byte:
            return b""
        head += byte
    return head[:-4]


def _linger(sock: socket.socket) -> None:
    """Close such that the answer arrives: not with bytes unread."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(2.0)
        while sock.recv(4096):
            pass
    sock.close()
