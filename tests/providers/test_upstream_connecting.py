"""Ways to an upstream: names and addresses, proxies, TLS."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
from imitation_provider import ScriptedProvider, WaitFor, answer
from provider_rig import PATIENCE, running, until

from aigateway.actors.providers.addresses import Addresses
from aigateway.actors.providers.connect import Connector
from aigateway.actors.providers.endpoint import Endpoint, Proxy
from aigateway.actors.providers.errors import ConnectFailed, ConnectTimeout

SECRET = "pa:ss wörd"


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


# -- addresses in words


@pytest.mark.parametrize(
    ("url", "endpoint", "host_header", "authority"),
    [
        ("http://a.example", ("http", "a.example", 80), "a.example", "a.example:80"),
        ("https://a.example/v1", ("https", "a.example", 443), "a.example", "a.example:443"),
        ("http://A.example:8080", ("http", "a.example", 8080), "a.example:8080", "a.example:8080"),
        ("https://a.example:80", ("https", "a.example", 80), "a.example:80", "a.example:80"),
        ("http://[::1]:81/x", ("http", "::1", 81), "[::1]:81", "[::1]:81"),
        ("https://[2001:db8::1]", ("https", "2001:db8::1", 443), "[2001:db8::1]",
         "[2001:db8::1]:443"),
        ("http://bücher.example", ("http", "xn--bcher-kva.example", 80),
         "xn--bcher-kva.example", "xn--bcher-kva.example:80"),
        ("http://user:secret@h", ("http", "h", 80), "h", "h:80"),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart(url, endpoint, host_header, authority):
    made = Endpoint.of(url)
    assert (made.scheme, made.host, made.port) == endpoint
    assert made.host_header == host_header
    assert made.authority == authority


@pytest.mark.parametrize(
    "url",
    ["", "h", "ftp://h", "http://", "http://:80", "http://h:0", "http://h:99999", "http://h:x",
     "http://" + "ü" * 64 + ".example"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError):
        Endpoint.of(url)


def test_a_proxys_user_and_password_are_percent_decoded():
    proxy = Proxy.of("http://us%40er:p%3Aw%C3%B6@proxy.example:3128")
    assert proxy.endpoint == Endpoint("http", "proxy.example", 3128)
    kind, _, value = proxy.authorization.partition(" ")
    assert (kind, base64.b64decode(value).decode()) == ("Basic", "us@er:p:wö")
    assert "Basic" not in repr(proxy)
    assert Proxy.of("http://proxy.example").authorization == ""


@pytest.mark.parametrize(
    "url",
    ["https://u:geheim@h", "socks5://u:geheim@h", "http://u:geheim@h:port", "http://u:geheim@"],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(url):
    with pytest.raises(ConnectFailed) as caught:
        Connector(Endpoint.of("http://h"), timeout=1.0, proxy=url)
    assert "geheim" not in str(caught.value)


# -- connecting


def test_a_refused_connection_is_told_with_its_address():
    port = closed_port()
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}: Connection refused") as caught:
        connect(f"http://127.0.0.1:{port}")
    assert not caught.value.sent


def test_an_ipv6_literal_is_reached():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    seen = []

    def serve(sock: socket.socket) -> None:
        seen.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    try:
        server = listening(serve, socket.AF_INET6)
        port = server.__enter__()
    except OSError:
        pytest.skip("no IPv6 here")
    with contextlib.ExitStack() as stack:
        stack.push(server)
        rig = stack.enter_context(running(f"http://[::1]:{port}"))
        assert rig.call() == (200, b"ok")
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in seen[0]


def test_a_connection_that_is_not_made_in_time_is_told():
    # A full backlog: the kernel drops further connections.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
            fillers.append(filler)
        port = listener.getsockname()[1]
        with pytest.raises(ConnectTimeout, match=f"127.0.0.1:{port} within 0.1 s") as caught:
            connect(f"http://127.0.0.1:{port}", timeout=0.1)
        assert (caught.value.status, caught.value.sent) == (504, False)
        for filler in fillers:
            filler.close()


def found(*addresses: tuple[str, int]) -> list[tuple[object, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the resolver answers, one after the other; an exception is raised."""
    answers: list[object] = []
    lock = threading.Lock()

    def getaddrinfo(*_args: object, **_options: object) -> object:
        with lock:
            reply = answers.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


def test_an_unknown_name_is_told_as_such(resolver):
    resolver.append(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    with pytest.raises(ConnectFailed) as caught:
        connect("http://nowhere.example")
    assert str(caught.value) == (
        "cannot resolve the name nowhere.example: Name or service not known"
    )


def test_a_name_without_an_address_is_told(resolver):
    resolver.append([])
    with pytest.raises(ConnectFailed, match="has no address"):
        connect("http://nowhere.example")


def test_a_name_that_is_none_is_told(resolver):
    resolver.append(UnicodeError("label too long"))
    with pytest.raises(ConnectFailed, match="cannot resolve the name"):
        connect("http://" + "x" * 70)


def test_a_burst_of_connections_asks_once(resolver):
    addresses = Addresses(Endpoint("http", "h.example", 80))
    resolver.append(found(("10.0.0.1", 80)))
    results = []
    threads = [threading.Thread(target=lambda: results.append(addresses.get(5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [[(socket.AF_INET, ("10.0.0.1", 80))]] * 8


def test_old_addresses_stay_good_while_the_resolver_fails(resolver):
    addresses = Addresses(Endpoint("http", "h.example", 80))
    resolver.append(found(("10.0.0.1", 80)))
    known = addresses.get(5)
    addresses.failed()
    resolver.append(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    assert addresses.get(5) == known
    addresses.failed()
    resolver.append(found(("10.0.0.2", 80)))
    assert addresses.get(5) == [(socket.AF_INET, ("10.0.0.2", 80))]


def test_who_waits_for_a_slow_resolver_waits_only_so_long(monkeypatch):
    asked, release = threading.Event(), threading.Event()

    def getaddrinfo(*_args: object, **_options: object) -> object:
        asked.set()
        release.wait(PATIENCE)
        return found(("10.0.0.1", 80))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    addresses = Addresses(Endpoint("http", "h.example", 80))
    slow = threading.Thread(target=addresses.get, args=(5,))
    slow.start()
    assert asked.wait(PATIENCE)
    with pytest.raises(TimeoutError, match=r"h\.example"):
        addresses.get(0.02)
    release.set()
    slow.join(PATIENCE)


def test_the_next_address_is_tried_and_remembered(scripted_provider, resolver):
    good, bad = ("127.0.0.1", scripted_provider.port), ("127.0.0.1", closed_port())
    resolver.append(found(bad, good))
    connector = Connector(Endpoint("http", "h.example", good[1]), timeout=5.0)
    for _ in range(2):
        connector.connect().close()
    # The second one did not begin with the bad address.
    assert connector._addresses.get(5)[0] == (socket.AF_INET, good)
    assert connector.opened == 2


def test_a_name_is_resolved_again_when_none_of_its_addresses_works(scripted_provider, resolver):
    good, bad = ("127.0.0.1", scripted_provider.port), ("127.0.0.1", closed_port())
    connector = Connector(Endpoint("http", "h.example", good[1]), timeout=5.0)
    resolver.append(found(bad))
    with pytest.raises(ConnectFailed, match="Connection refused"):
        connector.connect()
    resolver.append(found(good))
    connector.connect().close()


# -- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def tls_provider(authority: trustme.CA) -> Iterator[ScriptedProvider]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with ScriptedProvider(tls=context) as provider:
        yield provider


def test_an_upstream_with_a_private_authority_is_reached_and_kept(tls_provider, ca_file):
    tls_provider.otherwise = answer("ok")
    with running(tls_provider.url, ca_file=ca_file) as rig:
        for _ in range(3):
            assert rig.call(body=b"x" * 300_000) == (200, b"ok")
        counters = rig.settle().counters
    assert [request.connection for request in tls_provider.requests] == [1, 1, 1]
    assert (counters.connections_opened, counters.connections_reused) == (1, 2)


def test_an_early_answer_is_read_through_tls(tls_provider, ca_file):
    over = threading.Event()
    tls_provider.play([*answer("too large", 413), WaitFor(over)], early=True)
    with running(tls_provider.url, ca_file=ca_file) as rig:
        assert rig.call(body=b"x" * (24 << 20)) == (413, b"too large")
        over.set()


def test_an_unknown_authority_is_not_trusted(tls_provider):
    with running(tls_provider.url) as rig:
        refused = rig.refuse()
    assert refused.status == 502
    assert "certificate verify failed" in refused.message
    assert not refused.sent
    assert tls_provider.requests == []


def test_a_certificate_for_another_name_is_not_trusted(authority, ca_file):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    with ScriptedProvider(tls=context) as provider, running(provider.url, ca_file=ca_file) as rig:
        refused = rig.refuse()
    assert refused.status == 502
    assert "not valid for" in refused.message or "mismatch" in refused.message


def test_a_handshake_that_is_not_answered_ends(ca_file):
    release = threading.Event()
    with listening(lambda _sock: release.wait(PATIENCE) and None) as port:
        with pytest.raises(ConnectTimeout, match="was not ready within"):
            connect(f"https://127.0.0.1:{port}", timeout=0.1, ca_file=ca_file)
        release.set()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConnectFailed, match=r"cannot read the CA file .*ca\.pem"):
        Connector(Endpoint.of("https://h"), timeout=1.0, ca_file=str(path))


# -- proxies


class Tunnel:
    """A proxy: notes what it is asked, then carries bytes to ``target``."""

    def __init__(self, target: int, reply: bytes = b"HTTP/1.1 200 Connected\r\n\r\n") -> None:
        self.asked: list[bytes] = []
        self._target = target
        self._reply = reply

    def __call__(self, sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65536)
            if not data:
                return
            head += data
        self.asked.append(head)
        sock.sendall(self._reply)
        if b" 200 " not in self._reply[:13]:
            return
        with socket.create_connection(("127.0.0.1", self._target)) as other:
            pairs = {sock: other, other: sock}
            while True:
                for ready in select.select(list(pairs), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    pairs[ready].sendall(data)


def test_an_https_upstream_is_reached_through_a_tunnel(tls_provider, ca_file):
    tls_provider.otherwise = answer("ok")
    proxy = Tunnel(tls_provider.port)
    with (
        listening(proxy) as port,
        running(
            tls_provider.url, ca_file=ca_file, proxy=f"http://me:pa%3Ass@127.0.0.1:{port}"
        ) as rig,
    ):
        assert rig.call() == (200, b"ok")
        assert rig.call() == (200, b"ok")
        rig.ref.stop(timeout=PATIENCE)
    (asked,) = proxy.asked
    target = f"127.0.0.1:{tls_provider.port}"
    assert asked.startswith(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode())
    credentials = base64.b64encode(b"me:pa:ss")
    assert b"\r\nProxy-Authorization: Basic " + credentials + b"\r\n" in asked
    # The proxy's password is none of the upstream's business.
    assert tls_provider.requests[0].header("Proxy-Authorization") is None
    assert tls_provider.requests[0].target == "/v1/messages"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy refused: HTTP/1.1 407"),
        (b"HTTP/1.1 502 " + b"x" * 500 + b"\r\n\r\n", "the proxy refused: HTTP/1.1 502 xxx"),
        (b"", "the proxy closed the connection"),
        (b"HTTP/1.1 2" + b"x" * 20000, "the proxy closed the connection"),
    ],
)
def test_a_proxy_that_refuses_is_told(tls_provider, ca_file, reply, text):
    with listening(Tunnel(0, reply)) as port, pytest.raises(ConnectFailed, match=text) as caught:
        connect(tls_provider.url, ca_file=ca_file, proxy=f"http://u:geheim@127.0.0.1:{port}")
    assert "geheim" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_tunnel_to_an_ipv6_literal_has_brackets(ca_file):
    proxy = Tunnel(0, b"HTTP/1.1 403 No\r\n\r\n")
    with listening(proxy) as port, pytest.raises(ConnectFailed):
        connect("https://[::1]:8443", ca_file=ca_file, proxy=f"http://127.0.0.1:{port}")
    assert proxy.asked[0].startswith(b"CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\n")


def test_a_plain_upstream_is_asked_for_through_the_proxy(scripted_provider):
    # The scripted provider plays the proxy.
    scripted_provider.otherwise = answer("ok")
    proxy = f"http://me:secret@127.0.0.1:{scripted_provider.port}"
    with running("http://up.example:8080/base", proxy=proxy) as rig:
        assert rig.call(query="a=b") == (200, b"ok")
    (request,) = scripted_provider.requests
    assert request.target == "http://up.example:8080/base/v1/messages?a=b"
    assert request.header("Host") == "up.example:8080"
    credentials = base64.b64encode(b"me:secret").decode()
    assert request.header("Proxy-Authorization") == f"Basic {credentials}"


def test_a_proxy_that_is_away_is_named(scripted_provider):
    port = closed_port()
    with running(scripted_provider.url, proxy=f"http://u:geheim@127.0.0.1:{port}") as rig:
        refused = rig.refuse()
    assert refused.message == f"cannot connect to 127.0.0.1:{port}: Connection refused"
    until(lambda: scripted_provider.requests == [])
