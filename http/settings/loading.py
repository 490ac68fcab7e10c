"""Find each option's value: flag, then environment, then YAML, then default.

An empty environment variable counts as not set.  Nothing here exits, prints or imports
the libraries that serve requests: the launcher, each worker and a reload all call it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aigateway.http.settings._checks import check_settings
from aigateway.http.settings._indexed_env import BEARER_TOKEN
from aigateway.http.settings._option import (
    ENV_PREFIX,
    OLD_ENV_PREFIX,
    OLD_FLAG,
    PROVIDER_PREFIXES,
    Option,
    OptionWarning,
    Source,
)
from aigateway.http.settings._proxies import PROXY_VARIABLES
from aigateway.http.settings._yaml import read_yaml
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.mcp_servers import YAML_KEY, McpServerSettings, read_mcp_servers
from aigateway.http.settings.near import near_names, suggestion
from aigateway.http.settings.secret_sources import Resolved, resolve, secret_variables
from aigateway.http.settings.table import OPTIONS, Settings
from aigateway.http.settings.yaml_providers import PROVIDERS_KEY, provider_variables

if TYPE_CHECKING:
    from aigateway.actors.control.local.prices.table import PriceTable

__all__ = ["examine", "load", "load_from_argv"]

_SERVICE_LINK = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_.*)?")
"""What Kubernetes adds (after ENV_PREFIX) for a service named coder-ai-gateway."""


_VERY_NEAR = 0.95
"""How like two names must be, where either may be right."""


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

    ``yaml_path`` None means what --config or CODER_CONFIG_PATH says.  A gateway key and the
    deployment's address must be there, unless ``--local`` is set.  ``require_coderd`` false
    is for commands that serve nothing: each option is checked by itself only.  Raises
    SettingsError.
    """

    def stop(error: SettingsError) -> None:
        raise error

    return _load(flags, environ, yaml_path, stop, serving=require_coderd)


def examine(
    flags: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Settings, list[SettingsError]]:
    """Load for serving, but go on after errors: a wrong value is replaced by the default."""
    errors: list[SettingsError] = []
    return _load(flags, environ, None, errors.append, serving=True), errors


def _load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    yaml_path: str | None,
    report: Callable[[SettingsError], None],
    *,
    serving: bool,
) -> Settings:
    if yaml_path is None:
        yaml_path = str(flags.get("config") or environ.get("CODER_CONFIG_PATH") or "")
    document = _document(yaml_path, report)
    resolved = _with_secrets(document, environ, yaml_path, report)
    environ, origins = resolved.environ, resolved.origins
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    warnings: list[OptionWarning] = []
    for row in OPTIONS:
        source, raw = _find(row, flags, environ, document, yaml_path)
        if source.kind == "env":
            source = Source("env", origins.get(source.name, source.name))
        values[row.name] = row.default_value(environ)
        sources[row.name] = source
        if source.kind != "default":
            try:
                values[row.name] = _read(row, source, raw)
            except SettingsError as ex:
                report(ex)
                sources[row.name] = Source("default")
        warnings += _without_effect(row, source, values[row.name])
        warnings += _deprecated(row, source)
    warnings += _odd_variables(environ)
    if values["content"] == "none" and values["dump_dir"]:
        text = "has no effect: nothing is dumped where --content is none"
        warnings.append(OptionWarning(text, sources["dump_dir"].name))
    if values["trace_gen_ai"] and not (values["trace"] or values["trace_honeycomb_api_key"]):
        text = "has no effect: events go where --trace sends traces"
        warnings.append(OptionWarning(text, sources["trace_gen_ai"].name))
    servers: tuple[McpServerSettings, ...] = ()
    try:
        if serving:
            servers = _mcp_servers(document, values, environ, yaml_path)
    except SettingsError as ex:
        report(ex)
    key = ""
    try:
        key = _gateway_key(values) if serving and not values["local"] else values["key"]
    except SettingsError as ex:
        report(ex)
    own_prices = None
    try:
        own_prices = _own_prices(values) if serving else None
    except SettingsError as ex:
        report(ex)
    provider_environ = _provider_environ(values, sources, environ)
    settings = Settings(
        **values,
        mcp_servers=servers,
        own_prices=own_prices,
        gateway_key=key,
        provider_environ=provider_environ,
        provider_commands=resolved.commands,
        watched_files=(*resolved.files, *_files_at_reload(values, key, servers, provider_environ)),
        sources=sources,
        warnings=tuple(warnings),
    )
    if serving:
        for error in check_settings(settings):
            report(error)
    return settings


def _document(yaml_path: str, report: Callable[[SettingsError], None]) -> dict[str, Any]:
    if not yaml_path:
        return {}
    known = {name for row in OPTIONS for name in (row.yaml, row.old_yaml) if name}
    known |= {YAML_KEY, PROVIDERS_KEY}
    try:
        return read_yaml(os.path.expanduser(yaml_path), known)
    except SettingsError as ex:
        report(ex)
        return {}


def _with_secrets(
    document: Mapping[str, Any],
    environ: Mapping[str, str],
    yaml_path: str,
    report: Callable[[SettingsError], None],
) -> Resolved:
    """The environment with the providers of the YAML file in it, and with every secret that
    is in a file or said by a command."""
    try:
        listed = document.get(PROVIDERS_KEY)
        where = f"{yaml_path}: {PROVIDERS_KEY}"
        added = provider_variables(listed, environ, where) if listed is not None else {}
        return resolve({**environ, **added}, secret_variables(OPTIONS))
    except SettingsError as ex:
        report(ex)
        return Resolved(environ, {}, ())


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
        hide = row.secret or row.kind.may_hold_secret or not isinstance(raw, str)
        shown = "its value" if hide else f'"{raw}"'
        raise SettingsError(f"{source.name}: {shown} {ex}") from None


def _without_effect(row: Option, source: Source, value: object) -> Iterator[OptionWarning]:
    if row.no_effect and source.kind != "default":
        shown = f": {row.show(value)}" if row.kind.is_list else ""
        yield OptionWarning(f"{row.no_effect}{shown}", source.name)


def _deprecated(row: Option, source: Source) -> Iterator[OptionWarning]:
    old = {"flag": row.hidden_flags, "env": row.old_envs, "yaml": (row.old_yaml,)}
    new = {"flag": row.shown, "env": row.envs[0] if row.envs else "", "yaml": row.yaml}
    name = source.name.rpartition(": ")[2]
    if name and not row.no_effect and name in old.get(source.kind, ()):
        yield OptionWarning(f"deprecated name, use {new[source.kind]}", name)


def _odd_variables(environ: Mapping[str, str]) -> Iterator[OptionWarning]:
    """Notice variables of our family that no option reads: most likely typos."""
    known = {name for row in OPTIONS for name in (*row.envs, *row.old_envs)}
    for name in sorted(environ):
        if name in known or name.startswith(PROVIDER_PREFIXES):
            continue
        prefix = next((p for p in (ENV_PREFIX, OLD_ENV_PREFIX) if name.startswith(p)), None)
        if prefix is None:
            # Others have variables of that family too: only what is very near is taken for ours.
            near = near_names(name, known, _VERY_NEAR) if name.startswith("CODER_") else []
            if near and difflib.SequenceMatcher(None, name, near[0]).ratio() >= _VERY_NEAR:
                yield OptionWarning(f"unknown environment variable{suggestion(near[:1])}", name)
            continue
        rest = name[len(prefix) :]
        if not _SERVICE_LINK.fullmatch(rest):
            hint = suggestion(near_names(name, known))
            yield OptionWarning(f"unknown environment variable, ignored{hint}", name)


# -- what follows from several options


def _files_at_reload(
    values: Mapping[str, Any],
    gateway_key: str,
    servers: Iterable[McpServerSettings],
    provider_environ: Mapping[str, str],
) -> Iterator[str]:
    """What new workers read, beside the files of secrets' variables: the gateway key, tokens of MCP
    servers, the listener's certificate, authorities of providers.  What is read at each dial of a
    deployment needs no reload."""
    names = ("tls_cert_file", "tls_key_file", "upstream_ca_file")
    found = [values["key_file"] if gateway_key else "", *(values[name] for name in names)]
    found += [server.token_file for server in servers]
    found += [path for name, path in provider_environ.items() if name.endswith("_CA_FILE")]
    yield from dict.fromkeys(os.path.expanduser(path) for path in found if path)


def _mcp_servers(
    document: Mapping[str, Any],
    values: Mapping[str, Any],
    environ: Mapping[str, str],
    yaml_path: str,
) -> tuple[McpServerSettings, ...]:
    where = f"{yaml_path}: {YAML_KEY}"
    servers = read_mcp_servers(document.get(YAML_KEY), environ, where=where)
    if servers and not values["local"]:
        raise SettingsError(
            f"{where} is for --local; a Coder deployment names its MCP servers itself"
        )
    return servers


def _own_prices(values: Mapping[str, Any]) -> PriceTable | None:
    """What the file of --prices holds.  Read here, so that a reload with a wrong one changes
    nothing and workers that start later find what was right."""
    if not values["local"] or not values["prices"]:
        return None
    # Not at the top: few have such a file.
    from aigateway.actors.control.local.price_files import PricesFileError, read_prices_file

    try:
        return read_prices_file(values["prices"])
    except PricesFileError as ex:
        raise SettingsError(str(ex)) from ex


def _gateway_key(values: Mapping[str, Any]) -> str:
    key, path = values["key"], values["key_file"]
    if key and path:
        raise SettingsError("--key and --key-file options are mutually exclusive")
    if key:
        return str(key)
    if not path:
        raise SettingsError(
            "an AI Gateway key is required, set --key (CODER_AI_GATEWAY_KEY) "
            "or --key-file (CODER_AI_GATEWAY_KEY_FILE); or set --local to run without a Coder "
            "deployment"
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
        if name in single
        or name in PROXY_VARIABLES
        or name == BEARER_TOKEN
        or name.startswith(PROVIDER_PREFIXES)
    }
    for row in rows:
        if sources[row.name].kind in ("flag", "yaml"):
            for name in row.old_envs:
                found.pop(name, None)
            found[row.envs[0]] = values[row.name]
    return found
