"""Marks: what is known of records that were sent, over threads, kills and full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aigateway.actors.control.marks import PARCEL_BITS, SIZE, Fate, Marks


def seq(parcel: int, position: int = 0) -> int:
    return (parcel << PARCEL_BITS) + position


def again(marks: Marks, path: Path) -> Marks:
    """As the next process finds them."""
    marks.close()
    return Marks(path)


def test_what_is_in_the_air_when_the_process_ends_is_in_doubt(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    marks = Marks(path)
    assert marks.lasting
    for number in range(1, 5):
        assert marks.depart(seq(number))
        assert marks.fate(seq(number)) is Fate.FLYING
    marks.arrive(seq(1))
    marks.refused(seq(2))
    marks.lost(seq(3))
    marks = again(marks, path)
    fates = [marks.fate(seq(number)) for number in range(1, 6)]
    assert fates == [Fate.STORED, Fate.HERE, Fate.DOUBTFUL, Fate.DOUBTFUL, Fate.HERE]
    assert not marks.flying()


def test_a_doubt_stays_until_the_record_is_stored() -> None:
    marks = Marks()
    marks.depart(seq(1))
    marks.lost(seq(1))
    marks.depart(seq(1))
    assert marks.doubtful(seq(1))
    marks.refused(seq(1))
    assert marks.fate(seq(1)) is Fate.DOUBTFUL
    marks.depart(seq(1))
    marks.arrive(seq(1))
    assert marks.fate(seq(1)) is Fate.STORED


def test_whoever_waits_for_a_landing_is_told_once() -> None:
    marks, told = Marks(), []
    assert not marks.on_landing(seq(1), lambda: told.append(1))
    marks.depart(seq(1))
    assert marks.on_landing(seq(1), lambda: told.append(marks.fate(seq(1))))
    marks.arrive(seq(1))
    marks.arrive(seq(1))
    assert told == [Fate.STORED]
    assert not marks.on_landing(seq(1), lambda: told.append(1))


def test_a_whole_parcel_takes_one_mark(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    marks = Marks(path)
    places = SIZE // 8 - 1
    for parcel in range(1, places + 1):
        for position in range(2 if parcel < places else 1):
            assert marks.depart(seq(parcel, position))
            marks.arrive(seq(parcel, position))
        marks.fold(parcel)
    assert not marks.depart(seq(places + 1))
    marks = again(marks, path)
    assert marks.fate(seq(7, 1)) is Fate.STORED
    marks.forget([7])
    assert marks.fate(seq(7, 1)) is Fate.HERE
    assert marks.depart(seq(places + 1))


def test_what_left_the_spool_is_forgotten() -> None:
    marks = Marks()
    for position in range(3):
        marks.depart(seq(1, position))
    marks.arrive(seq(1, 0))
    marks.lost(seq(1, 1))
    marks.forget_stored(1)
    assert marks.fate(seq(1, 0)) is Fate.HERE
    assert marks.fate(seq(1, 1)) is Fate.DOUBTFUL
    marks.forget([1])
    assert not marks.knows(1)
    # It may land after that.
    marks.arrive(seq(1, 2))
    assert not marks.knows(1)


def test_a_folder_that_takes_no_file_costs_the_memory_over_a_kill_only(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "nowhere" / "marks")
    assert not marks.lasting
    assert marks.depart(seq(1))
    marks.arrive(seq(1))
    assert marks.fate(seq(1)) is Fate.STORED


def test_a_file_that_is_none_of_ours_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    path.write_bytes(b"\xff" * SIZE)
    assert Marks(path).parcels() == []
    assert path.stat().st_size == SIZE


_KILLED = """
import sys
from pathlib import Path
from aigateway.actors.control.marks import Marks
marks = Marks(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    marks.depart(number << 8)
    if number % 3:
        marks.arrive(number << 8)
    if number > 50:
        marks.forget([number - 50])
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 60, 500])
def test_a_killed_process_leaves_its_marks(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "marks"
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        last = max(int(process.stdout.readline()) for _ in range(lines))
        os.kill(process.pid, signal.SIGKILL)
        last = max([last, *(int(line) for line in process.stdout if line.endswith("\n"))])
    marks = Marks(path)
    for number in range(max(1, last - 48), last + 1):
        wanted = Fate.STORED if number % 3 else Fate.DOUBTFUL
        assert marks.fate(seq(number)) is wanted
    assert len(marks.parcels()) <= 52
