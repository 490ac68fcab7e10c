"""What SIGHUP changes: read the settings again, keep what only a restart can change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import structlog
from attrs import evolve

from aigateway.http.settings import OPTIONS, Settings, SettingsError
from aigateway.http.settings.mcp_servers import YAML_KEY
from aigateway.http.settings.tls_files import client_problems, listener_problems

__all__ = ["FileWatch", "check_tls", "reloaded"]

log = structlog.get_logger("ai-gateway")


class FileWatch:
    """Notices that files have changed; asked from time to time."""

    def __init__(self, paths: Sequence[str], earlier: FileWatch | None = None) -> None:
        """Changes count from now on, or from what ``earlier`` has seen."""
        known: dict[str, tuple[int, ...]] = earlier.now if earlier is not None else {}
        self.now: dict[str, tuple[int, ...]] = {
            path: known.get(path) or _stamp(path) for path in paths
        }
        """What was seen last."""
        self._settled = self.now

    def look(self) -> None:
        """See what is there."""
        self.now = {path: _stamp(path) for path in self.now}

    def changed(self) -> list[str]:
        """Files that have changed since they were read and not since the last look: one that is
        being written is left alone, and one that is gone is not news."""
        before = self.now
        self.look()
        return [
            path
            for path, stamp in self.now.items()
            if stamp == before[path] != self._settled[path] and stamp
        ]


def _stamp(path: str) -> tuple[int, ...]:
    try:
        # Kubernetes puts another file behind a link.
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


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
    if kept["key"] != new.key or kept["key_file"] != new.key_file:
        # Another place for it is not looked at; what is new in the old place is.
        kept["gateway_key"] = old.gateway_key
    waiting = old.needing_restart(new)
    if waiting:
        log.warning("these settings change with a restart only", settings=waiting)
    changed = [
        row.shown
        for row in OPTIONS
        if row.reloadable and getattr(old, row.name) != getattr(new, row.name)
    ]
    if (old.provider_environ, old.provider_commands) != (
        new.provider_environ,
        new.provider_commands,
    ):
        changed.append("providers")
    if old.mcp_servers != new.mcp_servers:
        changed.append(YAML_KEY)
    log.info("settings reloaded", changed=changed)
    return evolve(new, **kept)
