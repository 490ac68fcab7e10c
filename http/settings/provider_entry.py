"""One provider as its variables say it, before it is known what it needs to run."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from aigateway.actors.values.provider_config import BedrockConfig, KeyCommand, VertexConfig

__all__ = ["KEY_LISTS", "NAME_PATTERN", "SECRET_FIELDS", "ProviderEntry"]

NAME_PATTERN = "^[a-z0-9]+(-[a-z0-9]+)*$"

KEY_LISTS = {
    "KEY": "keys",
    "BEDROCK_ACCESS_KEY": "bedrock_access_keys",
    "BEDROCK_ACCESS_KEY_SECRET": "bedrock_access_key_secrets",
}
"""Singular field: attribute of the list; the plural form adds an S."""

SECRET_FIELDS = frozenset(
    {"BEDROCK_BEARER_TOKEN"} | {f"{name}{s}" for name in KEY_LISTS for s in ("", "S")}
)
"""Those that hold secrets, which may also be in files or said by commands."""


@frozen(kw_only=True)
class ProviderEntry:
    """One provider as configured; what it needs to run is decided by ``build_providers``."""

    name: str
    type: str
    base_url: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    key_command: KeyCommand | None = None
    bedrock: BedrockConfig | None = None
    vertex: VertexConfig | None = None
    fallback: tuple[str, ...] = ()
    extras: Mapping[str, object] = field(factory=dict)
    """Values that replace a common setting for this provider: attribute of ProviderConfig
    and value."""
    error: str | None = None
    prefix: str = ""
    """What the names of its variables begin with, for error texts."""
    enabled: bool = True
