"""Read ``CODER_AI_GATEWAY_PROVIDER_<N>_<KEY>`` (and the same under the old prefix).

Two kinds of mistakes are told apart.  One that leaves open which providers are meant (a
gap in the numbers, mixed prefixes, a name given twice) raises :class:`SettingsError`.
One inside a single provider becomes its ``error``, and the others are not touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from attrs import define, field

from aigateway.actors.values.provider_config import (
    PROVIDER_TYPES,
    BedrockConfig,
    KeyCommand,
    VertexConfig,
)
from aigateway.http.settings._kinds import (
    BOOL,
    DURATION,
    GROUP,
    MODELS,
    PATH,
    PROXY,
    TIMEOUT,
    Kind,
    whole_number,
)
from aigateway.http.settings._option import PROVIDER_PREFIXES, OptionWarning
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.provider_entry import KEY_LISTS, NAME_PATTERN, ProviderEntry
from aigateway.http.settings.table import OPTIONS

__all__ = ["BEARER_TOKEN", "FIELDS", "MAX_KEYS", "read_indexed"]

MAX_KEYS = 5
"""Keys per provider, at most (as in the reference)."""

BEARER_TOKEN = "AWS_BEARER_TOKEN_BEDROCK"
"""AWS's variable with an API key of Bedrock, which its SDKs prefer to signatures."""

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
        "VERTEX_PROJECT",
        "VERTEX_REGION",
        "VERTEX_CREDENTIALS_FILE",
    }
)
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
    "PROXY": ("proxy", PROXY),
    "NO_KEY": ("no_key", BOOL),
    "STREAM_OPTIONS": ("stream_options", BOOL),
    "WEBSOCKET": ("websocket", BOOL),
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

FIELDS = frozenset(
    _TEXTS | {f"{name}{s}" for name in KEY_LISTS for s in ("", "S")} | _EXTRAS.keys()
)
"""The names of all fields."""


def read_indexed(
    environ: Mapping[str, str],
    commands: Mapping[str, KeyCommand],
) -> tuple[list[ProviderEntry], list[OptionWarning]]:
    """Read the indexed providers, in the order of their numbers.

    ``commands`` say a key again, by its variable.
    Raises SettingsError when the variables do not make a list.
    """
    warnings: list[OptionWarning] = []
    read = [_read_prefix(environ, prefix, warnings, commands) for prefix in PROVIDER_PREFIXES]
    found = [drafts for drafts in read if drafts]
    if len(found) > 1:
        new, old = PROVIDER_PREFIXES
        raise SettingsError(
            f"cannot mix {old}* and {new}* environment variables, please consolidate onto {new}*"
        )
    entries = [_entry(draft) for draft in found[0]] if found else []
    _refuse_equal_names(entries)
    return entries, warnings


@define
class _Draft:
    """What the variables of one number say, as it is read."""

    index: int
    prefix: str
    """What its variables begin with, up to and with the number and its underscore."""
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
    key_command: KeyCommand | None = None
    vertex_project: str = ""
    vertex_region: str = ""
    vertex_credentials_file: str = ""
    fallback: str = ""
    extras: dict[str, object] = field(factory=dict)
    errors: list[str] = field(factory=list)
    unclear: bool = False
    """A list was given twice: what else may be wrong with it is not known."""

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

    def take(self, key: str, variable: str, value: str) -> bool:
        """Store one field; false when there is no field of that name."""
        singular = key.removesuffix("S") if key.removesuffix("S") in KEY_LISTS else ""
        if key in _TEXTS:
            setattr(self, key.lower(), value)
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
        attribute = KEY_LISTS[singular]
        if getattr(self, attribute):
            self.errors.append(
                f"provider {self.index}: {singular} and {singular}S are mutually exclusive, "
                "use one or the other"
            )
            self.unclear = True
            return
        setattr(self, attribute, tuple(value.split(",")) if plural else (value,))

    def _take_extra(self, key: str, variable: str, value: str) -> None:
        attribute, kind = _EXTRAS[key]
        if not value:
            return
        try:
            self.extras[attribute] = kind.read(value)
        except ValueError as ex:
            self.errors.append(f"provider {self.index}: {variable} {ex}")


def _read_prefix(
    environ: Mapping[str, str],
    prefix: str,
    warnings: list[OptionWarning],
    commands: Mapping[str, KeyCommand],
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
        drafts[index].key_command = commands.get(variable) or drafts[index].key_command
        if not drafts[index].take(key.upper(), variable, environ[variable]):
            text = "ignoring unknown AI provider field (check for typos)"
            warnings.append(OptionWarning(text, variable))
    return drafts


# -- the rules for one provider, in the reference's order


class _WrongError(ValueError):
    """What is wrong with one provider."""


def _entry(p: _Draft) -> ProviderEntry:
    errors = list(p.errors)
    for rule in () if p.unclear else _RULES:
        try:
            rule(p)
        except _WrongError as ex:
            errors.append(str(ex))
    name = p.name or p.type or f"provider-{p.index}"
    if not errors and not re.fullmatch(NAME_PATTERN, name):
        errors.append(f'invalid AI provider name "{name}": must match {NAME_PATTERN}')
    # The generic BASE_URL is dropped even when Bedrock's own is empty.
    bedrock = _bedrock(p) if p.has_bedrock and not errors else None
    return ProviderEntry(
        name=name,
        type=p.type,
        base_url=p.base_url if bedrock is None else p.bedrock_base_url,
        keys=p.keys,
        key_command=p.key_command,
        bedrock=bedrock,
        vertex=_vertex(p) if p.type == "vertex" and not errors else None,
        fallback=tuple(filter(None, (part.strip() for part in p.fallback.split(",")))),
        extras=p.extras,
        error="; ".join(dict.fromkeys(errors)) or None,
        prefix=p.prefix,
    )


def _bedrock(p: _Draft) -> BedrockConfig:
    """Only the first pair of access keys is used, as in the reference."""
    return BedrockConfig(
        region=p.bedrock_region,
        access_key=next(iter(p.bedrock_access_keys), ""),
        access_key_secret=next(iter(p.bedrock_access_key_secrets), ""),
        model=p.bedrock_model or _default("bedrock_model"),
        small_fast_model=p.bedrock_small_fast_model or _default("bedrock_small_fast_model"),
        role_arn=p.bedrock_role_arn,
        external_id=p.bedrock_external_id,
        protocol=p.bedrock_protocol or "invoke-model",
        bearer_token=p.bedrock_bearer_token,
        resolved=MODELS.read(p.bedrock_resolved_models),
    )


def _vertex(p: _Draft) -> VertexConfig:
    return VertexConfig(
        project=p.vertex_project,
        region=p.vertex_region,
        credentials_file=os.path.expanduser(p.vertex_credentials_file),
    )


def _default(option: str) -> str:
    return next(row.default for row in OPTIONS if row.name == option)


def _known_type(p: _Draft) -> None:
    if not p.type:
        raise _WrongError(f"provider {p.index}: TYPE is required")
    if p.type not in PROVIDER_TYPES:
        raise _WrongError(
            f'provider {p.index}: unknown TYPE "{p.type}" '
            f"(must be one of: [{' '.join(PROVIDER_TYPES)}])"
        )


def _bedrock_where_it_belongs(p: _Draft) -> None:
    place = f"provider {p.index} ({p.type})"
    if p.has_bedrock and p.type not in ("anthropic", "bedrock"):
        raise _WrongError(
            f'{place}: BEDROCK_* fields are only supported with TYPE "anthropic" or "bedrock"'
        )
    if p.type == "bedrock" and not p.has_bedrock:
        raise _WrongError(f'{place}: TYPE "bedrock" requires BEDROCK_* fields to be configured')


def _vertex_where_it_belongs(p: _Draft) -> None:
    place = f"provider {p.index} ({p.type})"
    named = p.vertex_project or p.vertex_region or p.vertex_credentials_file
    if named and p.type != "vertex":
        raise _WrongError(f'{place}: VERTEX_* fields are only supported with TYPE "vertex"')
    if p.type == "vertex" and not (p.vertex_project and p.vertex_region):
        raise _WrongError(f"{place}: VERTEX_PROJECT and VERTEX_REGION are required")
    for name, value in (("PROJECT", p.vertex_project), ("REGION", p.vertex_region)):
        if not re.fullmatch(r"[A-Za-z0-9_-]*", value):
            raise _WrongError(f'{place}: VERTEX_{name} "{value}" is none of Google\'s names')
    if p.type == "vertex" and p.keys:
        raise _WrongError(
            f'{place}: KEY/KEYS are not supported for TYPE "vertex" (Google\'s credentials are '
            "tokens, see VERTEX_CREDENTIALS_FILE)"
        )


def _keys_where_they_belong(p: _Draft) -> None:
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


def _no_key_where_there_is_none(p: _Draft) -> None:
    if not p.extras.get("no_key"):
        return
    place = f"provider {p.index} ({p.type})"
    if p.keys:
        raise _WrongError(f"{place}: NO_KEY and KEY/KEYS are mutually exclusive, use one of them")
    if p.type in ("bedrock", "copilot", "vertex") or p.has_bedrock:
        raise _WrongError(
            f"{place}: NO_KEY is not for Bedrock, Copilot and Vertex, which want credentials"
        )


def _bedrock_pairs(p: _Draft) -> None:
    keys, secrets = len(p.bedrock_access_keys), len(p.bedrock_access_key_secrets)
    if keys != secrets:
        raise _WrongError(
            f"provider {p.index} ({p.type}): BEDROCK_ACCESS_KEYS count ({keys}) must match "
            f"BEDROCK_ACCESS_KEY_SECRETS count ({secrets})"
        )


def _sound_resolved_models(p: _Draft) -> None:
    try:
        MODELS.read(p.bedrock_resolved_models)
    except ValueError as ex:
        raise _WrongError(
            f"provider {p.index} ({p.type}): {p.prefix}BEDROCK_RESOLVED_MODELS {ex}"
        ) from ex


def _one_way_to_authenticate(p: _Draft) -> None:
    if p.bedrock_bearer_token and (any(p.bedrock_access_keys) or p.bedrock_role_arn):
        raise _WrongError(
            f"provider {p.index} ({p.type}): BEDROCK_BEARER_TOKEN excludes BEDROCK_ACCESS_KEY "
            "and BEDROCK_ROLE_ARN, use one of them"
        )


def _trim_keys(p: _Draft, attribute: str) -> None:
    place = f"provider {p.index} ({p.type})"
    keys = tuple(key.strip() for key in getattr(p, attribute))
    if len(keys) > MAX_KEYS:
        raise _WrongError(f"{place}: too many keys ({len(keys)}), maximum is {MAX_KEYS}")
    for at, key in enumerate(keys):
        if not key:
            raise _WrongError(f"{place}: key at index {at} is empty")
        if key in keys[:at]:
            raise _WrongError(f"{place}: duplicate key at index {at}")
    setattr(p, attribute, keys)


_RULES: tuple[Callable[[_Draft], None], ...] = (
    _known_type,
    _bedrock_where_it_belongs,
    _vertex_where_it_belongs,
    _keys_where_they_belong,
    _no_key_where_there_is_none,
    _bedrock_pairs,
    _sound_resolved_models,
    _one_way_to_authenticate,
    *(partial(_trim_keys, attribute=attribute) for attribute in KEY_LISTS.values()),
)


def _refuse_equal_names(entries: Iterable[ProviderEntry]) -> None:
    named: dict[str, int] = {}
    for at, entry in enumerate(entries):
        if entry.name in named:
            raise SettingsError(
                f'providers {named[entry.name]} and {at} have duplicate NAME "{entry.name}" '
                "(multiple providers of the same type require unique NAME values)"
            )
        named[entry.name] = at
