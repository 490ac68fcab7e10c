"""Secrets that are kept elsewhere: in files, or said by a command.

A variable of a secret has two companions, ``…_FILE`` and ``…_COMMAND``.  Both are replaced by the
secret itself before anything else looks at the variables, so nothing else knows of them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from attrs import field, frozen

from aigateway.actors.providers.said_keys import KeyCommandFailed, output_of, said_key
from aigateway.actors.values.provider_config import KeyCommand
from aigateway.http.settings._option import PROVIDER_PREFIXES, Option
from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.provider_entry import SECRET_FIELDS

__all__ = ["COMPANIONS", "Resolved", "read_secret_file", "resolve", "secret_variables"]

COMPANIONS: Final = ("_FILE", "_COMMAND")

_NUMBERED: Final = re.compile(
    rf"(?:{'|'.join(PROVIDER_PREFIXES)})[0-9]+_(?:{'|'.join(sorted(SECRET_FIELDS))})"
)
_RENEWED: Final = re.compile(
    rf"(?:(?:{'|'.join(PROVIDER_PREFIXES)})[0-9]+_(?:KEY|BEDROCK_BEARER_TOKEN)"
    r"|CODER_(?:AI_GATEWAY|AIBRIDGE)_(?:OPENAI|ANTHROPIC)_KEY)"
)
"""A provider's only key: its command is run again when that ends."""


@frozen
class Resolved:
    """An environment in which every secret stands by itself."""

    environ: Mapping[str, str] = field(repr=False)
    origins: Mapping[str, str]
    """The companion that each secret came from, by the secret's variable."""
    files: tuple[str, ...]
    """Which were read."""
    commands: Mapping[str, KeyCommand] = field(factory=dict)
    """What says a provider's key again, by the key's variable."""


def secret_variables(options: Collection[Option]) -> frozenset[str]:
    """The variables of options that have companions."""
    taken = {name for row in options for name in (*row.envs, *row.old_envs)}
    names = {name for row in options if row.secret for name in (*row.envs, *row.old_envs)}
    # The gateway key's file has an option of its own.
    return frozenset(name for name in names if not {f"{name}{c}" for c in COMPANIONS} & taken)


def resolve(environ: Mapping[str, str], variables: Collection[str]) -> Resolved:
    """Put secrets in the place of companions: those of ``variables`` and of numbered providers.

    Raises SettingsError for one that cannot be had, and where a secret is given twice.
    """
    found = dict(environ)
    origins: dict[str, str] = {}
    files: list[str] = []
    commands: dict[str, KeyCommand] = {}
    for companion, name in _companions(environ, variables):
        value = found.pop(companion)
        if not value:
            continue
        if found.get(name):
            other = origins.get(name, name)
            raise SettingsError(f"{other} and {companion} exclude each other, keep one")
        if companion.endswith("_FILE"):
            text = read_secret_file(value, companion)
            files.append(os.path.expanduser(value))
        else:
            try:
                text = output_of(value)
                if _RENEWED.fullmatch(name.upper()):
                    said = said_key(text, time.time())
                    text = said.key
                    commands[name] = KeyCommand(
                        command=value, variable=companion, expires_at=said.expires_at
                    )
            except KeyCommandFailed as ex:
                raise SettingsError(f"{companion}: {ex}") from ex
        # A list may have a line for each.
        found[name] = ",".join(text.split()) if name.endswith("S") else text
        origins[name] = companion
    return Resolved(found, origins, tuple(files), commands)


def _companions(
    environ: Mapping[str, str], variables: Collection[str]
) -> Iterator[tuple[str, str]]:
    for companion in sorted(environ):
        for ending in COMPANIONS:
            name = companion.removesuffix(ending)
            known = name in variables or _NUMBERED.fullmatch(name.upper())
            if name != companion and known:
                yield companion, name


def read_secret_file(path: str, where: str) -> str:
    """What is in the file, without the space around it.  Raises SettingsError, which names
    ``where`` and the path and nothing else."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            text = file.read().strip()
    except OSError as ex:
        raise SettingsError(f'{where}: read "{path}": {ex.strerror}') from ex
    except ValueError as ex:
        raise SettingsError(f'{where}: "{path}" is not a text file') from ex
    if not text:
        raise SettingsError(f'{where}: "{path}" is empty')
    return text
