"""The systems that are measured, in the order of the report."""

from __future__ import annotations

from bench.systems.aigateway import AiGateway
from bench.systems.base import Running, StartFailed, Surroundings, System
from bench.systems.direct import Direct
from bench.systems.litellm import LiteLlm
from bench.systems.nginx import Nginx
from bench.systems.portkey import Portkey

__all__ = ["Running", "StartFailed", "Surroundings", "System", "all_systems"]


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
