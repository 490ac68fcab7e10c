"""Read ``CODER_AI_GATEWAY_PROVIDER_<N>_<KEY>`` (and the same under the old prefix).

Two kinds of mistakes are told apart.  One that leaves open which providers are meant (a
gap in the numbers, mixed prefixes, a name given twice) raises :class:`SettingsError`.
One inside a single provider becomes its ``error``, and the others are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, evolve, field, frozen

from aigateway.actors.values.provider_config import PROVIDER_TYPES
from aigateway.http.settings._kinds import (
    BOOL,
    DURATION,
    GROUP,
    MODELS,
    PATH,
    TIMEOUT,
    URL,
    Kind,
    whole_number,
)
from aigateway.http.settings._option import ENV_PREFIX, OLD_ENV_PREFIX, OptionWarning
from aigateway.http.settings.errors import SettingsError

__all__ = ["BEARER_TOKEN", "FIELDS", "MAX_KEYS", "SECRET_FIELDS", "IndexedProvider", "read_indexed"]

MAX_KEYS = 5
"""Keys per provider, at most (as in the reference)."""

BEARER_TOKEN = "AWS_BEARER_TOKEN_BEDROCK"
"""AWS's variable with an API key of Bedrock, which its SDKs prefer to signatures."""

_PREFIXES = (f"{ENV_PREFIX}PROVIDER_", f"{OLD_ENV_PREFIX}PROVIDER_")


@frozen(kw_only=True)
class IndexedProvider:
    """What the variables of one index say, checked by themselves."""

    index: int
    prefix: str
    """What its variables begin with, up to and with the index and its underscore."""
    type: str = ""
    name: str = ""
    base_url: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    bedrock_base_url: str = ""
    bedrock_region: str = ""
    bedrock_access_keys: tuple[str, ...] = field(default=(), repr=False)
    bedrock_access_key_secrets: tuple[str, ...] = field(default=(), repr=False)
    bedrock_model: str = ""
    bedrock_small_fast_model: str = ""
    bedrock_role_arn: str = ""
    bedrock_external_id: str = ""
    bedrock_protocol: str = ""
    bedrock_bearer_token: str = field(default="", repr=False)
    bedrock_resolved_models: str = ""
    fallback: str = ""
    extras: Mapping[str, Any] = field(factory=dict)
    """Values that replace a common setting for this provider: attribute of ProviderConfig
    and value."""
    error: str | None = None

    @property
    def has_bedrock(self) -> bool:
        """Models alone do not count: they have defaults."""
        return bool(
            self.bedrock_base_url
            or self.bedrock_region
            or self.bedrock_role_arn
            or self.bedrock_bearer_token
            or any(self.bedrock_access_keys[:1])
            or any(self.bedrock_access_key_secrets[:1])
        )


_TEXTS = frozenset(
    {
        "TYPE",
        "NAME",
        "BASE_URL",
        "BEDROCK_BASE_URL",
        "BEDROCK_REGION",
        "BEDROCK_MODEL",
        "BEDROCK_SMALL_FAST_MODEL",
        "BEDROCK_ROLE_ARN",
        "BEDROCK_EXTERNAL_ID",
        "BEDROCK_PROTOCOL",
        "BEDROCK_BEARER_TOKEN",
        "BEDROCK_RESOLVED_MODELS",
        "FALLBACK",
    }
)
_LISTS = {
    "KEY": "keys",
    "BEDROCK_ACCESS_KEY": "bedrock_access_keys",
    "BEDROCK_ACCESS_KEY_SECRET": "bedrock_access_key_secrets",
}
"""Singular field: attribute of the list; the plural form adds an S."""
_EXTRAS: dict[str, tuple[str, Kind]] = {
    "MODELS": ("models", MODELS),
    "GROUP": ("group", GROUP),
    "MAX_RETRIES": ("max_retries", whole_number()),
    "FALLBACK_AFTER": ("fallback_after", DURATION),
    "KEY_REST_MAX": ("key_rest_max", TIMEOUT),
    "MAX_CONNECTIONS": ("max_connections", whole_number(1)),
    "CONNECT_TIMEOUT": ("connect_timeout", TIMEOUT),
    "FIRST_BYTE_TIMEOUT": ("first_byte_timeout", TIMEOUT),
    "IDLE_TIMEOUT": ("idle_timeout", TIMEOUT),
    "PROXY": ("proxy", URL),
    "NO_KEY": ("no_key", BOOL),
    "STREAM_OPTIONS": ("stream_options", BOOL),
    "KEEPALIVE_PING": ("keepalive_ping", DURATION),
    "CA_FILE": ("ca_file", PATH),
}


_FEDERATION = frozenset(
    {
        "FEDERATION_RULE_ID",
        "ORGANIZATION_ID",
        "IDENTITY_TOKEN_FILE",
        "SERVICE_ACCOUNT_ID",
        "WORKSPACE_ID",
    }
)
"""Anthropic's workload identity federation, which the reference knows: not built here."""

FIELDS = frozenset(_TEXTS | {f"{name}{s}" for name in _LISTS for s in ("", "S")} | _EXTRAS.keys())
"""The names of all fields."""

SECRET_FIELDS = frozenset(
    {"BEDROCK_BEARER_TOKEN"} | {f"{name}{s}" for name in _LISTS for s in ("", "S")}
)
"""Those that hold secrets, which may also be in files or said by commands."""


def read_indexed(
    environ: Mapping[str, str],
) -> tuple[list[IndexedProvider], list[OptionWarning]]:
    """Read the indexed providers, in the order of their numbers.

    Raises SettingsError when the variables do not make a list.
    """
    warnings: list[OptionWarning] = []
    found = [read for p in _PREFIXES if (read := _read_prefix(environ, p, warnings))]
    if len(found) > 1:
        raise SettingsError(
            f"cannot mix {_PREFIXES[1]}* and {_PREFIXES[0]}* environment variables, "
            f"please consolidate onto {_PREFIXES[0]}*"
        )
    providers = [_checked(draft) for draft in found[0]] if found else []
    return _with_names(providers), warnings


@define
class _Draft:
    index: int
    prefix: str
    values: dict[str, Any] = field(factory=dict)
    extras: dict[str, Any] = field(factory=dict)
    errors: list[str] = field(factory=list)
    unclear: bool = False
    """A list was given twice: what else may be wrong with it is not known."""

    def take(self, key: str, variable: str, value: str) -> bool:
        """Store one field; false when there is no field of that name."""
        singular = key.removesuffix("S") if key.removesuffix("S") in _LISTS else ""
        if key in _TEXTS:
            self.values[key.lower()] = value
        elif singular:
            self._take_list(singular, plural=key != singular, value=value)
        elif key in _EXTRAS:
            self._take_extra(key, variable, value)
        elif key in _FEDERATION:
            # Without them the provider would be called in another way than the operator meant.
            self.errors.append(
                f"provider {self.index}: {key}: workload identity federation is not supported by "
                "this gateway, use KEY/KEYS or BEDROCK_* fields instead"
            )
        else:
            return False
        return True

    def _take_list(self, singular: str, *, plural: bool, value: str) -> None:
        attribute = _LISTS[singular]
        if attribute in self.values:
            self.errors.append(
                f"provider {self.index}: {singular} and {singular}S are mutually exclusive, "
                "use one or the other"
            )
            self.unclear = True
            return
        self.values[attribute] = tuple(value.split(",")) if plural else (value,)

    def _take_extra(self, key: str, variable: str, value: str) -> None:
        attribute, kind = _EXTRAS[key]
        if not value:
            return
        try:
            self.extras[attribute] = kind.read(value)
        except ValueError as ex:
            self.errors.append(f"provider {self.index}: {variable} {ex}")


def _read_prefix(
    environ: Mapping[str, str], prefix: str, warnings: list[OptionWarning]
) -> list[_Draft]:
    rows = []
    for variable in environ:
        if not variable.startswith(prefix):
            continue
        number, underscore, key = variable[len(prefix) :].partition("_")
        if not underscore:
            raise SettingsError(f"invalid env var: {variable}")
        if not re.fullmatch(r"[0-9]{1,18}", number):
            raise SettingsError(f"parse number: {variable}")
        rows.append((int(number), key, variable))
    drafts: list[_Draft] = []
    for index, key, variable in sorted(rows):
        if index > len(drafts):
            raise SettingsError(f"provider num {len(drafts)} skipped: {variable}")
        if index == len(drafts):
            drafts.append(_Draft(index, variable[: len(variable) - len(key)]))
        if not drafts[index].take(key.upper(), variable, environ[variable]):
            text = "ignoring unknown AI provider field (check for typos)"
            warnings.append(OptionWarning(text, variable))
    return drafts


# -- the rules for one provider, in the reference's order


class _WrongError(ValueError):
    """What is wrong with one provider."""


def _checked(draft: _Draft) -> IndexedProvider:
    provider = IndexedProvider(
        index=draft.index, prefix=draft.prefix, extras=draft.extras, **draft.values
    )
    errors = list(draft.errors)
    trimmed: dict[str, Any] = {}
    for rule in () if draft.unclear else _RULES:
        try:
            rule(provider)
        except _WrongError as ex:
            errors.append(str(ex))
    for attribute in () if draft.unclear else _LISTS.values():
        try:
            trimmed[attribute] = _checked_keys(provider, getattr(provider, attribute))
        except _WrongError as ex:
            errors.append(str(ex))
    error = "; ".join(dict.fromkeys(errors)) or None
    return evolve(provider, error=error, **({} if error else trimmed))


def _known_type(p: IndexedProvider) -> None:
    if not p.type:
        raise _WrongError(f"provider {p.index}: TYPE is required")
    if p.type not in PROVIDER_TYPES:
        raise _WrongError(
            f'provider {p.index}: unknown TYPE "{p.type}" '
            f"(must be one of: [{' '.join(PROVIDER_TYPES)}])"
        )


def _bedrock_where_it_belongs(p: IndexedProvider) -> None:
    place = f"provider {p.index} ({p.type})"
    if p.has_bedrock and p.type not in ("anthropic", "bedrock"):
        raise _WrongError(
            f'{place}: BEDROCK_* fields are only supported with TYPE "anthropic" or "bedrock"'
        )
    if p.type == "bedrock" and not p.has_bedrock:
        raise _WrongError(f'{place}: TYPE "bedrock" requires BEDROCK_* fields to be configured')


def _keys_where_they_belong(p: IndexedProvider) -> None:
    if not p.keys:
        return
    place = f"provider {p.index} ({p.type})"
    if p.type == "bedrock":
        raise _WrongError(
            f'{place}: KEY/KEYS are not supported for TYPE "bedrock" (use BEDROCK_* fields)'
        )
    if p.type == "copilot":
        raise _WrongError(f'{place}: KEY/KEYS are not supported for TYPE "copilot"')
    if p.type == "anthropic" and p.has_bedrock:
        raise _WrongError(f"{place}: KEY/KEYS and BEDROCK_* fields are mutually exclusive")


def _no_key_where_there_is_none(p: IndexedProvider) -> None:
    if not p.extras.get("no_key"):
        return
    place = f"provider {p.index} ({p.type})"
    if p.keys:
        raise _WrongError(f"{place}: NO_KEY and KEY/KEYS are mutually exclusive, use one of them")
    if p.type in ("bedrock", "copilot") or p.has_bedrock:
        raise _WrongError(f"{place}: NO_KEY is not for Bedrock and Copilot, which want credentials")


def _bedrock_pairs(p: IndexedProvider) -> None:
    keys, secrets = len(p.bedrock_access_keys), len(p.bedrock_access_key_secrets)
    if keys != secrets:
        raise _WrongError(
            f"provider {p.index} ({p.type}): BEDROCK_ACCESS_KEYS count ({keys}) must match "
            f"BEDROCK_ACCESS_KEY_SECRETS count ({secrets})"
        )


def _sound_resolved_models(p: IndexedProvider) -> None:
    try:
        MODELS.read(p.bedrock_resolved_models)
    except ValueError as ex:
        raise _WrongError(
            f"provider {p.index} ({p.type}): {p.prefix}BEDROCK_RESOLVED_MODELS {ex}"
        ) from ex


def _one_way_to_authenticate(p: IndexedProvider) -> None:
    if p.bedrock_bearer_token and (any(p.bedrock_access_keys) or p.bedrock_role_arn):
        raise _WrongError(
            f"provider {p.index} ({p.type}): BEDROCK_BEARER_TOKEN excludes BEDROCK_ACCESS_KEY "
            "and BEDROCK_ROLE_ARN, use one of them"
        )


_RULES: tuple[Callable[[IndexedProvider], None], ...] = (
    _known_type,
    _bedrock_where_it_belongs,
    _keys_where_they_belong,
    _no_key_where_there_is_none,
    _bedrock_pairs,
    _sound_resolved_models,
    _one_way_to_authenticate,
)


def _checked_keys(p: IndexedProvider, keys: tuple[str, ...]) -> tuple[str, ...]:
    place = f"provider {p.index} ({p.type})"
    if len(keys) > MAX_KEYS:
        raise _WrongError(f"{place}: too many keys ({len(keys)}), maximum is {MAX_KEYS}")
    trimmed = tuple(key.strip() for key in keys)
    for at, key in enumerate(trimmed):
        if not key:
            raise _WrongError(f"{place}: key at index {at} is empty")
        if key in trimmed[:at]:
            raise _WrongError(f"{place}: duplicate key at index {at}")
    return trimmed


def _with_names(providers: list[IndexedProvider]) -> list[IndexedProvider]:
    """Fill in missing names and refuse a name that two providers claim."""
    named: dict[str, int] = {}
    for at, provider in enumerate(providers):
        name = provider.name or provider.type
        if name in named:
            raise SettingsError(
                f'providers {named[name]} and {at} have duplicate NAME "{name}" (multiple '
                "providers of the same type require unique NAME values)"
            )
        if name:
            named[name] = at
        providers[at] = evolve(provider, name=name)
    return providers
