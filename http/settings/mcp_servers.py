"""MCP servers of the embedded control plane, from the list in the YAML file.

::

    ai_gateway:
      mcp_servers:
        - id: docs
          url: https://mcp.example.com/mcp
          token_env: DOCS_MCP_TOKEN
          tool_allow_regex: "^(search|read)"
          tool_deny_regex: secret

All users share them.  A token is given as ``token``, or better by where it is:
``token_env`` names a variable, ``token_file`` a file.  Patterns are found anywhere in a
tool's name, and deny wins.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from urllib.parse import urlsplit

from attrs import field, frozen

from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.secret_sources import read_secret_file

__all__ = ["YAML_KEY", "McpServerSettings", "read_mcp_servers"]

YAML_KEY = "ai_gateway.mcp_servers"

_TOKENS = ("token", "token_env", "token_file")
_KEYS = ("id", "url", *_TOKENS, "tool_allow_regex", "tool_deny_regex")


@frozen
class McpServerSettings:
    """One server, its token found."""

    id: str
    url: str
    token: str = field(default="", repr=False)
    token_file: str = ""
    """Where the token was read, if that was a file."""
    tool_allow_regex: str = ""
    tool_deny_regex: str = ""


def read_mcp_servers(
    value: object, environ: Mapping[str, str], *, where: str = YAML_KEY
) -> tuple[McpServerSettings, ...]:
    """Read the list as YAML gave it; None means none.

    ``where`` names it in errors.  Raises SettingsError.  Patterns are not compiled here.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise SettingsError(f"{where} must be a list of servers, each with an id and a url")
    servers = tuple(
        _server(entry, f"{where}[{position}]", environ) for position, entry in enumerate(value)
    )
    seen: dict[str, int] = {}
    for position, server in enumerate(servers):
        first = seen.setdefault(server.id, position)
        if first != position:
            raise SettingsError(
                f'{where}[{position}].id: "{server.id}" is the id of {where}[{first}] already, '
                "choose another one"
            )
    return servers


def _server(entry: object, where: str, environ: Mapping[str, str]) -> McpServerSettings:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} must be a mapping with an id and a url")
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f', did you mean "{near[0]}"?' if near else ""
            raise SettingsError(f'{where}: unknown key "{key}"{hint}')
    texts = {key: _text(entry, key, where) for key in _KEYS}
    for key in ("id", "url"):
        if not texts[key]:
            raise SettingsError(f"{where}.{key} is missing")
    return McpServerSettings(
        id=texts["id"],
        url=_url(texts["url"], f"{where}.url"),
        token=_token(texts, where, environ),
        token_file=texts["token_file"],
        tool_allow_regex=texts["tool_allow_regex"],
        tool_deny_regex=texts["tool_deny_regex"],
    )


def _text(entry: Mapping[str, object], key: str, where: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise SettingsError(f"{where}.{key} must be text, put it between quotes")
    return value.strip() if key in ("id", "url") else value


def _url(url: str, where: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"{where} must be an address that starts with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise SettingsError(f"{where} must not hold a user or password, use token_env instead")
    return url


def _token(texts: Mapping[str, str], where: str, environ: Mapping[str, str]) -> str:
    given = [key for key in _TOKENS if texts[key]]
    if len(given) > 1:
        raise SettingsError(f"{where}: {' and '.join(given)} exclude each other, keep one")
    if not given:
        return ""
    source = f"{where}.{given[0]}"
    if given == ["token_env"]:
        name = texts["token_env"]
        token = environ.get(name, "").strip()
        if not token:
            raise SettingsError(f"{source}: the environment variable {name} is not set")
    elif given == ["token_file"]:
        token = read_secret_file(texts["token_file"], source)
    else:
        token = texts["token"].strip()
    if not token.isascii() or not token.isprintable():
        raise SettingsError(f"{source}: the token holds characters that no header can carry")
    return token
