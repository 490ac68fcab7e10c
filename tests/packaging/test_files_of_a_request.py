"""What a reader has to open who follows one request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("files_of_a_request.py")
BOUND = 25
"""Files."""


def test_a_warm_stream_passes_few_files_and_the_internals_list_them_in_order() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout.strip()
    assert len(table.splitlines()) - 2 <= BOUND
    written = (CHECKOUT / "docs" / "internals.md").read_text()
    assert table in written, f"docs/internals.md has another table; {PROGRAM.name} prints this one"
