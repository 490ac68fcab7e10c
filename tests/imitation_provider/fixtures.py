"""Fixtures to be imported by a conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ._server import ScriptedProvider

__all__ = ["scripted_provider"]


@pytest.fixture
def scripted_provider() -> Iterator[ScriptedProvider]:
    """A provider that does what the test plays; fails the test when a script failed."""
    with ScriptedProvider() as provider:
        yield provider
