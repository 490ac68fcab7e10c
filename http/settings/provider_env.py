"""Which providers the environment configures: one pure function, :func:`read_providers`.

Two ways lead into one neutral list, sorted by name: the names for a single provider of each
kind (``CODER_AI_GATEWAY_OPENAI_KEY`` …, the older way) and the indexed ones
(``CODER_AI_GATEWAY_PROVIDER_0_TYPE`` …).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from aigateway.actors.values.provider_config import PROVIDER_TYPES, BedrockConfig
from aigateway.http.settings._indexed_env import IndexedProvider, read_indexed
from aigateway.http.settings._kinds import MODELS
from aigateway.http.settings._option import OptionWarning
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.table import OPTIONS

__all__ = ["NAME_PATTERN", "ProviderEntry", "ProviderList", "normalise", "read_providers"]

NAME_PATTERN = "^[a-z0-9]+(-[a-z0-9]+)*$"

_SINGLE = {row.name: row for row in OPTIONS if row.group == "Single provider"}


@frozen(kw_only=True)
class ProviderEntry:
    """One provider as configured; what it needs to run is decided by ``build_providers``."""

    name: str
    type: str
    base_url: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    bedrock: BedrockConfig | None = None
    fallback: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(factory=dict)
    error: str | None = None
    prefix: str = ""
    """What the names of its variables begin with, for error texts."""
    enabled: bool = True

    def canonical_hash(self) -> str:
        """Equal for entries that reach the same account in the same way.

        Models do not count, neither does the order of keys.
        """
        keys = hashlib.sha256()
        for key in sorted(self.keys):
            keys.update(key.encode() + b"\0")
        region = ""
        if self.bedrock is not None:
            region = self.bedrock.region
            for text in (
                self.bedrock.access_key,
                self.bedrock.access_key_secret,
                self.bedrock.bearer_token,
            ):
                keys.update(text.encode() + b"\0")
        parts = (self.type, self.base_url, region, keys.hexdigest())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@frozen
class ProviderList:
    """The neutral list and what is worth a warning; each warning names its variable."""

    entries: tuple[ProviderEntry, ...] = ()
    warnings: tuple[OptionWarning, ...] = ()


def read_providers(environ: Mapping[str, str]) -> ProviderList:
    """Read all providers that ``environ`` configures; none is a valid answer.

    Raises SettingsError when it is unclear which providers are meant.  A provider that is
    wrong by itself has ``error`` set.
    """
    indexed, warnings = read_indexed(environ)
    single = _single_values(environ)
    if single["anthropic_key"] and _single_bedrock(single):
        raise SettingsError(
            "CODER_AIBRIDGE_ANTHROPIC_KEY and CODER_AIBRIDGE_BEDROCK_* are mutually exclusive"
        )
    listed = normalise(single, indexed)
    return evolve(listed, warnings=(*warnings, *listed.warnings))


def normalise(single: Mapping[str, str], indexed: Sequence[IndexedProvider]) -> ProviderList:
    """Bring both ways together: sorted by name, each name once.

    ``single`` holds the single-provider values by option name.  Raises SettingsError when two
    providers claim one name.
    """
    warnings: list[OptionWarning] = []
    entries = {entry.name: entry for entry in _from_single(single, warnings)}
    single_names = frozenset(entries)
    for provider in indexed:
        entry = _from_indexed(provider, warnings)
        if entry is None:
            continue
        if entry.name in single_names:
            raise SettingsError(
                f'indexed AI provider "{entry.name}" conflicts with the legacy env var of the '
                "same name; remove one or the other"
            )
        known = entries.setdefault(entry.name, entry)
        if known.canonical_hash() != entry.canonical_hash():
            raise SettingsError(
                f'duplicate AI provider name "{entry.name}" with conflicting fields'
            )
    ordered = tuple(entries[name] for name in sorted(entries))
    return ProviderList(ordered, tuple(warnings))


# -- single providers


def _single_values(environ: Mapping[str, str]) -> dict[str, str]:
    def first(names: Iterable[str]) -> str:
        return next((environ[name] for name in names if environ.get(name)), "")

    return {name: first((*row.envs, *row.old_envs)) or row.default for name, row in _SINGLE.items()}


def _single_bedrock(single: Mapping[str, str]) -> bool:
    names = ("base_url", "region", "access_key", "access_key_secret")
    return any(single[f"bedrock_{name}"] for name in names)


def _from_single(
    single: Mapping[str, str], warnings: list[OptionWarning]
) -> Iterable[ProviderEntry]:
    if single["openai_key"]:
        yield ProviderEntry(
            name="openai",
            type="openai",
            base_url=single["openai_base_url"],
            keys=(single["openai_key"],),
            prefix="CODER_AI_GATEWAY_OPENAI_",
            **_single_models(single, "openai_models"),
        )
    if _single_bedrock(single):
        if single["anthropic_key"]:
            text = (
                "ignoring legacy Anthropic API key because Bedrock credentials are configured; "
                "Bedrock authenticates via access keys or credential chain"
            )
            warnings.append(OptionWarning(text, _SINGLE["anthropic_key"].envs[0]))
        yield ProviderEntry(
            name="anthropic",
            type="bedrock",
            base_url=single["bedrock_base_url"],
            bedrock=BedrockConfig(
                region=single["bedrock_region"],
                access_key=single["bedrock_access_key"],
                access_key_secret=single["bedrock_access_key_secret"],
                model=single["bedrock_model"],
                small_fast_model=single["bedrock_small_fast_model"],
            ),
            prefix="CODER_AI_GATEWAY_",
            **_single_models(single, "bedrock_models"),
        )
    elif single["anthropic_key"]:
        yield ProviderEntry(
            name="anthropic",
            type="anthropic",
            base_url=single["anthropic_base_url"],
            keys=(single["anthropic_key"],),
            prefix="CODER_AI_GATEWAY_ANTHROPIC_",
            **_single_models(single, "anthropic_models"),
        )


def _single_models(single: Mapping[str, str], option: str) -> dict[str, Any]:
    """The list of models as fields of a ProviderEntry, or what is wrong with it."""
    try:
        models = MODELS.read(single.get(option, ""))
    except ValueError as ex:
        return {"error": f"{_SINGLE[option].envs[0]} {ex}"}
    return {"extras": {"models": models}} if models is not None else {}


# -- indexed providers


def _from_indexed(p: IndexedProvider, warnings: list[OptionWarning]) -> ProviderEntry | None:
    name = p.name or p.type
    base = ProviderEntry(
        name=name or f"provider-{p.index}",
        type=p.type,
        base_url=p.base_url,
        keys=p.keys,
        fallback=tuple(filter(None, (part.strip() for part in p.fallback.split(",")))),
        extras=p.extras,
        prefix=p.prefix,
        error=p.error,
    )
    if p.error is not None:
        return base
    if not name:
        return evolve(base, error="indexed AI provider must have a name or type")
    if not re.fullmatch(NAME_PATTERN, name):
        text = f'invalid AI provider name "{name}": must match {NAME_PATTERN}'
        return evolve(base, error=text)
    if p.type not in PROVIDER_TYPES:
        text = "skipping indexed AI provider with unsupported type"
        warnings.append(OptionWarning(text, f"{p.prefix}TYPE"))
        return None
    if p.type in ("anthropic", "bedrock") and p.has_bedrock:
        if p.keys:
            text = (
                "ignoring bearer keys configured on Bedrock AI provider; "
                "Bedrock authenticates via access keys or credential chain"
            )
            warnings.append(OptionWarning(text, f"{p.prefix}KEY"))
        # The generic BASE_URL is dropped even when Bedrock's own is empty.
        return evolve(base, base_url=p.bedrock_base_url, keys=(), bedrock=_bedrock(p))
    if p.type == "copilot" and p.keys:
        text = (
            "ignoring bearer keys configured on Copilot AI provider; "
            "Copilot authenticates via request-time GitHub OAuth tokens"
        )
        warnings.append(OptionWarning(text, f"{p.prefix}KEY"))
        return evolve(base, keys=())
    return base


def _bedrock(p: IndexedProvider) -> BedrockConfig:
    """Only the first pair of access keys is used, as in the reference."""
    return BedrockConfig(
        region=p.bedrock_region,
        access_key=next(iter(p.bedrock_access_keys), ""),
        access_key_secret=next(iter(p.bedrock_access_key_secrets), ""),
        model=p.bedrock_model or _SINGLE["bedrock_model"].default,
        small_fast_model=p.bedrock_small_fast_model or _SINGLE["bedrock_small_fast_model"].default,
        role_arn=p.bedrock_role_arn,
        external_id=p.bedrock_external_id,
        protocol=p.bedrock_protocol or "invoke-model",
        bearer_token=p.bedrock_bearer_token,
        resolved=MODELS.read(p.bedrock_resolved_models),
    )
