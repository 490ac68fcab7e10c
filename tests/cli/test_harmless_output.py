"""Names that clients choose, in what people open in a terminal or a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from aigateway.http.diagnosis.report import as_text
from aigateway.http.settings.printable import csv_field, printable

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1+2",
    "@SUM(A1)",
    " =1",
    "\t=1",
    "\r\n=1",
    "\uff1dcmd",
    '=HYPERLINK("http://x","y")',
    "\x1b=1",
]
PLAIN = ["claude-x", "a=b", "gpt-4+vision", "a,b", 'a "b"', "a; b", "Zoë", "a|b", ""]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_field_of_a_csv_file_is_a_formula(name: str) -> None:
    for separator in (",", ";", "\t", "|"):
        line = f"x{separator}{csv_field(name)}{separator}1"
        [[first, field, last]] = csv.reader(io.StringIO(line), delimiter=separator)
        assert (first, last) == ("x", "1")
        assert field.startswith(("'", "\\x1b"))
        assert field.isprintable()


@pytest.mark.parametrize("name", PLAIN)
def test_any_other_field_reads_back_as_it_was(name: str) -> None:
    [[field, last]] = csv.reader(io.StringIO(f"{csv_field(name)},{csv_field(-5)}"))
    assert (field, last) == (name, "-5")


@pytest.mark.parametrize("name", ["\x1b[31m", "a\nb", "\x07", "\x9b2J", "\u202eabc", "\u2028"])
def test_nothing_that_a_terminal_obeys_is_printed(name: str) -> None:
    assert printable(name).isprintable()
    assert printable(name) != name
    snapshot = {
        "pid": 1,
        "server": name,
        "seconds": 1,
        "actors": [],
        "requests": 0,
        "executing": 0,
        "stacks": [],
        "left_out": 0,
    }
    assert as_text(snapshot).replace("\n", "").isprintable()
    assert printable("Zoë 日本 x") == "Zoë 日本 x"
