"""TLS towards clients: what is served, and which files stop the start."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
from cryptography.hazmat.primitives import serialization
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _files(folder: Path, authority: trustme.CA) -> tuple[Path, Path]:
    issued = authority.issue_cert("127.0.0.1")
    folder.mkdir(parents=True, exist_ok=True)
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    return folder / "tls.crt", folder / "tls.key"


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def address(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
    authority: trustme.CA,
) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = _files(folder, authority)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--worker-class", request.param]
    gateway = GatewayProcess(folder / "gw", [Upstream("anthropic", provider.url)], options)
    gateway.start(ready=False)
    try:
        host, port = gateway.url.removeprefix("http://").split(":")
        ready = f"https://{host}:{port}/readyz"
        wait_until(
            lambda: requests.get(ready, verify=str(folder / "ca.pem"), timeout=10).ok, "it serves"
        )
        yield host, int(port)
        gateway.stop()
    finally:
        gateway.kill()


def _handshake(
    address: tuple[str, int], authority: trustme.CA, version: ssl.TLSVersion
) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    # What OpenSSL would not even offer otherwise.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return connection.version()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_from_1_2_on_is_served(
    address: tuple[str, int], authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    assert _handshake(address, authority, version) == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
def test_older_tls_is_refused_by_the_gateway(
    address: tuple[str, int], authority: trustme.CA, name: str
) -> None:
    with pytest.raises(ssl.SSLError) as caught:
        _handshake(address, authority, ssl.TLSVersion[name])
    assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


def test_a_client_that_speaks_no_tls_disturbs_nobody(
    address: tuple[str, int], authority: trustme.CA
) -> None:
    with (
        socket.create_connection(address, timeout=10) as plain,
        contextlib.suppress(ConnectionResetError),
    ):
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n")
        assert b"200 OK" not in plain.recv(1000)
    assert _handshake(address, authority, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


def _with_passphrase(key: Path) -> None:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def _of_another(key: Path) -> None:
    _, other = _files(key.parent / "other", trustme.CA())
    other.replace(key)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (Path.unlink, r'serve: --tls-key-file: ".*": No such file'),
        (lambda key: key.write_text("no key"), "serve: cannot use --tls-cert-file .* with"),
        (_of_another, "KEY_VALUES_MISMATCH"),
        (_with_passphrase, "the key has a passphrase"),
    ],
)
def test_a_bad_file_stops_the_start(
    tmp_path: Path, provider: ScriptedProvider, authority: trustme.CA, spoil, text: str
) -> None:
    certificate, key = _files(tmp_path, authority)
    spoil(key)
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    gateway = GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)], options)
    with pytest.raises(AssertionError, match=text):
        gateway.start()


def test_a_bad_file_for_the_deployment_stops_the_start(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    options = ["--url", "https://127.0.0.1:9", "--key", "k"]
    options += ["--client-tls-ca-file", str(tmp_path / "missing.pem")]
    gateway = GatewayProcess(
        tmp_path / "gw", [Upstream("anthropic", provider.url)], options, local=False
    )
    with pytest.raises(AssertionError, match=r"--client-tls-ca-file: .* No such file"):
        gateway.start()
