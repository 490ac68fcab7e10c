"""TLS and proxies on the way to an upstream."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import select
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from imitation_provider import ScriptedProvider, WaitFor, answer
from provider_rig import PATIENCE, running, until
from upstream_rig import closed_port, connect, listening

from aigateway.actors.control.coderd.dial import DialSettings
from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.errors import ConnectFailed, ConnectTimeout


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


@pytest.fixture
def strict_python(monkeypatch):
    """What Python does since 3.13."""
    make = ssl.create_default_context

    def strict(*args, **kwargs):
        context = make(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


def _company(folder):
    """A company's own authority, made as its handbook said ten years ago, and a certificate of
    it: no basicConstraints that are critical, no key identifiers."""
    now = datetime.datetime.now(datetime.UTC)

    def issue(name, key, by, extension):
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            key.public_key(),
            x509.random_serial_number(),
            now - datetime.timedelta(days=1),
            now + datetime.timedelta(days=1),
        )
        return builder.add_extension(extension, critical=False)

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    root = issue("Company", root_key, "Company", constraints).sign(root_key, hashes.SHA256())
    name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = issue("gateway", key, "Company", name).sign(root_key, hashes.SHA256())
    authorities, chain = folder / "company.pem", folder / "leaf.pem"
    authorities.write_bytes(root.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(leaf.public_bytes(Encoding.PEM) + private)
    return str(authorities), str(chain)


def test_an_authority_that_python_finds_too_lax_is_trusted_all_the_same(tmp_path, strict_python):
    authorities, chain = _company(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    with (
        ScriptedProvider(tls=context) as provider,
        running(provider.url, ca_file=authorities) as rig,
    ):
        provider.otherwise = answer("ok")
        assert rig.call() == (200, b"ok")


def test_that_holds_for_a_coder_deployment_too(tmp_path, strict_python):
    authorities, _ = _company(tmp_path)
    context = DialSettings(url="https://coder.example", key="k", ca_file=authorities).tls_context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode == ssl.CERT_REQUIRED


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
        (b"HTTP/1.1 2" + b"x" * 20000, "what the proxy answered has no end"),
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
