"""The systems that are measured, in the order of the report."""

from __future__ import annotations

from bench.systems.aigateway import AiGateway
from bench.systems.base import Running, StartFailed, Surroundings, System
from bench.systems.direct import Direct
from bench.systems.litellm import LiteLlm
from bench.systems.nginx import Nginx
from bench.systems.portkey import Portkey
from bench.systems.revision import (
    Interpreter,
    Revision,
    UnknownPython,
    UnknownRevision,
    commit_of,
)

__all__ = [
    "Interpreter",
    "Revision",
    "Running",
    "StartFailed",
    "Surroundings",
    "System",
    "UnknownPython",
    "UnknownRevision",
    "all_systems",
    "commit_of",
]


def all_systems(
    planes: tuple[str, ...] = ("local",), options: tuple[str, ...] = ()
) -> list[System]:
    """Each system once; aigateway once per control plane, started with ``options`` too."""
    return [
        Direct(),
        Nginx(),
        *(AiGateway(plane, options) for plane in planes),
        Portkey(),
        Portkey(clustered=True),
        LiteLlm(),
    ]
