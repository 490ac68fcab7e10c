"""What SIGHUP changes: read the settings anew, keep what only a restart can change."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from attrs import evolve

from aigateway.http.settings import OPTIONS, Settings, SettingsError
from aigateway.http.settings.tls_files import client_problems, listener_problems

__all__ = ["check_tls", "reloaded"]

log = structlog.get_logger("ai-gateway")


def check_tls(settings: Settings) -> None:
    """Load certificates and keys once.  Raises SettingsError that names the file."""
    problems = [*listener_problems(settings)]
    if not settings.local:
        problems += client_problems(settings)
    if problems:
        raise SettingsError(problems[0])


def reloaded(old: Settings, read: Callable[[], Settings]) -> Settings:
    """The settings to go on with: ``old`` ones when the new ones are wrong.

    Options that only take effect after a restart keep their values and are named in the log.
    """
    try:
        new = read()
        check_tls(new)
    except SettingsError as ex:
        log.error("reload failed, going on as before", error=str(ex))
        return old
    kept = {row.name: getattr(old, row.name) for row in OPTIONS if not row.reloadable}
    waiting = old.needing_restart(new)
    if waiting:
        log.warning("these settings change with a restart only", settings=waiting)
    changed = [
        row.flags[0]
        for row in OPTIONS
        if row.reloadable and getattr(old, row.name) != getattr(new, row.name)
    ]
    log.info("settings reloaded", changed=changed)
    return evolve(new, **kept)
