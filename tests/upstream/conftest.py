"""Fixtures for the tests of the one HTTP client."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest
import trustme
from imitation_provider import ScriptedProvider

from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.endpoint import Endpoint
from aigateway.actors.upstream.kept import KeptConnection


@pytest.fixture
def keeping() -> Iterator[Callable[[int], KeptConnection]]:
    """Makes connections to ports, which are closed at the end."""
    made = []

    def make(port: int) -> KeptConnection:
        made.append(KeptConnection(Connector(Endpoint("http", "127.0.0.1", port), timeout=5.0)))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


@pytest.fixture
def kept(scripted_provider: ScriptedProvider, keeping) -> KeptConnection:
    return keeping(scripted_provider.port)


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
