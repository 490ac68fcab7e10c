"""The fast gate tests something of every room."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
LIST = CHECKOUT / ".ci" / "fast.txt"


def lines() -> list[str]:
    """Without comments."""
    found = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in found if line]


def fast_paths() -> list[Path]:
    return [CHECKOUT / line for line in lines() if not line.startswith("none ")]


def rooms_without() -> set[Path]:
    """Of which nothing is quick."""
    return {CHECKOUT / line.removeprefix("none ") for line in lines() if line.startswith("none ")}


def files_of(path: Path) -> list[Path]:
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def rooms() -> set[Path]:
    """Folders that have tests right in them."""
    return {file.parent for file in files_of(CHECKOUT / "tests")}


def test_every_room_is_in_the_fast_gate_or_said_to_have_nothing_quick() -> None:
    chosen = {file.parent for path in fast_paths() for file in files_of(path)}
    assert chosen | rooms_without() == rooms()
    assert not chosen & rooms_without()


def test_every_line_of_the_fast_gate_names_tests_that_no_other_line_names() -> None:
    files = [file for path in fast_paths() for file in files_of(path)]
    assert [file for file in files if not file.is_file()] == []
    assert len(files) == len(set(files))
    assert all(files_of(path) for path in fast_paths())


def test_a_room_is_said_to_have_nothing_quick_with_a_reason() -> None:
    told = [line for line in LIST.read_text().splitlines() if line.startswith("none ")]
    assert told
    assert all(line.partition("#")[2].strip() for line in told)


def test_the_gate_refuses_a_speed_that_it_does_not_have() -> None:
    done = subprocess.run(
        [CHECKOUT / ".ci" / "run", "slow"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "usage: .ci/run [fast]\n"
