"""Fixtures for the tests of providers."""

from __future__ import annotations

import pytest
from imitation_provider import ScriptedProvider


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigateway.actors.providers.pauses.FIRST_PAUSE", 0.005)
    monkeypatch.setattr("aigateway.actors.providers.pauses.PAUSE_JITTER", 0.01)


@pytest.fixture
def other_provider():
    with ScriptedProvider() as provider:
        yield provider
