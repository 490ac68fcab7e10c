"""Counts that all worker processes of a gateway share, in a file."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from pathlib import Path

import pytest
from limits import RateLimitItemPerMinute

from aigateway.http.request.shared_windows import CountsFile, windows_in


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_window_opens_with_the_first_and_ends_for_all(tmp_path: Path) -> None:
    clock = Clock()
    one, two = (CountsFile(tmp_path / "counts.db", clock) for _ in range(2))
    assert (one.get("k"), one.get_expiry("k")) == (0, 1000.0)
    assert one.incr("k", 60) == 1
    clock.now += 10
    assert two.incr("k", 60, 5) == 6
    assert (one.get("k"), one.get_expiry("k")) == (6, 1060.0)
    assert one.incr("other", 60) == 1
    clock.now = 1060.0
    assert two.get("k") == 0
    assert one.incr("k", 60) == 1
    assert two.get_expiry("k") == 1120.0


def test_windows_that_are_over_are_swept(tmp_path: Path) -> None:
    clock = Clock()
    counts = CountsFile(tmp_path / "counts.db", clock)
    for number in range(10):
        counts.incr(str(number), 60)
    clock.now += 61
    counts.incr("new", 60)
    with sqlite3.connect(tmp_path / "counts.db") as database:
        assert database.execute("SELECT key FROM counts").fetchall() == [("new",)]
    database.close()


def test_a_limit_holds_over_threads(tmp_path: Path) -> None:
    item = RateLimitItemPerMinute(50)
    windows = [windows_in(tmp_path / "run", "gateway.db") for _ in range(2)]
    let_in = []

    def enter(number: int) -> None:
        for _ in range(30):
            if windows[number % 2].hit(item, "user"):
                let_in.append(number)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 50


def _enter(folder: Path, hits: int) -> int:
    windows, item = windows_in(folder, "gateway.db"), RateLimitItemPerMinute(50)
    return sum(windows.hit(item, "user") for _ in range(hits))


def test_a_limit_holds_over_processes(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        asked = [pool.apply_async(_enter, (tmp_path, 40)) for _ in range(2)]
        assert sum(each.get(60) for each in asked) == 50


def test_gateways_on_other_databases_count_for_themselves(tmp_path: Path) -> None:
    item = RateLimitItemPerMinute(1)
    assert windows_in(tmp_path, "one.db").hit(item, "user")
    assert windows_in(tmp_path, "two.db").hit(item, "user")
    assert not windows_in(tmp_path, "one.db").hit(item, "user")


def test_a_folder_that_cannot_be_written_is_an_error_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        windows_in(tmp_path / "file", "gateway.db")


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    windows_in(tmp_path / "run", "gateway.db")
    [file] = (tmp_path / "run").glob("windows-*.db")
    assert file.stat().st_mode & 0o777 == 0o600
