"""``aigateway export``: records of the local database as JSON lines or CSV."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from aigateway.actors.control.local.audit import Change
from aigateway.actors.control.local.export import (
    COLUMNS,
    WITHOUT_CONTENT,
    Place,
    Row,
    export,
    settled_until,
)
from aigateway.actors.values.records import timestamp
from aigateway.http.cli._local_database import database_options, note_look, reading
from aigateway.http.cli._moments import moment, within_the_calendar
from aigateway.http.settings.printable import csv_field

__all__ = ["command"]

_BLOCK = 65_536
"""Bytes of a file that are read at once, from its end."""


@click.command(name="export")
@click.option(
    "--kind",
    type=click.Choice(list(COLUMNS)),
    default="requests",
    show_default=True,
    help="Which records.",
)
@click.option(
    "--since",
    callback=moment,
    metavar="TIME",
    help="Of requests from then on: a date, an RFC 3339 time, today, yesterday, or 7d for seven"
    " days ago. Days are UTC.  [default: the first]",
)
@click.option(
    "--until",
    callback=moment,
    metavar="TIME",
    help="Of requests before then.  [default: the last that has ended]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON objects, one a line, or CSV with a line of names.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write, which only its owner may read.  [default: standard output]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where --output ends, however its last run ended. Kind and format must be the same.",
)
@database_options
def command(
    kind: str,
    since: float | None,
    until: float | None,
    form: str,
    output: Path | None,
    resume: bool,
    **flags: object,
) -> None:
    """Write records of a gateway that runs with --local, the oldest first, one kind at a time.

    Requests that have not ended, and all that began after them, are left for the next time, so
    that what was written does not change: a cron job with --resume has every record once. Files
    have the names of the tables' columns.
    """
    if resume and output is None:
        raise click.UsageError("--resume goes on with a file: name it with --output")
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    columns = COLUMNS[kind]
    line = _json_line(columns) if form == "jsonl" else _csv_line
    with within_the_calendar():
        first = timestamp(since) if since is not None else ""
        last = timestamp(until) if until is not None else None
    if kind not in WITHOUT_CONTENT:
        told = {"since": first or None, "until": last, "format": form}
        note_look(flags, Change("look.export", f"{kind} of all users", after=told))
    with reading(flags) as connection, _opened(output, resume) as file:
        at = _cut_back(file, form, columns) if resume else None
        if form == "csv" and (output is None or file.tell() == 0):
            file.write(f"{','.join(columns)}\n".encode())
        settled = settled_until(connection, time.time(), kind)
        rows = export(connection, kind, since=first, until=min(settled, last or settled), at=at)
        for row in rows:
            file.write(line(row))


@contextmanager
def _opened(output: Path | None, resume: bool) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    how = os.O_RDWR | os.O_CREAT | (0 if resume else os.O_TRUNC)
    try:
        with open(os.open(output, how, 0o600), "r+b") as file:
            yield file
    except OSError as ex:
        raise click.ClickException(f"--output {output}: {(ex.strerror or str(ex)).lower()}") from ex


def _json_line(columns: tuple[str, ...]) -> Callable[[Row], bytes]:
    def line(row: Row) -> bytes:
        values = dict(zip(columns, row, strict=True))
        if "metadata" in values:
            values["metadata"] = json.loads(values["metadata"])
        return f"{json.dumps(values)}\n".encode()

    return line


def _csv_line(row: Row) -> bytes:
    # No field has a line break: one row is one line.
    fields = (csv_field("" if value is None else value) for value in row)
    return f"{','.join(fields)}\n".encode("utf-8", "replace")


# -- going on with a file


def _cut_back(file: BinaryIO, form: str, columns: tuple[str, ...]) -> Place | None:
    """Take the last request out of a file, since the file may have ended within it, and say
    which one that is; None: there is none.  The file stands at its end then."""
    last: Place | None = None
    end = file.seek(0, os.SEEK_END)
    for start, line in _lines_from_the_end(file):
        if not line.endswith(b"\n"):
            end = start
            continue
        place = _place_of(line, form, columns)
        if place is None:
            break
        if last is not None and place != last:
            break
        last, end = place, start
    file.truncate(end)
    file.seek(end)
    return last


def _place_of(line: bytes, form: str, columns: tuple[str, ...]) -> Place | None:
    """Which request a line is of; None for the line of names.  Raises click.ClickException."""
    try:
        if form == "jsonl":
            values = json.loads(line)
            names = tuple(values)
        else:
            (fields,) = csv.reader([line.decode()])
            if tuple(fields) == columns:
                return None
            names = columns if len(fields) == len(columns) else ()
            values = dict(zip(columns, fields, strict=False))
        if names == columns:
            return Place(str(values["started_at"]), str(values["interception_id"]))
    except (ValueError, TypeError, csv.Error):
        pass
    raise click.ClickException("--resume: the file has other records, or in another format")


def _lines_from_the_end(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, the last one first, each with where it begins."""
    at = file.seek(0, os.SEEK_END)
    tail = b""
    while at > 0:
        size = min(_BLOCK, at)
        at = file.seek(at - size)
        tail = file.read(size) + tail
        first, *lines = _split(tail)
        place = at + len(tail)
        for line in reversed(lines):
            place -= len(line)
            yield place, line
        tail = first
    if tail:
        yield 0, tail


def _split(data: bytes) -> list[bytes]:
    """The lines of some bytes, which are not empty."""
    *lines, rest = data.split(b"\n")
    whole = [line + b"\n" for line in lines]
    return [*whole, rest] if rest else whole
