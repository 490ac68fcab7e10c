"""Logging: one stream of entries to every configured output.

Code logs with ``structlog.get_logger("name")``; what other libraries log by the standard
library's ``logging`` joins the same stream.  Each line is one ``write`` to a file opened for
appending: lines of several processes do not mix, nothing is buffered, and a fork finds
no lock held.  What belongs on which level is written down in ``docs/operate.md``.
"""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import NoReturn

import structlog
from attrs import define, field, frozen

from aigateway.actors.control.local.address import password_of
from aigateway.http.logs.lines import (
    LogEntry,
    Renderer,
    SecretMask,
    format_exception,
    human_line,
    json_line,
    stackdriver_line,
)
from aigateway.http.settings import OPTIONS, Settings, SettingsError

__all__ = [
    "ATTACHED",
    "configure",
    "masked",
    "register_secret",
    "register_secrets_of",
    "reopen_logs",
    "secrets_of",
    "stop_logging",
    "tap_logs",
    "write_line",
]

_QUIET = ("botocore", "urllib3", "websocket", "boto3", "s3transfer")
"""Libraries whose debug lines hold credentials or bodies: they log from info on, always."""

_STANDARD_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2, "-": 2}
"""Written by number: opening /dev/stderr fails where it is a socket, as under systemd."""

_FULL_PIPE_WAIT = 1.0
"""Seconds to wait for a slow reader of an output before a line is dropped."""


ATTACHED = "attached"
"""The field of an entry that holds several lines: people see them below it."""

Tap = Callable[[str, str, dict[str, str]], None]
"""Takes level, message and fields of an entry, secrets masked."""


@frozen
class _Output:
    descriptor: int
    render: Renderer


@define
class _State:
    outputs: tuple[_Output, ...] = ()
    debug: bool = False
    filters: tuple[re.Pattern[str], ...] = ()
    files: dict[str, int] = field(factory=dict)
    """Descriptor by path.  A number once taken is kept: another thread may be about to write
    to it, and must never hit a socket that got the same number."""
    secrets: SecretMask = field(factory=SecretMask)
    bridge: _Bridge | None = None
    tap: Tap | None = None


def configure(settings: Settings) -> None:
    """Log from now on as ``settings`` say; may be called again (a reload, after a rotation).

    Raises SettingsError when an output cannot be opened; then nothing has changed.
    """
    wanted = (
        (settings.log_human, human_line),
        (settings.log_json, json_line),
        (settings.log_stackdriver, stackdriver_line),
    )
    opened = _open({path for path, _ in wanted if path and path not in _STANDARD_STREAMS})
    _install_files(opened)
    _STATE.outputs = tuple(
        _Output(_STANDARD_STREAMS.get(path) or _STATE.files[path], render)
        for path, render in wanted
        if path
    )
    _STATE.filters = tuple(re.compile(text) for text in settings.log_filter)
    _STATE.debug = settings.verbose or bool(_STATE.filters)
    register_secrets_of(settings)
    level = logging.DEBUG if _STATE.debug else logging.INFO
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _emit],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Logger,
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    _bridge_standard_logging(level)


def reopen_logs() -> None:
    """Open all files again by their paths, after something has moved them (log rotation).

    A file that cannot be opened goes on where it was, and that is logged.
    """
    for path in list(_STATE.files):
        try:
            _replace(path, _open([path])[path])
        except SettingsError as ex:
            _write("error", "aigateway", str(ex), {}, None)


def tap_logs(tap: Tap | None) -> None:
    """Show each entry to ``tap`` too, in the thread or greenlet that logs it."""
    _STATE.tap = tap


def stop_logging() -> None:
    """Undo :func:`configure`, for tests: files closed, secrets forgotten."""
    structlog.reset_defaults()
    if _STATE.bridge is not None:
        logging.getLogger().removeHandler(_STATE.bridge)
        logging.captureWarnings(False)
        _STATE.bridge = None
    _STATE.outputs = ()
    _STATE.tap = None
    _STATE.secrets.clear()
    for descriptor in _STATE.files.values():
        os.close(descriptor)
    _STATE.files.clear()


# -- secrets


def register_secret(value: str) -> None:
    """Mask ``value`` in every line from now on."""
    _STATE.secrets.add([value])


def register_secrets_of(settings: Settings) -> None:
    """Mask every secret that the settings and the providers' variables hold."""
    _STATE.secrets.add(_secrets_of(settings))


def masked(text: str) -> str:
    """``text`` as a log line would show it: without the secrets that this process knows."""
    return _STATE.secrets.apply(text)


def secrets_of(settings: Settings) -> SecretMask:
    """A mask that knows these, for other texts than log lines."""
    secrets = SecretMask()
    secrets.add(_secrets_of(settings))
    return secrets


def _secrets_of(settings: Settings) -> Iterable[str]:
    yield settings.gateway_key
    yield password_of(settings.local_db)
    for row in OPTIONS:
        value = getattr(settings, row.name)
        if row.kind.is_list and row.secret:
            yield from (part.partition("=")[2].strip() for part in value)
        elif row.secret:
            yield value
        elif row.kind.may_hold_secret:
            yield from _password(value)
    for name, value in settings.provider_environ.items():
        upper = name.upper()
        if upper.endswith(("KEY", "SECRET", "TOKEN")):
            yield value
        elif upper.endswith(("KEYS", "SECRETS")):
            yield from value.split(",")
        elif upper.endswith("PROXY"):
            yield from _password(value)


def _password(address: str) -> list[str]:
    match = re.search(r"://[^/@]*:([^/@]+)@", address)
    return [match[1]] if match else []


# -- from a logger to the outputs


@frozen
class _Logger:
    """What structlog hands to the processors; it only knows its name."""

    name: str = "aigateway"


def write_line(level: str, name: str, message: str, fields: Mapping[str, object]) -> None:
    """What ``get_logger(name)`` would do with this, level and bound fields left aside.

    PERF: for the line of each request; structlog's own way there costs as much as the line.
    """
    _write(level, name, message, fields, None)


def _emit(
    logger: _Logger, method: str, event: MutableMapping[str, object]
) -> NoReturn:  # structlog's last processor
    level = {"warn": "warning", "exception": "error", "fatal": "critical"}.get(method, method)
    message = str(event.pop("event", ""))
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    _write(level, logger.name, message, event, exc_info, str(event.pop(ATTACHED, "")))
    raise structlog.DropEvent


class _Bridge(logging.Handler):
    """Takes what the standard library's loggers pass on."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:
            message = f"{record.msg} {record.args}"
        level = "debug"
        for name, least in _LEVELS:
            if record.levelno >= least:
                level = name
        name = record.name.removesuffix(".error") if "gunicorn" in record.name else record.name
        _write(level, name, message, {}, record.exc_info)


_LEVELS = (
    ("info", logging.INFO),
    ("warning", logging.WARNING),
    ("error", logging.ERROR),
    ("critical", logging.CRITICAL),
)


def _bridge_standard_logging(level: int) -> None:
    root = logging.getLogger()
    if _STATE.bridge is None:
        _STATE.bridge = _Bridge()
        root.addHandler(_STATE.bridge)
        logging.captureWarnings(True)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.INFO)


def _write(
    level: str,
    name: str,
    message: str,
    fields: Mapping[str, object],
    exc_info: object,
    attached: str = "",
) -> None:
    state = _STATE
    if not state.outputs and state.tap is None:
        return
    if level == "debug" and state.filters and not _matches(state.filters, name, message):
        return
    entry = LogEntry(
        at=time.time(),
        level=level,
        name=name,
        message=message,
        fields=fields,
        exception=format_exception(exc_info) if exc_info else "",
        attached=attached,
    )
    for output in state.outputs:
        line = state.secrets.apply(output.render(entry))
        _append(output.descriptor, f"{line}\n".encode("utf-8", "backslashreplace"))
    if state.tap is not None:
        mask = state.secrets.apply
        shown = {key: mask(str(value)) for key, value in fields.items() if value is not None}
        state.tap(level, mask(message), {"logger": name, **shown})


def _matches(filters: tuple[re.Pattern[str], ...], name: str, message: str) -> bool:
    return any(f.search(name) or f.search(message) for f in filters)


def _append(descriptor: int, data: bytes) -> None:
    """Write it all; a full disk or a reader that is gone must not stop a request."""
    try:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                if not select.select([], [descriptor], [], _FULL_PIPE_WAIT)[1]:
                    return
    except OSError:
        return


# -- files


def _open(paths: Iterable[str]) -> dict[str, int]:
    opened: dict[str, int] = {}
    for path in paths:
        try:
            opened[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        except OSError as ex:
            for descriptor in opened.values():
                os.close(descriptor)
            raise SettingsError(f'make logger: open "{path}": {ex.strerror}') from ex
    return opened


def _install_files(opened: Mapping[str, int]) -> None:
    """Put new files under the numbers of the old ones; those not used any more lead nowhere."""
    for path in _STATE.files.keys() - opened.keys():
        _replace(path, os.open(os.devnull, os.O_WRONLY))
    for path, descriptor in opened.items():
        if path in _STATE.files:
            _replace(path, descriptor)
        else:
            _STATE.files[path] = descriptor


def _replace(path: str, descriptor: int) -> None:
    os.dup2(descriptor, _STATE.files[path], inheritable=False)
    os.close(descriptor)


_STATE = _State()
