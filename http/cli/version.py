"""``aigateway version``: what is installed, for a bug report."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import click

__all__ = ["command", "own_version", "versions"]

_LIBRARIES = ("gunicorn", "gevent", "falcon", "pykka", "requests", "websocket-client", "protobuf")
"""Those whose version most often explains a difference between two machines."""


def own_version() -> str:
    """The version of this distribution; a checkout that is not installed has none."""
    return _version("aigateway")


def versions() -> dict[str, str]:
    """Versions by name: our own, Python's, the main libraries', the system's."""
    return {
        "aigateway": own_version(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "system": platform.platform(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show versions."""
    found = versions()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, version in found.items():
        click.echo(f"{name:<{width}}  {version}")
