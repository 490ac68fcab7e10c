"""Find each option's value: flag, then environment, then YAML, then default.

An empty environment variable counts as not set.  Nothing here exits, prints or imports
the libraries that serve requests: the launcher, each worker and a reload all call it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aigateway.http.settings._option import (
    ENV_PREFIX,
    OLD_ENV_PREFIX,
    OLD_FLAG,
    Option,
    OptionWarning,
    Source,
)
from aigateway.http.settings._proxies import PROXY_VARIABLES
from aigateway.http.settings._yaml import read_yaml
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.table import OPTIONS, Settings

__all__ = ["PROVIDER_PREFIXES", "load", "load_from_argv"]

PROVIDER_PREFIXES = (f"{ENV_PREFIX}PROVIDER_", f"{OLD_ENV_PREFIX}PROVIDER_")

_DROPPED = frozenset({"ENABLED", "INJECT_CODER_MCP_TOOLS", "RETENTION", "STRUCTURED_LOGGING"})
"""Options of the reference that only concern coderd (after ENV_PREFIX)."""

_SERVICE_LINK = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_.*)?")
"""What Kubernetes adds (after ENV_PREFIX) for a service named coder-ai-gateway."""


def load_from_argv(
    argv: Sequence[str], environ: Mapping[str, str], *, require_coderd: bool = True
) -> Settings:
    """Parse the flags of ``aigateway start`` (without the command's name) and load.

    Raises SettingsError, for unknown flags too, and never exits.
    """
    from aigateway.http.settings.flags import parse_flags

    return load(parse_flags(argv), environ, require_coderd=require_coderd)


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    yaml_path: str | None = None,
    *,
    require_coderd: bool = True,
) -> Settings:
    """Combine ``flags`` (by option name; None: not given), ``environ`` and the YAML file.

    ``yaml_path`` None means what --config or CODER_CONFIG_PATH says.  Unless
    ``require_coderd`` is false or ``--local`` is set, a gateway key and the deployment's
    address must be there.  Raises SettingsError.
    """
    if yaml_path is None:
        yaml_path = str(flags.get("config") or environ.get("CODER_CONFIG_PATH") or "")
    known = {name for row in OPTIONS for name in (row.yaml, row.old_yaml) if name}
    document = read_yaml(yaml_path, known) if yaml_path else {}
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    warnings: list[OptionWarning] = []
    for row in OPTIONS:
        source, raw = _find(row, flags, environ, document, yaml_path)
        sources[row.name] = source
        values[row.name] = (
            row.default_value(environ) if source.kind == "default" else _read(row, source, raw)
        )
        warnings += _deprecated(row, source)
    warnings += _odd_variables(environ)
    if values["trace_datadog"]:
        warnings.append(OptionWarning("has no effect", sources["trace_datadog"].name))
    settings = Settings(
        **values,
        gateway_key=_gateway_key(values, required=require_coderd and not values["local"]),
        provider_environ=_provider_environ(values, sources, environ),
        sources=sources,
        warnings=tuple(warnings),
    )
    _check(settings, require_coderd=require_coderd)
    return settings


# -- one option


def _find(
    row: Option,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    document: Mapping[str, Any],
    yaml_path: str,
) -> tuple[Source, Any]:
    for flag, parameter in ((row.flags, row.name), (row.hidden_flags, OLD_FLAG + row.name)):
        given = flags.get(parameter)
        if given is not None and given != ():
            return Source("flag", flag[0]), given
    for name in (*row.envs, *row.old_envs):
        if environ.get(name):
            return Source("env", name), environ[name]
    for name in (row.yaml, row.old_yaml):
        if name in document:
            return Source("yaml", f"{yaml_path}: {name}"), document[name]
    return Source("default"), None


def _read(row: Option, source: Source, raw: Any) -> Any:
    try:
        if source.kind == "flag" and row.kind.is_list and not isinstance(raw, str):
            return tuple(part for text in raw for part in row.kind.read(text))
        return row.kind.read(raw)
    except ValueError as ex:
        shown = "its value" if row.secret or not isinstance(raw, str) else f'"{raw}"'
        raise SettingsError(f"{source.name}: {shown} {ex}") from None


def _deprecated(row: Option, source: Source) -> Iterator[OptionWarning]:
    old = {"flag": row.hidden_flags, "env": row.old_envs, "yaml": (row.old_yaml,)}
    new = {"flag": row.flags[0], "env": row.envs[0] if row.envs else "", "yaml": row.yaml}
    name = source.name.rpartition(": ")[2]
    if name and name in old.get(source.kind, ()):
        yield OptionWarning(f"deprecated name, use {new[source.kind]}", name)


def _odd_variables(environ: Mapping[str, str]) -> Iterator[OptionWarning]:
    """Notice variables of our family that no option reads: most likely typos."""
    known = {name for row in OPTIONS for name in (*row.envs, *row.old_envs)}
    for name in sorted(environ):
        prefix = next((p for p in (ENV_PREFIX, OLD_ENV_PREFIX) if name.startswith(p)), None)
        if prefix is None or name in known or name.startswith(PROVIDER_PREFIXES):
            continue
        rest = name[len(prefix) :]
        if rest in _DROPPED:
            yield OptionWarning("only concerns coderd, it has no effect on this gateway", name)
        elif not _SERVICE_LINK.fullmatch(rest):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f", did you mean {near[0]}?" if near else ""
            yield OptionWarning(f"unknown environment variable, ignored{hint}", name)


# -- what follows from several options


def _gateway_key(values: Mapping[str, Any], *, required: bool) -> str:
    key, path = values["key"], values["key_file"]
    if not required:
        return str(key)
    if key and path:
        raise SettingsError("--key and --key-file options are mutually exclusive")
    if key:
        return str(key)
    if not path:
        raise SettingsError(
            "an AI Gateway key is required, set --key (CODER_AI_GATEWAY_KEY) "
            "or --key-file (CODER_AI_GATEWAY_KEY_FILE)"
        )
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as ex:
        raise SettingsError(f'read AI Gateway key file "{path}": {ex.strerror}') from ex
    except UnicodeDecodeError as ex:
        raise SettingsError(f'read AI Gateway key file "{path}": it is not text') from ex


def _provider_environ(
    values: Mapping[str, Any], sources: Mapping[str, Source], environ: Mapping[str, str]
) -> dict[str, str]:
    """Bring flags and YAML of the single-provider options under their variables' names."""
    rows = [row for row in OPTIONS if row.group == "Single provider"]
    single = {name for row in rows for name in (*row.envs, *row.old_envs)}
    found = {
        name: value
        for name, value in environ.items()
        if name in single or name in PROXY_VARIABLES or name.startswith(PROVIDER_PREFIXES)
    }
    for row in rows:
        if sources[row.name].kind in ("flag", "yaml"):
            for name in row.old_envs:
                found.pop(name, None)
            found[row.envs[0]] = values[row.name]
    return found


def _check(settings: Settings, *, require_coderd: bool) -> None:
    """Check what concerns more than one option, in the reference's order."""
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        raise SettingsError("--tls-cert-file and --tls-key-file options must be provided together")
    if require_coderd and not settings.local:
        if not settings.url:
            raise SettingsError(
                "AI Gateway requires --url or CODER_URL to point at the Coder deployment"
            )
        if bool(settings.client_tls_cert_file) != bool(settings.client_tls_key_file):
            raise SettingsError(
                "configure Coder deployment connection: --client-tls-cert-file and "
                "--client-tls-key-file must be provided together"
            )
    _check_actor_headers(settings)


_RESERVED_HEADERS = frozenset(
    {
        # credentials and cookies
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "set-cookie",
        # hop by hop and framing (RFC 9110 section 7.6.1)
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "accept-encoding",
        "expect",
        # forwarding
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
    }
)
_RESERVED_PREFIXES = ("x-coder-", "coder-", "x-ai-bridge-actor", "x-ai-gateway-")


def _check_actor_headers(settings: Settings) -> None:
    seen: dict[str, str] = {}
    for row in OPTIONS:
        if not row.name.startswith("actor_header_"):
            continue
        header = getattr(settings, row.name)
        lower = header.lower()
        if not header:
            continue
        if lower != row.default.lower() and (
            lower in _RESERVED_HEADERS or lower.startswith(_RESERVED_PREFIXES)
        ):
            raise SettingsError(f'{row.flags[0]}: "{header}" is a reserved header name')
        if lower in seen:
            raise SettingsError(f'{row.flags[0]}: "{header}" is already used by {seen[lower]}')
        seen[lower] = row.flags[0]
