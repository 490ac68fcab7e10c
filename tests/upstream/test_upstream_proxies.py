"""Proxies that are spoken to by TLS, and those that speak SOCKS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from imitation_provider import Close, ScriptedProvider, Send, WaitFor, answer, stream
from provider_rig import PATIENCE, running, until
from upstream_rig import closed_port, connect

from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.errors import ConnectFailed, ConnectTimeout, ProxyFailed

BIG = b"x" * 3_000_000


class Proxy:
    """Carries connections to where it is asked, one thread for each direction of each.

    Names lead to this machine.  Notes what it is asked for.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        login: tuple[bytes, bytes] | None = None,
        refuse: dict[str, int] | None = None,
    ) -> None:
        self.asked: list[str] = []
        self.open = 0
        self._tls, self._login, self._refuse = tls, login, refuse or {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Proxy:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        self.open += 1
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with sock:
                first = sock.recv(1)
                if first == b"\x05":
                    self._socks(sock)
                elif first.isalpha():
                    self._http(sock, first)
                else:
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.open -= 1

    def _http(self, sock: socket.socket, head: bytes) -> None:
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        line = head.split(b"\r\n")[0].decode()
        self.asked.append(line)
        if line.startswith("CONNECT "):
            with self._target(int(line.split()[1].rpartition(":")[2])) as target:
                sock.sendall(b"HTTP/1.1 200 Fine\r\n\r\n")
                _carry(sock, target)
            return
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _socks(self, sock: socket.socket) -> None:
        methods = sock.recv(sock.recv(1)[0])
        wanted = 0 if self._login is None else 2
        if wanted not in methods:
            sock.sendall(b"\x05\xff")
            return
        sock.sendall(bytes([5, wanted]))
        if self._login is not None:
            assert sock.recv(1) == b"\x01"
            given = sock.recv(sock.recv(1)[0]), sock.recv(sock.recv(1)[0])
            sock.sendall(b"\x01\x00" if given == self._login else b"\x01\x01")
            if given != self._login:
                return
        assert sock.recv(3) == b"\x05\x01\x00"
        kind = sock.recv(1)[0]
        if kind == 3:
            host = sock.recv(sock.recv(1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, sock.recv(size))
        port = int.from_bytes(sock.recv(2), "big")
        self.asked.append(f"{host}:{port}")
        if code := self._refuse.get(host, 0):
            sock.sendall(bytes([5, code, 0, 1]) + bytes(6))
            return
        with self._target(port) as target:
            # With a name for its own address, which is allowed and has a length of its own.
            sock.sendall(b"\x05\x00\x00\x03\x05proxy\x00\x00")
            _carry(sock, target)

    def _target(self, port: int) -> socket.socket:
        sock = socket.socket()  # create_connection would resolve, as a test forbids
        sock.connect(("127.0.0.1", port))
        return sock


def _carry(one: socket.socket, other: socket.socket) -> None:
    # Two threads on one TLS connection are no problem while each waits most of the time.
    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=carry, args=(other, one))
    back.start()
    carry(one, other)
    back.join(PATIENCE)


@pytest.fixture
def tls_proxy(authority) -> Iterator[Proxy]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Proxy(tls=context) as proxy:
        yield proxy


@pytest.fixture
def socks() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


# -- TLS to the proxy


def test_an_https_upstream_is_reached_through_a_proxy_that_is_spoken_to_by_tls(
    tls_provider, ca_file, tls_proxy
):
    tls_provider.otherwise = answer(BIG)
    proxy = f"https://127.0.0.1:{tls_proxy.port}"
    with running(tls_provider.url, ca_file=ca_file, proxy=proxy) as rig:
        for _ in range(3):
            status, body = rig.call(body=BIG)
            assert (status, body == BIG) == (200, True)
        counters = rig.settle().counters
    assert tls_proxy.asked == [f"CONNECT 127.0.0.1:{tls_provider.port} HTTP/1.1"]
    assert (counters.connections_opened, counters.connections_reused) == (1, 2)
    assert [len(request.body) for request in tls_provider.requests] == [len(BIG)] * 3
    until(lambda: tls_proxy.open == 0)


def test_events_come_through_such_a_proxy_one_by_one(tls_provider, ca_file, tls_proxy):
    gate = threading.Event()
    tls_provider.play(stream([b"data: 1\n\n", WaitFor(gate), b"data: 2\n\n"]))
    proxy = f"https://127.0.0.1:{tls_proxy.port}"
    with running(tls_provider.url, ca_file=ca_file, proxy=proxy) as rig:
        opened = rig.open()
        assert opened.exchange.read() == b"data: 1\n\n"
        gate.set()
        assert opened.exchange.read() == b"data: 2\n\n"
        rig.finish(opened)


def test_an_upstream_that_breaks_off_behind_such_a_proxy_is_noticed(
    tls_provider, ca_file, tls_proxy
):
    tls_provider.play([Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), Close()])
    tls_provider.otherwise = answer("ok")
    proxy = f"https://127.0.0.1:{tls_proxy.port}"
    with running(tls_provider.url, ca_file=ca_file, proxy=proxy) as rig:
        with pytest.raises(Exception, match=r"broke|closed"):
            rig.call()
        assert rig.call() == (200, b"ok")


def test_a_plain_upstream_is_asked_for_through_such_a_proxy(ca_file, tls_proxy):
    proxy = f"https://127.0.0.1:{tls_proxy.port}"
    with running("http://up.example:8080", ca_file=ca_file, proxy=proxy) as rig:
        assert rig.call() == (200, b"ok")
    assert tls_proxy.asked == ["POST http://up.example:8080/v1/messages HTTP/1.1"]


def test_a_proxy_that_does_not_speak_tls_is_told_with_the_way_out(tls_provider, ca_file, socks):
    with pytest.raises(ProxyFailed, match=r"begins with http://") as caught:
        connect(tls_provider.url, ca_file=ca_file, proxy=f"https://u:geheim@127.0.0.1:{socks.port}")
    assert f"no TLS with the proxy 127.0.0.1:{socks.port}" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_proxy_that_nobody_vouches_for_is_not_trusted(scripted_provider, tls_proxy):
    with pytest.raises(ProxyFailed, match="certificate verify failed"):
        connect(scripted_provider.url, proxy=f"https://127.0.0.1:{tls_proxy.port}")
    assert tls_proxy.asked == []


# -- SOCKS


def test_a_socks_proxy_resolves_names_itself(socks, resolver_says_no):
    with ScriptedProvider(otherwise=answer("ok")) as provider:
        url = f"http://up.example:{provider.port}"
        proxy = f"socks5h://127.0.0.1:{socks.port}"
        with running(url, proxy=proxy) as rig:
            assert rig.call() == (200, b"ok")
        (request,) = provider.requests
    assert request.target == "/v1/messages"
    assert request.header("Host") == f"up.example:{provider.port}"
    assert socks.asked == [f"up.example:{provider.port}"]


@pytest.fixture
def resolver_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_args: object, **_options: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, **_options: object) -> object:
        assert host == "up.example"
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_socks_proxy_that_wants_addresses_gets_the_next_where_one_leads_nowhere(two_addresses):
    with (
        ScriptedProvider(otherwise=answer("ok")) as provider,
        Proxy(refuse={"2001:db8::1": 3}) as socks,
    ):
        connector = Connector(
            Endpoint("http", "up.example", provider.port),
            timeout=PATIENCE,
            proxy=f"socks5://127.0.0.1:{socks.port}",
        )
        connector.connect().close()
        six, four = f"2001:db8::1:{provider.port}", f"192.0.2.1:{provider.port}"
        assert socks.asked == [six, four]
        connector.connect().close()
        assert socks.asked == [six, four, four]


def test_tls_to_the_upstream_goes_through_a_socks_proxy_with_a_login(tls_provider, ca_file):
    tls_provider.otherwise = answer(BIG)
    with Proxy(login=(b"me", b"pa:ss")) as socks:
        proxy = f"socks5h://me:pa%3Ass@127.0.0.1:{socks.port}"
        with running(tls_provider.url, ca_file=ca_file, proxy=proxy) as rig:
            assert rig.call(body=BIG)[0] == 200
        assert socks.asked == [f"127.0.0.1:{tls_provider.port}"]


@pytest.mark.parametrize(
    ("login", "proxy", "text"),
    [
        ((b"me", b"secret"), "me:geheim@", "refused the user name or the password"),
        ((b"me", b"secret"), "", "wants another kind of login"),
        (None, "", "the proxy refused: not allowed by its rules"),
    ],
)
def test_a_socks_proxy_that_refuses_is_told(login, proxy, text):
    with Proxy(login=login, refuse={"up.example": 2}) as socks:
        with pytest.raises(ProxyFailed, match=text) as caught:
            connect("http://up.example", proxy=f"socks5h://{proxy}127.0.0.1:{socks.port}")
        assert "geheim" not in str(caught.value)


def test_a_proxy_that_speaks_something_else_is_told(scripted_provider):
    scripted_provider.play_on_connect([Send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Close()])
    with pytest.raises(ProxyFailed, match="does not speak SOCKS 5"):
        connect("http://up.example", proxy=f"socks5h://127.0.0.1:{scripted_provider.port}")


def test_a_proxy_that_says_nothing_is_waited_for_only_so_long():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConnectTimeout, match="was not ready within"):
            connect("http://up.example", timeout=0.1, proxy=f"socks5h://127.0.0.1:{port}")


def test_a_socks_proxy_that_is_away_is_named():
    port = closed_port()
    with pytest.raises(ProxyFailed, match=f"127.0.0.1:{port}: Connection refused"):
        connect("http://up.example", proxy=f"socks5h://127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["socks4", "socks", "quic"])
def test_other_kinds_of_proxies_are_refused_by_their_names(scheme):
    with pytest.raises(ConnectFailed, match=f"by {scheme}:// is not supported") as caught:
        connect("http://up.example", proxy=f"{scheme}://u:geheim@127.0.0.1:1")
    assert "geheim" not in str(caught.value)
