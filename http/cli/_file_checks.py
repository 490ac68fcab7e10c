"""Look at the files and folders that the settings name, without changing anything."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator

from aigateway.actors.control.local.address import is_postgresql
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.settings import Settings
from aigateway.http.settings.tls_files import (
    authorities_problem,
    client_problems,
    console_problems,
    listener_problems,
)

__all__ = ["check_files"]


def check_files(settings: Settings, providers: Iterable[ProviderConfig]) -> Iterator[str]:
    """Yield one line for each file or folder that the gateway could not use."""
    yield from listener_problems(settings)
    yield from client_problems(settings)
    yield from console_problems(settings)
    if settings.upstream_ca_file:
        yield from _authorities("--upstream-ca-file", settings.upstream_ca_file)
    for provider in providers:
        if provider.ca_file and provider.ca_file != settings.upstream_ca_file:
            yield from _authorities(f"CA_FILE of provider {provider.name}", provider.ca_file)
    yield from _folder("--state-dir", settings.state_dir)
    yield from _folder("--runtime-dir", settings.runtime_dir)
    if settings.dump_dir:
        yield from _folder("--ai-gateway-dump-dir", settings.dump_dir)
    if settings.local:
        yield from _database(settings.local_db)
    for flag in ("log_human", "log_json", "log_stackdriver"):
        path = getattr(settings, flag)
        if path and not path.startswith("/dev/") and path != "-":
            yield from _writable(f"--{flag.replace('_', '-')}", path)


def _authorities(flag: str, path: str) -> Iterator[str]:
    problem = authorities_problem(path)
    if problem:
        yield f'{flag}: "{path}": {problem}'


def _folder(flag: str, path: str) -> Iterator[str]:
    """The folder need not be there yet, but it must be possible to make it."""
    present = os.path.abspath(path)
    while not os.path.lexists(present):
        present = os.path.dirname(present)
    if not os.path.isdir(present):
        yield f'{flag}: "{path}": "{present}" is no folder'
    elif not os.access(present, os.W_OK | os.X_OK):
        yield f'{flag}: "{path}": no permission to write in "{present}"'


def _database(address: str) -> Iterator[str]:
    if not is_postgresql(address):
        yield from _writable("--local-db", address)
    elif importlib.util.find_spec("psycopg_pool") is None:
        yield "--local-db: PostgreSQL needs the extra postgres: pip install 'aigateway[postgres]'"


def _writable(flag: str, path: str) -> Iterator[str]:
    """The file need not be there yet, but its folder must."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        yield f'{flag}: "{path}" is a folder'
    elif not os.path.isdir(folder):
        yield f'{flag}: "{path}": there is no folder "{folder}"'
    elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
        yield f'{flag}: "{path}": no permission to write'
