"""Clients of SDKs that a test makes and does not close itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

import pytest


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)

_open: list[_Closable] = []


def closed_later(client: C) -> C:
    """The same client; it is closed at the end of the test."""
    _open.append(client)
    return client


@pytest.fixture(autouse=True)
def sdk_clients() -> Iterator[None]:
    """Close what the test has left open: a socket that the collector finds is a warning."""
    yield
    while _open:
        _open.pop().close()
