"""Settings: flags, environment and YAML, read by one table.

``load`` (or ``load_from_argv``) makes a :class:`Settings`; ``read_providers`` and
``build_providers`` make what the provider actors need from its ``provider_environ``.
"""

from __future__ import annotations

from aigateway.http.settings._option import Option, OptionWarning, Source
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.loading import examine, load, load_from_argv
from aigateway.http.settings.provider_build import (
    ProviderOutcome,
    all_failed,
    build_providers,
    finish_providers,
    provider_outcomes,
    provider_warnings,
)
from aigateway.http.settings.provider_entry import ProviderEntry
from aigateway.http.settings.provider_env import ProviderList, read_providers
from aigateway.http.settings.table import OPTIONS, Settings

__all__ = [
    "OPTIONS",
    "Option",
    "OptionWarning",
    "ProviderEntry",
    "ProviderList",
    "ProviderOutcome",
    "Settings",
    "SettingsError",
    "Source",
    "all_failed",
    "build_providers",
    "examine",
    "finish_providers",
    "load",
    "load_from_argv",
    "provider_outcomes",
    "provider_warnings",
    "read_providers",
]
