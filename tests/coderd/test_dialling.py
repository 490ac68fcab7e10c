"""Reaching coderd: address, headers, TLS, proxies, refusals, versions."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
import websocket
from fake_coderd import FakeCoderd, encode_frame

from aigateway.actors.coderd._channel import Channel, ChannelError
from aigateway.actors.coderd._wire_socket import TlsWire, wrap
from aigateway.actors.coderd.dial import Dialer, DialError, DialSettings, UpgradeRefused, serve_url
from aigateway.actors.coderd.versions import ApiVersion


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


pytestmark = pytest.mark.usefixtures("no_proxy")


def settings(coderd: FakeCoderd, **changes: Any) -> DialSettings:
    values = {"url": coderd.url, "key": "gateway-key", "timeout": 10.0, **changes}
    return DialSettings(**values)


@contextlib.contextmanager
def dialled(coderd: FakeCoderd, **changes: Any) -> Iterator[tuple[Channel, ApiVersion]]:
    channel, version = Dialer(settings(coderd, **changes)).dial()
    try:
        yield channel, version
    finally:
        channel.release()


def refused(coderd: FakeCoderd, **changes: Any) -> UpgradeRefused:
    with pytest.raises(UpgradeRefused) as caught:
        Dialer(settings(coderd, **changes)).dial()
    return caught.value


def unreachable(coderd: FakeCoderd, **changes: Any) -> DialError:
    with pytest.raises(DialError) as caught:
        Dialer(settings(coderd, **changes)).dial()
    assert not isinstance(caught.value, UpgradeRefused)
    return caught.value


# -- the request


def test_the_request_names_key_build_and_version(coderd: FakeCoderd) -> None:
    with dialled(coderd, build_version="v9.8.7", headers={"X-Edge": "pass"}) as (_, version):
        assert version == (1, 4)
    (request,) = coderd.requests
    assert request.target == "/api/v2/ai-gateway/serve?version=1.4"
    assert request.headers["x-coder-ai-governance-gateway-key"] == "gateway-key"
    assert request.headers["x-coder-build-version"] == "v9.8.7"
    assert request.headers["user-agent"] == "aigateway/v9.8.7"
    assert request.headers["x-edge"] == "pass"
    assert request.headers["host"] == f"127.0.0.1:{coderd.port}"
    assert "origin" not in request.headers
    assert "sec-websocket-protocol" not in request.headers
    assert "sec-websocket-extensions" not in request.headers


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://coder.example", "http://coder.example/p?version=1.4"),
        ("https://coder.example:8443/prefix/", "https://coder.example:8443/p?version=1.4"),
        ("https://user:secret@coder.example?x=y#z", "https://coder.example/p?version=1.4"),
        ("http://[::1]:3000", "http://[::1]:3000/p?version=1.4"),
    ],
)
def test_only_scheme_host_and_port_of_the_url_count(base: str, expected: str) -> None:
    assert serve_url(base, "/p", ApiVersion(1, 4)) == expected


@pytest.mark.parametrize(
    "url", ["", "coder.example", "ftp://coder.example", "http://", "http://h:99999", "http://[::"]
)
def test_a_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(DialError, match=r"--url, CODER_URL") as caught:
        DialSettings(url=url, key="k")
    assert caught.value.fatal


@pytest.mark.parametrize("key", ["one\ntwo", "one\r", "schlüssel", "nul\0"])
def test_a_key_that_is_no_header_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(DialError, match="--key, --key-file") as caught:
        DialSettings(url="http://x", key=key)
    assert key not in str(caught.value)


def test_a_header_that_is_none_is_refused() -> None:
    with pytest.raises(DialError, match="headers must be one line"):
        DialSettings(url="http://x", key="k", headers={"X-A": "b\r\nX-C: d"})


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(
        DialSettings(url="http://x", key="hush", headers={"a": "hush"}, proxy="http://u:hush@p")
    )
    assert "hush" not in shown


# -- refusals


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_told_as_coderd_tells_it(coderd: FakeCoderd, status: int) -> None:
    body = {
        "message": "No entry.",
        "detail": "Not today.",
        "validations": [{"field": "a", "detail": "too short"}, {"field": "b", "detail": "odd"}],
    }
    coderd.refuse(status, body)
    error = refused(coderd)
    assert str(error) == (
        f"GET {coderd.url}/api/v2/ai-gateway/serve?version=1.4: "
        f"unexpected status code {status}: No entry.\n"
        "\tError: Not today.\n\ta: too short\n\tb: odd"
    )
    assert error.fatal
    assert (error.status, error.message, error.detail) == (status, "No entry.", "Not today.")
    assert [(item.field, item.detail) for item in error.validations] == [
        ("a", "too short"),
        ("b", "odd"),
    ]
    assert len(coderd.requests) == 1


@pytest.mark.parametrize("status", [402, 409, 429, 500, 502, 503])
def test_other_statuses_may_pass(coderd: FakeCoderd, status: int) -> None:
    coderd.refuse(status, {"message": "later"})
    assert not refused(coderd).fatal


def test_an_invalid_key_is_fatal(coderd: FakeCoderd) -> None:
    error = refused(coderd, key="wrong")
    assert error.fatal
    assert str(error).endswith("unexpected status code 401: AI Gateway key invalid.")


def test_a_missing_licence_is_fatal(coderd: FakeCoderd) -> None:
    coderd.refuse(403, {"message": "AI Gateway is a Premium feature."})
    assert refused(coderd).fatal


@pytest.mark.parametrize(
    ("body", "message", "detail"),
    [
        ("<html>Bad\n Gateway</html>", 'unexpected non-JSON response "text/plain', "<html>Bad"),
        (b"\xff\xfe\x00", 'unexpected non-JSON response "text/plain', ""),
        (b"[1, 2]", 'unexpected non-JSON response "text/plain', "[1, 2]"),
        (b'{"error": "no message"}', "the response has no message", '{"error": "no message"}'),
        (b'{"message": 7}', "the response has no message", ""),
        (b"", 'unexpected non-JSON response "text/plain', ""),
        (b"x" * 5000, 'unexpected non-JSON response "text/plain', "x" * 512 + "..."),
    ],
)
def test_an_answer_that_is_not_coderds_keeps_its_status(
    coderd: FakeCoderd, body: bytes | str, message: str, detail: str
) -> None:
    coderd.refuse(502, body)
    error = refused(coderd)
    assert error.status == 502
    assert error.message.startswith(message)
    assert error.detail.startswith(detail)
    assert "\n" not in error.detail


@pytest.mark.parametrize("validations", ["x", [1, "y"], [{"field": 3}], {"field": "a"}])
def test_validations_of_another_shape_do_no_harm(coderd: FakeCoderd, validations: Any) -> None:
    coderd.refuse(400, {"message": "m", "validations": validations})
    assert refused(coderd).message == "m"


def test_a_chunked_answer_is_read(coderd: FakeCoderd) -> None:
    coderd.refuse_with(
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n"
        b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"message\r\n8\r\n": "no"}\r\n0\r\n\r\n'
    )
    assert refused(coderd).message == "no"


def test_an_answer_that_ends_with_the_connection_is_read(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b'HTTP/1.0 401 Unauthorized\r\n\r\n{"message": "who?"}')
    assert refused(coderd).message == "who?"


def test_an_answer_that_breaks_off_keeps_its_status(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b'HTTP/1.1 503 Busy\r\nContent-Length: 500\r\n\r\n{"message": "ha')
    error = refused(coderd)
    assert error.status == 503
    assert error.detail == '{"message": "ha'


def test_an_answer_in_an_unknown_http_keeps_its_status(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b"HTTP/9.9 500 What\r\n\r\n")
    error = refused(coderd)
    assert error.status == 500
    assert error.message == 'unexpected non-JSON response ""'


def test_an_endless_answer_is_given_up(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b"HTTP/1.1 500 No\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (1 << 18))
    assert refused(coderd).status == 500


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 101 Sure\r\n\r\n",
        b"HTTP/1.1 101 Sure\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IHRoaXM=\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBroken\r\n",
        b"\xff\xff\xff\xff",
    ],
)
def test_an_answer_that_is_no_http_is_a_dial_error(coderd: FakeCoderd, answer: bytes) -> None:
    coderd.refuse_with(answer)
    with pytest.raises(DialError) as caught:
        Dialer(settings(coderd)).dial()
    assert not caught.value.fatal
    assert str(caught.value).startswith(f"GET {coderd.url}/api/v2/ai-gateway/serve?version=1.4: ")


def test_a_server_that_says_nothing_is_given_up(coderd: FakeCoderd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "timed out" in str(unreachable(coderd, url=url, timeout=0.2))


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


def test_nothing_is_read_after_the_time_is_over() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"late")
        with pytest.raises(TimeoutError):
            wrap(ours, time.monotonic() - 1.0).recv(1)


def test_a_library_that_takes_a_redirect_for_an_upgrade_is_seen_through(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket.WebSocket, "connect", lambda self, *args, **options: None)
    assert str(unreachable(coderd)).endswith(": no upgrade")


def test_a_server_that_drips_is_given_up(coderd: FakeCoderd) -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    peer.sendall(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert "timed out" in str(unreachable(coderd, url=url, timeout=0.3))
        stop.set()
        thread.join()


def test_nobody_listening_is_a_dial_error(coderd: FakeCoderd) -> None:
    coderd.stop()
    error = unreachable(coderd)
    assert not error.fatal
    assert "refused" in str(error)


# -- paths and versions


def test_the_older_path_is_tried_when_the_newer_is_missing(coderd: FakeCoderd) -> None:
    coderd.paths = ("/api/v2/aibridge/serve",)
    with dialled(coderd):
        pass
    assert [request.path for request in coderd.requests] == [
        "/api/v2/ai-gateway/serve",
        "/api/v2/aibridge/serve",
    ]


def test_neither_path_is_fatal(coderd: FakeCoderd) -> None:
    coderd.paths = ()
    error = refused(coderd)
    assert error.fatal
    assert "/api/v2/ai-gateway/serve" in str(error)
    assert len(coderd.requests) == 2


def test_the_older_path_may_refuse_too(coderd: FakeCoderd) -> None:
    coderd.paths = ("/api/v2/aibridge/serve",)
    error = refused(coderd, key="wrong")
    assert error.status == 401


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_an_older_coderd_is_spoken_to_in_its_version(coderd: FakeCoderd, version: str) -> None:
    coderd.version = version
    with dialled(coderd) as (_, agreed):
        assert str(agreed) == version
    assert [request.target.partition("=")[2] for request in coderd.requests] == ["1.4", version]


def test_an_upgraded_coderd_is_spoken_to_in_the_newer_version(coderd: FakeCoderd) -> None:
    dialer = Dialer(settings(coderd))
    agreed = []
    for version in ("1.0", "1.4"):
        coderd.version = version
        channel, found = dialer.dial()
        channel.release()
        agreed.append(str(found))
    assert agreed == ["1.0", "1.4"]


@pytest.mark.parametrize("version", ["2.0", "0.9", "1.4", "1.9", "one.two", "1", "1.-2", ""])
def test_a_version_that_cannot_be_agreed_on_is_fatal(coderd: FakeCoderd, version: str) -> None:
    coderd.refuse(
        400,
        {
            "message": "Incompatible or unparsable version",
            "validations": [{"field": "server_api_version", "detail": version}],
        },
    )
    error = refused(coderd)
    assert error.fatal
    assert len(coderd.requests) == 1


def test_versions_say_what_they_have() -> None:
    assert not ApiVersion(1, 0).has_providers
    assert not ApiVersion(1, 0).may_have_budgets
    assert ApiVersion(1, 1).has_providers
    assert ApiVersion(1, 1).may_have_budgets
    assert not ApiVersion(1, 1).has_watch
    assert ApiVersion(1, 2).has_watch
    assert not ApiVersion(1, 3).has_model_authorization
    assert ApiVersion(1, 4).has_model_authorization


# -- redirects


def redirect(location: str, status: int = 307) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_redirect_on_the_same_host_is_followed(coderd: FakeCoderd) -> None:
    with FakeCoderd() as other:
        target = f"{other.url}/api/v2/ai-gateway/serve?version=1.4"
        coderd.refuse_with(redirect(target))
        with dialled(coderd):
            assert len(other.requests) == 1


@pytest.mark.parametrize(
    "location", ["http://evil.example/steal", "ftp://127.0.0.1/", "", "http://[::"]
)
def test_the_key_is_not_taken_to_another_host(coderd: FakeCoderd, location: str) -> None:
    coderd.refuse_with(redirect(location))
    error = refused(coderd)
    assert error.status == 307
    assert not error.fatal
    assert error.message == f"redirected to {location or 'nowhere'}"


def test_redirects_do_not_go_on_for_ever(coderd: FakeCoderd) -> None:
    coderd.refuse_with(redirect("/api/v2/ai-gateway/serve"))
    assert refused(coderd).status == 307
    assert len(coderd.requests) == 4


# -- TLS


class Authority:
    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.ca_file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)

    def server(self, *, client_ca: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        if client_ca is not None:
            client_ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_files(self) -> tuple[str, str]:
        leaf = self.ca.issue_cert("gateway.example")
        cert, key = self.folder / "client.pem", self.folder / "client.key"
        leaf.cert_chain_pems[0].write_to_path(cert)
        leaf.private_key_pem.write_to_path(key)
        return str(cert), str(key)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def echo_through(coderd: FakeCoderd, channel: Channel) -> None:
    """A yamux ping and its answer."""
    channel.send(bytes.fromhex("000200010000000000000007"))
    assert channel.receive() == bytes.fromhex("000200020000000000000007")


def test_a_private_authority_is_trusted(authority: Authority) -> None:
    with (
        FakeCoderd(tls=authority.server()) as coderd,
        dialled(coderd, ca_file=authority.ca_file) as (channel, _),
    ):
        echo_through(coderd, channel)


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
            echo_through(coderd, channel)
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
            channel.send(ping * 1000)
        reader.join()
        assert len(received) == total


def test_a_tls_socket_that_says_it_sent_nothing_is_waited_for() -> None:
    """As gevent's does when it would have to wait."""

    class Shy(socket.socket):
        answers: ClassVar = [0, 0, 3]

        def send(self, data: bytes) -> int:  # type: ignore[override]
            return int(self.answers.pop(0))

    near, far = socket.socketpair()
    shy = Shy(fileno=near.detach())
    with shy, far:
        assert TlsWire(shy, time.monotonic() + 10.0).send(b"abc") == 3
        assert shy.answers == []


# -- proxies


@contextlib.contextmanager
def proxy(authorization: str = "") -> Iterator[tuple[str, list[str]]]:
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


def test_the_environments_proxy_is_used(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as (address, heads):
        monkeypatch.setenv("http_proxy", f"http://{address}")
        with dialled(coderd) as (channel, _):
            echo_through(coderd, channel)
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{coderd.port} HTTP/1.1\r\n")


def test_the_environments_exceptions_are_heeded(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
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
            echo_through(coderd, channel)
        with FakeCoderd(tls=authority.server()) as secure:
            tls = {"ca_file": authority.ca_file, "proxy": f"http://user:p%20w@{address}"}
            with dialled(secure, **tls) as (channel, _):
                echo_through(secure, channel)
        assert "407" in str(unreachable(coderd, proxy=f"http://{address}"))
    assert len(heads) == 3


def test_no_proxy_may_be_asked_for(coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with dialled(coderd, proxy=""):
        pass


# -- the byte stream


def frames(*parts: tuple[int, bytes, bool]) -> bytes:
    return b"".join(encode_frame(opcode, data, fin=fin) for opcode, data, fin in parts)


def test_messages_are_one_stream(coderd: FakeCoderd) -> None:
    coderd.send_after_upgrade(
        frames(
            (2, b"one", True),
            (2, b"", True),
            (10, b"pong", True),
            (2, b"two", False),
            (0, b"three", False),
            (9, b"ping", True),
            (0, b"four", True),
            (2, b"x" * 262144, True),
        )
    )
    with dialled(coderd) as (channel, _):
        assert [channel.receive() for _ in range(4)] == [b"one", b"two", b"three", b"four"]
        assert channel.receive() == b"x" * 262144
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        echo_through(coderd, channel)
        assert coderd.connections[0].pongs == 1


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9"])
def test_a_normal_close_is_the_end(coderd: FakeCoderd, payload: bytes) -> None:
    coderd.send_after_upgrade(encode_frame(8, payload))
    with dialled(coderd) as (channel, _):
        assert channel.receive() == b""


def test_a_connection_that_is_just_closed_is_the_end(coderd: FakeCoderd) -> None:
    with dialled(coderd) as (channel, _):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.cut_connections()
        assert channel.receive() == b""


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (encode_frame(8, b"\x03\xf3sorry"), "closed with 1011: sorry"),
        (encode_frame(1, b"text"), "a text message"),
        (encode_frame(0, b"continued"), "mixed up"),
        (encode_frame(2, b"a", fin=False) + encode_frame(2, b"b"), "mixed up"),
        (encode_frame(2, b"x" * 262145), "262145 bytes, at most 262144"),
        (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "9223372036854775807 bytes"),
        (b"\xf2\x00", "rsv"),
        (b"\x83\x00", "opcode"),
        (b"\x09\x00", "ping"),
        (encode_frame(8, b"\x03"), "close frame"),
    ],
)
def test_what_is_no_byte_stream_is_an_error(coderd: FakeCoderd, raw: bytes, text: str) -> None:
    coderd.send_after_upgrade(raw)
    with dialled(coderd) as (channel, _), pytest.raises(ChannelError, match=f"(?i){text}"):
        list(iter(channel.receive, b""))


@pytest.mark.parametrize("end", [Channel.abort, Channel.close])
def test_a_receive_that_waits_returns_when_the_channel_ends(
    coderd: FakeCoderd, end: Callable[[Channel], None]
) -> None:
    with dialled(coderd) as (channel, _):
        got = []
        reader = threading.Thread(target=lambda: got.append(channel.receive()))
        reader.start()
        end(channel)
        reader.join(10.0)
        assert got == [b""]
        assert channel.receive() == b""
        with pytest.raises(ChannelError, match="send"):
            channel.send(b"x" * 100_000)


def test_a_reset_is_an_error_until_we_have_ended_ourselves(coderd: FakeCoderd) -> None:
    with dialled(coderd) as (channel, _):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.cut_connections(reset=True)
        with pytest.raises(ChannelError, match=r"receive: .*reset"):
            list(iter(channel.receive, b""))
    with dialled(coderd) as (channel, _):
        channel.abort()
        channel.release()
        assert channel.receive() == b""


def wait_until_full(sock: socket.socket) -> None:
    """Wait until nothing more fits; buffers grow, so a moment of being full is not enough."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    deadline = time.monotonic() + 10.0
    full_since = time.monotonic()
    while time.monotonic() - full_since < 0.2:
        if poll.poll(0):
            full_since = time.monotonic()
        assert full_since < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("tls", [False, True])
def test_a_send_that_waits_returns_when_the_channel_ends(authority: Authority, tls: bool) -> None:
    with (
        FakeCoderd(tls=authority.server() if tls else None) as coderd,
        dialled(coderd, ca_file=authority.ca_file) as (channel, _),
    ):
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        coderd.stall()
        sent = []
        failed = threading.Event()

        def write() -> None:
            try:
                while True:
                    channel.send(b"x" * 262144)
                    sent.append(1)
            except ChannelError:
                failed.set()

        writer = threading.Thread(target=write)
        writer.start()
        # The peer reads nothing: at some point the send has to wait.  Closing says goodbye
        # only if it can, and ends the send in any case.
        wait_until_full(channel._wire.sock)
        channel.close()
        assert failed.wait(10.0)
        writer.join()
        coderd.resume()
