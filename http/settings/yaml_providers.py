"""Providers in the YAML file: the fields of numbered ones, under a number each.

::

    ai_gateway:
      providers:
        - type: anthropic
          key_file: /run/secrets/anthropic
        - type: openai
          name: openai-eu
          keys_command: vault kv get -field=keys secret/openai
          models: [gpt-5*, "o*"]

They become the variables of numbered providers, so the same rules hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aigateway.http.settings._indexed_env import FIELDS
from aigateway.http.settings._option import PROVIDER_PREFIXES
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.near import near_names, suggestion
from aigateway.http.settings.provider_entry import SECRET_FIELDS
from aigateway.http.settings.secret_sources import COMPANIONS

__all__ = ["PROVIDERS_KEY", "provider_variables"]

PROVIDERS_KEY: Final = "ai_gateway.providers"
_KNOWN: Final = frozenset(
    name.lower() for name in (*FIELDS, *(f"{s}{c}" for s in SECRET_FIELDS for c in COMPANIONS))
)


def provider_variables(value: object, environ: Mapping[str, str], where: str) -> dict[str, str]:
    """The variables that the list ``value`` stands for; ``where`` names it in errors.

    Raises SettingsError for what is not a list of providers, and where ``environ`` has numbered
    providers as well.
    """
    if value is None:
        return {}
    if not isinstance(value, list):
        raise SettingsError(f"{where} must be a list of providers, each with a type")
    numbered = sorted(name for name in environ if name.startswith(PROVIDER_PREFIXES))
    if numbered and value:
        raise SettingsError(
            f"{where} and {numbered[0]} both configure providers, use one of the two ways"
        )
    return {
        f"{PROVIDER_PREFIXES[0]}{number}_{field.upper()}": text
        for number, entry in enumerate(value)
        for field, text in _fields(entry, f"{where}[{number}]").items()
    }


def _fields(entry: object, where: str) -> dict[str, str]:
    if not isinstance(entry, dict) or not entry:
        raise SettingsError(f"{where} must be a mapping with a type")
    found = {}
    for key, value in entry.items():
        if key not in _KNOWN:
            hint = suggestion([f'"{name}"' for name in near_names(str(key), _KNOWN)])
            raise SettingsError(f'{where}: unknown field "{key}"{hint}')
        found[key] = _text(value, f"{where}.{key}")
    return found


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(item, where) for item in value)
    if isinstance(value, dict):
        raise SettingsError(f"{where} must be a text or a list, it is a mapping")
    return str(value)
