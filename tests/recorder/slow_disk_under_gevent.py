"""A spool on a slow disk, in a process that gevent has patched: run by its own test."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from gevent import monkey
from recorder_parts import spool_in, thought

from aigateway.actors.actor import sqlite as patient
from aigateway.actors.recorder import _spool_file
from aigateway.actors.recorder.spool import SpoolError

stand_still = monkey.get_original("time", "sleep")


class SlowDisk(patient.Connection):
    """Stops the thread that commits, as a write that does not return does."""

    seconds = 0.0
    full = False

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            stand_still(self.seconds)
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *more)


class Others:
    """A greenlet that wants to run all the time."""

    def __init__(self) -> None:
        self.longest_rest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Others:
        self._thread.start()
        time.sleep(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            time.sleep(0.001)
            now = time.monotonic()
            self.longest_rest = max(self.longest_rest, now - last)
            last = now


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[SlowDisk]:
    monkeypatch.setattr(_spool_file, "Connection", SlowDisk)
    monkeypatch.setattr(SlowDisk, "seconds", 0.0)
    monkeypatch.setattr(SlowDisk, "full", False)
    monkeypatch.setattr(patient, "_slow_until", 0.0)
    return SlowDisk


def test_only_the_first_slow_commit_stops_the_others(tmp_path: Path, disk: type[SlowDisk]) -> None:
    spool = spool_in(tmp_path)
    disk.seconds = 1.0
    with Others() as others:
        spool.write([thought("a")])
    assert others.longest_rest >= 1
    with Others() as others:
        spool.write([thought("b")])
    assert others.longest_rest < 0.9
    assert spool.depth == 2
    disk.seconds = 0.0
    spool.write([thought("c")])
    spool.close()


def test_an_error_of_a_slow_commit_undoes_what_was_written(
    tmp_path: Path, disk: type[SlowDisk], capfd: pytest.CaptureFixture[str]
) -> None:
    spool = spool_in(tmp_path)
    disk.seconds = 0.1
    spool.write([thought("a")])
    disk.full = True
    with pytest.raises(SpoolError) as failed:
        spool.write([thought("b")])
    assert "database or disk is full" in str(failed.value)
    disk.full = False
    spool.write([thought("c")])
    parcels, more = spool.read(0, 10, 1_000_000)
    assert [parcel.owner for parcel in parcels] == ["a", "c"]
    assert (more, spool.depth) == (False, 2)
    assert "Traceback" not in capfd.readouterr().err
    spool.close()
