"""What is installed, for bug reports and for those who are told our version."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["own_version", "versions"]

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
