"""TLS that works in memory: the same bytes, however they are cut on their way."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from coderd_dial import Authority

from aigateway.actors.control.coderd._wire_socket import TlsWire


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


class Server:
    """The other end, whose TLS records the test puts on the socket itself."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.arrived, self.leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.arrived, self.leaving, server_side=True)

    def exchange(self, operation: Callable[[], object]) -> None:
        """Do it, with as much from the socket as it needs."""
        while True:
            try:
                operation()
                self.sock.sendall(self.leaving.read())
                return
            except ssl.SSLWantReadError:
                self.sock.sendall(self.leaving.read())
                self.arrived.write(self.sock.recv(65536))

    def records(self, *texts: bytes) -> bytes:
        for text in texts:
            self.tls.write(text)
        return self.leaving.read()


def shake_hands(sock: socket.socket, context: ssl.SSLContext) -> TlsWire:
    wire = TlsWire(sock, time.monotonic() + 10.0, context, "127.0.0.1")
    wire.shake_hands()
    return wire


@pytest.fixture
def pair(authority: Authority) -> Iterator[tuple[TlsWire, Server]]:
    near, far = socket.socketpair()
    context = ssl.create_default_context(cafile=authority.ca_file)
    with near, far:
        server = Server(far, authority.server())
        thread = threading.Thread(target=server.exchange, args=(server.tls.do_handshake,))
        thread.start()
        wire = shake_hands(near, context)
        thread.join()
        wire.established()
        yield wire, server


@pytest.mark.parametrize("cut", [1, 7, 500, 1 << 20])
def test_records_may_be_cut_anywhere(pair: tuple[TlsWire, Server], cut: int) -> None:
    wire, server = pair
    texts = [b"one", b"two" * 50, b"three" * 100]
    data = server.records(*texts)

    def send() -> None:
        for at in range(0, len(data), cut):
            server.sock.sendall(data[at : at + cut])

    sending = threading.Thread(target=send)
    sending.start()
    received = b""
    while len(received) < len(b"".join(texts)):
        received += wire.receive()
    sending.join()
    assert received == b"".join(texts)


def test_records_that_came_together_are_read_together(pair: tuple[TlsWire, Server]) -> None:
    wire, server = pair
    server.sock.sendall(server.records(b"one", b"two", b"three"))
    assert wire.receive() == b"onetwothree"


@pytest.mark.parametrize("polite", [True, False])
def test_what_came_before_the_end_is_read(pair: tuple[TlsWire, Server], polite: bool) -> None:
    wire, server = pair
    data = server.records(b"last words")
    if polite:
        with pytest.raises(ssl.SSLWantReadError):
            server.tls.unwrap()
    server.sock.sendall(data + server.leaving.read())
    server.sock.shutdown(socket.SHUT_WR)
    assert wire.receive() == b"last words"
    assert wire.receive() == b""
    assert wire.receive() == b""


def test_a_record_that_was_changed_on_the_way_is_an_error(pair: tuple[TlsWire, Server]) -> None:
    wire, server = pair
    data = bytearray(server.records(b"one"))
    data[-1] ^= 1
    server.sock.sendall(data)
    with pytest.raises(ssl.SSLError):
        wire.receive()


def test_what_is_sent_arrives_whatever_its_size(pair: tuple[TlsWire, Server]) -> None:
    wire, server = pair
    data = bytes(range(256)) * 4096
    received = b""

    def read() -> None:
        nonlocal received
        received += server.tls.read(65536)

    assert not wire.send_now(data)
    flushing = threading.Thread(target=wire.flush, args=(None,))
    flushing.start()
    while len(received) < len(data):
        server.exchange(read)
    flushing.join()
    assert received == data
    assert wire.send_now(b"more")


def test_what_has_arrived_is_received_though_nothing_can_be_sent(
    pair: tuple[TlsWire, Server],
) -> None:
    wire, server = pair
    assert not wire.send_now(bytes(1 << 20))
    server.sock.sendall(server.records(b"an answer"))
    server.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match="Broken pipe"):
        wire.send_now(b"more")
    assert wire.receive() == b"an answer"
    assert wire.receive() == b""


def test_a_handshake_that_breaks_off_is_an_error(authority: Authority) -> None:
    near, far = socket.socketpair()
    context = ssl.create_default_context(cafile=authority.ca_file)
    with near, far:
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(ssl.SSLError, match="EOF"):
            shake_hands(near, context)


def test_a_peer_that_is_not_trusted_is_told_so(authority: Authority) -> None:
    near, far = socket.socketpair()
    with near, far:
        server = Server(far, authority.server())
        told: list[ssl.SSLError] = []

        def serve() -> None:
            try:
                server.exchange(server.tls.do_handshake)
                server.exchange(lambda: server.tls.read(1))
            except ssl.SSLError as ex:
                told.append(ex)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(near, ssl.create_default_context())
        thread.join()
        assert "unknown ca" in str(told[0]).lower().replace("_", " ")
