"""Reaching coderd over TLS and through proxies."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from coderd_dial import Authority, dialled, echo_through, settings, unreachable
from fake_coderd import FakeCoderd

from aigateway.actors.control.coderd.dial import Dialer, DialError, DialSettings


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def test_a_private_authority_is_trusted(authority: Authority) -> None:
    with (
        FakeCoderd(tls=authority.server()) as coderd,
        dialled(coderd, ca_file=authority.ca_file) as (channel, _),
    ):
        echo_through(channel)


def test_an_unknown_authority_is_not_trusted(authority: Authority) -> None:
    with FakeCoderd(tls=authority.server()) as coderd:
        error = unreachable(coderd)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert not error.fatal


def test_a_client_certificate_is_shown(authority: Authority) -> None:
    cert_file, key_file = authority.client_files()
    with FakeCoderd(tls=authority.server(client_ca=authority.ca)) as coderd:
        with dialled(coderd, ca_file=authority.ca_file, cert_file=cert_file, key_file=key_file) as (
            channel,
            _,
        ):
            echo_through(channel)
        with pytest.raises(DialError):
            Dialer(settings(coderd, ca_file=authority.ca_file)).dial()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "CODER_CLIENT_TLS_CA_FILE.*/nowhere/ca.pem"),
        ({"ca_file": __file__}, "CODER_CLIENT_TLS_CA_FILE"),
        ({"cert_file": "/nowhere/cert.pem", "key_file": "/k"}, "CODER_CLIENT_TLS_CERT_FILE"),
    ],
)
def test_tls_files_that_cannot_be_read_are_named(
    coderd: FakeCoderd, changes: dict[str, str], named: str
) -> None:
    with pytest.raises(DialError, match=named) as caught:
        Dialer(DialSettings(url="https://127.0.0.1:1", key="k", **changes)).dial()
    assert caught.value.fatal


def test_two_threads_may_use_one_tls_connection(authority: Authority) -> None:
    """Large messages both ways at once: each side has to wait for the other."""
    with (
        FakeCoderd(tls=authority.server()) as coderd,
        dialled(coderd, ca_file=authority.ca_file) as (channel, _),
    ):
        ping = bytes.fromhex("000200010000000000000000")
        received = bytearray()
        total = 50 * 1000 * len(ping)

        def read() -> None:
            while len(received) < total:
                received.extend(channel.receive())

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(50):
            if not channel.send_now(ping * 1000):
                channel.flush()
        reader.join()
        assert len(received) == total


# -- proxies


@contextlib.contextmanager
def proxy(
    authorization: str = "", tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy that knows CONNECT only; yields its address and the heads it was sent."""
    heads: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    if tls is not None:
                        client = tls.wrap_socket(client, server_side=True)
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += client.recv(1)
                    heads.append(head.decode())
                    if authorization and authorization not in heads[-1]:
                        client.sendall(b"HTTP/1.1 407 Who are you\r\n\r\n")
                        client.close()
                        continue
                    host, _, port = heads[-1].split()[1].rpartition(":")
                    with socket.create_connection((host, int(port))) as target:
                        client.sendall(b"HTTP/1.1 200 Fine\r\n\r\n")
                        back = threading.Thread(target=pump, args=(target, client))
                        back.start()
                        pump(client, target)
                        back.join()
                    client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", heads
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("written", ["http://{}", "{}"])
def test_the_environments_proxy_is_used(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    with proxy() as (address, heads):
        monkeypatch.setenv("http_proxy", written.format(address))
        # A proxy for everything else may speak another protocol.
        monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
        with dialled(coderd) as (channel, _):
            echo_through(channel)
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{coderd.port} HTTP/1.1\r\n")


def test_the_environments_proxy_may_be_spoken_to_by_tls(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    with (
        proxy(tls=authority.server()) as (address, heads),
        FakeCoderd(tls=authority.server()) as coderd,
    ):
        monkeypatch.setenv("https_proxy", f"https://{address}")
        with dialled(coderd, ca_file=authority.ca_file) as (channel, _):
            echo_through(channel)
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{coderd.port} HTTP/1.1\r\n")


def test_the_environments_exceptions_are_heeded(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with dialled(coderd):
        pass


def test_a_proxy_for_everything_else_is_none_for_coderd(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    with dialled(coderd):
        pass


def test_a_proxy_that_is_named_beats_the_environment(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    # "user:p w" in base64.
    with proxy("Proxy-Authorization: Basic dXNlcjpwIHc=") as (address, heads):
        with dialled(coderd, proxy=f"http://user:p%20w@{address}") as (channel, _):
            echo_through(channel)
        with FakeCoderd(tls=authority.server()) as secure:
            tls = {"ca_file": authority.ca_file, "proxy": f"http://user:p%20w@{address}"}
            with dialled(secure, **tls) as (channel, _):
                echo_through(channel)
        assert "407" in str(unreachable(coderd, proxy=f"http://{address}"))
    assert len(heads) == 3


def test_no_proxy_may_be_asked_for(coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with dialled(coderd, proxy=""):
        pass


def test_a_tls_server_that_says_nothing_is_given_up(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            peer, _ = listener.accept()
            with authority.server().wrap_socket(peer, server_side=True) as secure:
                while secure.recv(4096):
                    pass

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        dialer = Dialer(DialSettings(url=url, key="k", ca_file=authority.ca_file, timeout=0.3))
        with pytest.raises(DialError, match="timed out"):
            dialer.dial()
        thread.join()
