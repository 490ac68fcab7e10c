"""Which providers the environment configures: one pure function, :func:`read_providers`.

Two ways lead into one neutral list, sorted by name: the names for a single provider of each
kind (``CODER_AI_GATEWAY_OPENAI_KEY`` …, the older way) and the indexed ones
(``CODER_AI_GATEWAY_PROVIDER_0_TYPE`` …).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from aigateway.actors.values.provider_config import BedrockConfig, KeyCommand
from aigateway.http.settings._indexed_env import read_indexed
from aigateway.http.settings._kinds import MODELS
from aigateway.http.settings._option import OptionWarning
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.provider_entry import ProviderEntry
from aigateway.http.settings.table import OPTIONS

__all__ = ["ProviderList", "read_providers"]

_SINGLE = {row.name: row for row in OPTIONS if row.group == "Single provider"}


@frozen
class ProviderList:
    """The neutral list and what is worth a warning; each warning names its variable."""

    entries: tuple[ProviderEntry, ...] = ()
    warnings: tuple[OptionWarning, ...] = ()


def read_providers(
    environ: Mapping[str, str], commands: Mapping[str, KeyCommand] | None = None
) -> ProviderList:
    """Read all providers that ``environ`` configures; none is a valid answer.

    ``commands`` say a key again, by its variable.
    Raises SettingsError when it is unclear which providers are meant.  A provider that is
    wrong by itself has ``error`` set.
    """
    commands = commands or {}
    indexed, warnings = read_indexed(environ, commands)
    single = _single_values(environ)
    if single["anthropic_key"] and _single_bedrock(single):
        raise SettingsError(
            "CODER_AIBRIDGE_ANTHROPIC_KEY and CODER_AIBRIDGE_BEDROCK_* are mutually exclusive"
        )
    entries = {entry.name: entry for entry in _from_single(single, commands)}
    for entry in indexed:
        if entry.name in entries:
            raise SettingsError(
                f'indexed AI provider "{entry.name}" conflicts with the legacy env var of the '
                "same name; remove one or the other"
            )
    entries.update((entry.name, entry) for entry in indexed)
    return ProviderList(tuple(entries[name] for name in sorted(entries)), tuple(warnings))


# -- single providers


def _single_values(environ: Mapping[str, str]) -> dict[str, str]:
    def first(names: Iterable[str]) -> str:
        return next((environ[name] for name in names if environ.get(name)), "")

    return {name: first((*row.envs, *row.old_envs)) or row.default for name, row in _SINGLE.items()}


def _single_bedrock(single: Mapping[str, str]) -> bool:
    names = ("base_url", "region", "access_key", "access_key_secret")
    return any(single[f"bedrock_{name}"] for name in names)


def _from_single(
    single: Mapping[str, str], commands: Mapping[str, KeyCommand]
) -> Iterable[ProviderEntry]:
    if single["openai_key"]:
        yield ProviderEntry(
            name="openai",
            type="openai",
            base_url=single["openai_base_url"],
            keys=(single["openai_key"],),
            key_command=_single_command("openai_key", commands),
            prefix="CODER_AI_GATEWAY_OPENAI_",
            **_single_models(single, "openai_models"),
        )
    if _single_bedrock(single):
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
            key_command=_single_command("anthropic_key", commands),
            prefix="CODER_AI_GATEWAY_ANTHROPIC_",
            **_single_models(single, "anthropic_models"),
        )


def _single_command(option: str, commands: Mapping[str, KeyCommand]) -> KeyCommand | None:
    row = _SINGLE[option]
    return next(filter(None, map(commands.get, (*row.envs, *row.old_envs))), None)


def _single_models(single: Mapping[str, str], option: str) -> dict[str, Any]:
    """The list of models as fields of a ProviderEntry, or what is wrong with it."""
    try:
        models = MODELS.read(single.get(option, ""))
    except ValueError as ex:
        return {"error": f"{_SINGLE[option].envs[0]} {ex}"}
    return {"extras": {"models": models}} if models is not None else {}
