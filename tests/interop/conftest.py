"""Fixtures for tests against the Go peer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from go_peer import GoPeer


@pytest.fixture(scope="session")
def go_peer_process() -> Iterator[GoPeer]:
    with GoPeer() as peer:
        yield peer


@pytest.fixture
def go_peer(go_peer_process: GoPeer) -> GoPeer:
    """A peer in its state at start; one process serves all tests."""
    go_peer_process.reset()
    return go_peer_process
