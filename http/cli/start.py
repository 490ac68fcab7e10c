"""``aigateway start``: check everything that can be checked, then hand over to gunicorn."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click

from aigateway.http.settings import Settings, SettingsError, load
from aigateway.http.settings.flags import SettingsCommand, settings_options

__all__ = ["command"]


@click.command("start", cls=SettingsCommand)
@settings_options()
def command(**flags: object) -> None:
    """Start the gateway.

    With --local it runs on its embedded control plane; without, it connects to the Coder
    deployment at --url with the gateway key from --key or --key-file.
    """
    serve(lambda: load(flags, os.environ))


def serve(read: Callable[[], Settings]) -> None:
    """Check the surroundings and run gunicorn until it ends.  Raises SettingsError.

    ``read`` makes the settings, now and again for each SIGHUP.
    """
    from aigateway.http.logs import configure
    from aigateway.http.server.application import GatewayApplication, check_address
    from aigateway.http.server.open_files import raise_limit
    from aigateway.http.server.reloading import check_tls

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        # gunicorn puts its own handlers into their places.
        signal.signal(number, _leave)
    settings = read()
    configure(settings)
    _check_providers(settings)
    _check_folder(settings.state_dir, "--state-dir")
    if settings.local:
        _check_database(settings)
    check_tls(settings)
    check_address(settings.http_address)
    raise_limit(settings.worker_connections)
    console = None
    if settings.console:
        from aigateway.http.cli.console import check
        from aigateway.http.server.console_service import ConsoleService

        check(settings, settings.console, "--console")
        console = ConsoleService(settings)
    metrics = None
    if settings.prometheus_enable:
        from aigateway.http.metrics.service import MetricsService

        metrics = MetricsService(settings.prometheus_address, settings.runtime_dir)
    try:
        GatewayApplication(settings, _make_app, metrics, read, console).run()
    finally:
        if console is not None:
            console.stop()
        if metrics is not None:
            metrics.stop()


def _make_app(settings: Settings) -> object:
    # Imported in the worker, after gevent has patched: not before the fork.
    from aigateway.http.app import create_app

    return create_app(settings)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Stopped before there is anything to stop."""
    # One more must not come while Python puts its handlers down.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT})
    raise SystemExit(0)


def _check_providers(settings: Settings) -> None:
    """Wrong variables stop the start; one that cannot serve is reported by the supervisor."""
    import structlog

    from aigateway.http.settings.provider_build import build_providers, provider_warnings
    from aigateway.http.settings.provider_env import read_providers

    log = structlog.get_logger("ai-gateway.providers")
    found = read_providers(settings.provider_environ, settings.provider_commands)
    providers = build_providers(found.entries, settings)
    for warning in (*settings.warnings, *found.warnings, *provider_warnings(providers)):
        log.warning(warning.message, env=warning.setting)


def _check_folder(folder: str, flag: str) -> None:
    try:
        path = Path(folder).expanduser()
    except RuntimeError as ex:
        raise SettingsError(f"there is no home folder for {folder}; set {flag}") from ex
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = path / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as ex:
        raise SettingsError(f"cannot write to {path}: {ex.strerror}; set {flag}") from ex


def _check_database(settings: Settings) -> None:
    from aigateway.actors.control.local.address import LocalDatabaseError, is_postgresql

    try:
        if is_postgresql(settings.local_db):
            _check_server(settings.local_db)
            return
        from aigateway.actors.control.local.schema import open_database

        open_database(settings.local_db).close()
    except LocalDatabaseError as ex:
        raise SettingsError(str(ex)) from ex


def _check_server(address: str) -> None:
    """Bring the schema up to date.  One that cannot be reached may come later.

    In a process of its own: gevent has yet to patch what psycopg looks at when it is imported.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "the check of the local database failed"
        try:
            said = _trouble_with(address)
        finally:
            os.write(writing, said.encode()[:4096])
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if said:
        raise SettingsError(said)


def _trouble_with(address: str) -> str:
    from aigateway.actors.control.local.address import LocalDatabaseAway, LocalDatabaseError
    from aigateway.actors.control.local.opening import open_address

    try:
        open_address(address).close()
    except LocalDatabaseAway as ex:
        import structlog

        structlog.get_logger("ai-gateway.database").warning(str(ex))
    except LocalDatabaseError as ex:
        return str(ex)
    return ""
