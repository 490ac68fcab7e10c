"""Files that name the keys to be made, one a line."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any

from attrs import evolve

from aigateway.actors.control.local.api_keys import WantedKey
from aigateway.http.cli._moments import seconds_of

__all__ = ["BadKeyFile", "read_key_file"]

COLUMNS = ("username", "user_id", "group", "name", "project", "expires_in")


class BadKeyFile(ValueError):
    """The text names the line and what is wrong with it."""


def read_key_file(lines: Iterable[str], plain: WantedKey) -> list[WantedKey]:
    """The keys that a CSV file asks for; ``plain`` has what it leaves out.

    The first line names the columns, unless each line is one user's name.  Raises BadKeyFile.
    """
    reader = csv.reader(lines, skipinitialspace=True)
    wanted: list[WantedKey] = []
    columns: list[str] | None = None
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if columns is None:
                columns = _columns(cells)
                if columns == cells:
                    continue
            wanted.append(_wanted(cells, columns, plain))
    except (csv.Error, ValueError) as ex:
        # What is not UTF-8 is a ValueError too.
        raise BadKeyFile(f"--from: line {reader.line_num}: {ex}") from ex
    if not wanted:
        raise BadKeyFile("--from: the file names no keys")
    return wanted


def _columns(cells: list[str]) -> list[str]:
    if not any(cell in COLUMNS for cell in cells):
        if len(cells) > 1:
            raise ValueError(f"the first line must name the columns, of {', '.join(COLUMNS)}")
        return ["username"]
    for cell in cells:
        if cell not in COLUMNS:
            raise ValueError(f'"{cell}" is no column; there are {", ".join(COLUMNS)}')
        if cells.count(cell) > 1:
            raise ValueError(f'the column "{cell}" is there twice')
    return cells


def _wanted(cells: list[str], columns: list[str], plain: WantedKey) -> WantedKey:
    if len(cells) > len(columns):
        raise ValueError(f"there are {len(cells)} values for {len(columns)} columns")
    given: dict[str, Any] = {
        name: value for name, value in zip(columns, cells, strict=False) if value
    }
    if "expires_in" in given:
        given["expires_in"] = seconds_of(text := given["expires_in"])
        if given["expires_in"] is None:
            raise ValueError(f'"{text}" is no duration: write for example 90d or 12h')
    key = evolve(plain, **given)
    if not key.username and not key.group:
        raise ValueError("it names neither a user nor a group")
    if key.group and (key.username or key.user_id):
        raise ValueError("a key is of a user or of a group, not of both")
    return key
