"""Fixtures to be imported by a conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ._imitate import imitate
from ._server import ScriptedProvider

__all__ = ["imitation_provider", "scripted_provider"]


@pytest.fixture
def scripted_provider() -> Iterator[ScriptedProvider]:
    """A provider that does what the test plays; fails the test when a script failed."""
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def imitation_provider() -> Iterator[ScriptedProvider]:
    """A provider that answers SDKs as Anthropic and OpenAI would; scripts played come first."""
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider
