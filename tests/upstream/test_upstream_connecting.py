"""Ways to an upstream: names and addresses, proxies, TLS."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from provider_rig import PATIENCE, running
from upstream_rig import closed_port, connect, listening

from aigateway.actors.upstream.addresses import Addresses
from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.endpoint import Endpoint, Proxy
from aigateway.actors.upstream.errors import ConnectFailed, ConnectTimeout

SECRET = "pa:ss wörd"


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
    ["ftp://u:geheim@h", "u:geheim@h", "http://u:geheim@h:port", "https://u:geheim@"],
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


@contextlib.contextmanager
def silent(family: int = socket.AF_INET) -> Iterator[tuple[object, ...]]:
    """An address that leads nowhere: the kernel drops what does not fit into a full backlog."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with contextlib.ExitStack() as stack:
        try:
            listener = socket.create_server((host, 0), family=family, backlog=0)
        except OSError:
            pytest.skip("no IPv6 here")
        stack.enter_context(listener)
        for _ in range(4):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()


def test_a_connection_that_is_not_made_in_time_is_told():
    with silent() as (_host, port):
        with pytest.raises(ConnectTimeout, match=f"127.0.0.1:{port} within 0.1 s") as caught:
            connect(f"http://127.0.0.1:{port}", timeout=0.1)
        assert (caught.value.status, caught.value.sent) == (504, False)


@pytest.mark.parametrize("family", [socket.AF_INET6, socket.AF_INET])
def test_an_address_that_says_nothing_costs_a_moment_and_then_comes_last(
    scripted_provider, resolver, family
):
    good = (socket.AF_INET, ("127.0.0.1", scripted_provider.port))
    with silent(family) as dead:
        lookup = [(family, 1, 6, "", dead), (good[0], 1, 6, "", good[1])]
        resolver.extend([lookup, lookup])
        connector = Connector(Endpoint("http", "h.example", good[1][1]), timeout=2.0)
        connector.connect().close()
        # Also when the name was looked up again.
        connector._addresses.failed()
        assert connector._addresses.get(5)[0] == good


def test_addresses_that_all_say_nothing_are_told_as_that(resolver):
    with silent() as one, silent() as other:
        resolver.append(found(one, other))
        with pytest.raises(ConnectTimeout, match=r"h\.example:80 within 0\.5 s"):
            connect("http://h.example", timeout=0.5)


def test_families_take_turns_and_the_one_that_worked_comes_first(resolver):
    six = [(socket.AF_INET6, (f"2001:db8::{n}", 80, 0, 0)) for n in (1, 2, 3)]
    four = [(socket.AF_INET, (f"10.0.0.{n}", 80)) for n in (1, 2)]
    lookup = [(family, 1, 6, "", where) for family, where in six + four]
    addresses = Addresses(Endpoint("http", "h.example", 80))
    resolver.append(lookup)
    assert addresses.get(5) == [six[0], four[0], six[1], four[1], six[2]]
    addresses.worked(four[1])
    assert addresses.get(5) == [four[1], six[0], four[0], six[1], six[2]]
    addresses.failed()
    resolver.append(lookup[:-1])
    assert addresses.get(5) == [four[0], six[0], six[1], six[2]]


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
