"""The comparison of gateways that are watched with one that is not, cut short."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
SHORT = """
import sys
from bench import observability_cost as program
program.VARIANTS = (program.OFF, program.VARIANTS[-1])
program.WARM_UP, program.SCRAPES = 0.1, 1
sys.argv = ["program", "2", "0.3"]
program.main()
"""


def test_it_prints_a_row_for_each_variant_and_leaves_no_process(
    marked_environ: dict[str, str], left_over: Callable[[], list[str]]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT],
        cwd=CHECKOUT,
        env=marked_environ,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_over() == []
    _head, _rule, off, on = done.stdout.splitlines()
    assert re.fullmatch(r"\| everything off \| \d+ µs \| 1\.00 \|  \|", off)
    assert re.fullmatch(r"\| .*traces \| \d+ µs \| \d+\.\d+ \| \S+ to \S+ \|", on)
