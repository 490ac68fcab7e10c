"""A gunicorn configuration, for those who start gunicorn themselves.

``gunicorn -c python:aigateway.http.server.conf "aigateway.http.app:create_app()"``

Settings come from the environment and from the YAML file that CODER_CONFIG_PATH names.
gunicorn reads this module's names as its settings.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import structlog

from aigateway.http.logs import configure
from aigateway.http.server.application import gunicorn_options
from aigateway.http.server.arbiter import take_over
from aigateway.http.server.open_files import raise_limit
from aigateway.http.server.reloading import reloaded
from aigateway.http.settings import Settings, SettingsError, load

__all__ = ["on_reload", "on_starting"]


def _read() -> Settings:
    return load({}, os.environ)


def on_starting(server: object) -> None:
    """Before anything else: the main process stops and reloads as the gateway's own does."""
    take_over(server, _SETTINGS)
    raise_limit(_SETTINGS.worker_connections)


def on_reload(server: Any) -> None:
    """SIGHUP.  The workers read the settings themselves; here they are for the log."""
    server.app.settings = reloaded(server.app.settings, _read)
    try:
        configure(server.app.settings)
    except SettingsError as ex:
        structlog.get_logger("ai-gateway").error("logging goes on as before", error=str(ex))


try:
    _SETTINGS = _read()
    configure(_SETTINGS)
except SettingsError as ex:
    sys.stderr.write(f"error: {ex}\n")
    raise SystemExit(2) from None
globals().update(gunicorn_options(_SETTINGS))
