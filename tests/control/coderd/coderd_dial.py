"""Dialling a coderd for tests, plainly and with TLS."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from fake_coderd import FakeCoderd

from aigateway.actors.control.coderd._channel import Channel
from aigateway.actors.control.coderd.dial import Dialer, DialError, DialSettings, UpgradeRefused
from aigateway.actors.control.coderd.versions import ApiVersion

__all__ = ["Authority", "dialled", "echo_through", "refused", "settings", "unreachable"]


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


def echo_through(channel: Channel) -> None:
    """A yamux ping and its answer."""
    assert channel.send_now(bytes.fromhex("000200010000000000000007"))
    assert channel.receive() == bytes.fromhex("000200020000000000000007")


class Authority:
    """A certificate authority of one's own."""

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
