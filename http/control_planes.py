"""Which control plane the settings ask for, and how its actor is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pykka

from aigateway.actors.coderd.local import LocalControlPlane
from aigateway.actors.plan import StartControlPlane
from aigateway.http.settings import Settings, SettingsError
from aigateway.http.settings.provider_build import build_providers
from aigateway.http.settings.provider_env import read_providers

__all__ = ["control_plane_starter"]


def control_plane_starter(settings: Settings) -> StartControlPlane:
    """A function that starts the control plane actor.  Raises SettingsError."""
    if settings.local:
        return _local(settings)
    raise SettingsError("the connection to a Coder deployment is not available yet, use --local")


def _local(settings: Settings) -> StartControlPlane:
    providers = build_providers(read_providers(settings.provider_environ).entries, settings)

    def start(role: str, watcher: Any) -> pykka.ActorRef[Any]:
        return LocalControlPlane.start(
            role, watcher, database=Path(settings.local_db), providers=providers
        )

    return start
