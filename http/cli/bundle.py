"""``aigateway bundle``: a support archive to attach to a bug report."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path

import click

from aigateway.http.cli import _bundle_sources as sources
from aigateway.http.cli.check import examine_all
from aigateway.http.logs import secrets_of
from aigateway.http.settings import SettingsError
from aigateway.http.settings.flags import SettingsCommand, settings_options

__all__ = ["command"]

_ABOUT = """\
A support archive of aigateway, made {when} UTC.

settings.txt, settings.json  effective settings and where each is from; secrets masked
environment.json             versions of Python, the system and all packages
actors.json                  the actors of each worker process of the running gateway
trace.txt                    what each of them does at this moment, and where every thread is
metrics.txt                  its metrics; they name users by id
spool.json                   how many records wait, by kind; nothing of the records
logs/                        the last lines of each log file

It holds no keys, prompts or answers. User ids, provider names and addresses are in it: look
through it before you give it away.
"""


@click.command(cls=SettingsCommand)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="The archive to write, aigateway-bundle-TIME.tar.gz by default.",
)
@click.option(
    "--log-lines",
    type=click.IntRange(0, 100_000),
    default=1000,
    show_default=True,
    help="Lines from the end of each log file.",
)
@settings_options()
def command(output: Path | None, log_lines: int, **flags: object) -> None:
    """Write a support archive: settings, versions, actors, traces, metrics, the last log lines.

    Takes the options and the environment of the `aigateway start` that it is about. Secrets
    are masked. A gateway need not be running.
    """
    output = output or Path(time.strftime("aigateway-bundle-%Y%m%d-%H%M%S.tar.gz", time.gmtime()))
    files = _collect(flags, log_lines)
    try:
        # For its owner: an archive without secrets is still nobody else's business.
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as ex:
        raise SettingsError(f"cannot write {output}: {ex.strerror}; set --output") from ex
    with open(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in files.items():
            data = text.encode("utf-8", "backslashreplace")
            entry = tarfile.TarInfo(f"aigateway-bundle/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
    click.echo(f"{output} written; look through it before you give it away.")


def _collect(flags: dict[str, object], log_lines: int) -> dict[str, str]:
    report = examine_all(flags)
    settings = report.settings
    files = {
        "ABOUT.txt": _ABOUT.format(when=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())),
        **sources.settings_files(report),
        "environment.json": sources.environment(),
        "actors.json": sources.actors(settings),
        "trace.txt": sources.trace(settings),
        "metrics.txt": sources.metrics(settings),
        "spool.json": sources.spools(settings),
        **sources.log_tails(settings, log_lines),
    }
    # A net below the rule that none of these holds a secret.
    secrets = secrets_of(settings)
    return {name: secrets.apply(text) for name, text in files.items()}
