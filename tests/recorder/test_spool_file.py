"""The spool as a file: what is in it, whose it is, and what happens when it is damaged."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from attrs import evolve
from recorder_parts import end, spool_in, text_of, thought, tokens

from aigateway.actors.recorder import _spool_file
from aigateway.actors.recorder._spool_file import VACUUM_STEP
from aigateway.actors.recorder.parcels import PARCEL_SIZE, Changes, DeadRecord, Parcel, Refusal
from aigateway.actors.recorder.spool import (
    Spool,
    SpoolCorrupt,
    SpoolError,
    adopt_spool,
    claim_spool,
    replace_damaged,
)

SURROGATE = "half \ud83d"


def texts(parcels: list[Parcel]) -> list[str]:
    return [text_of(spooled) for parcel in parcels for spooled in parcel.records]


def read_all(spool: Spool) -> list[Parcel]:
    parcels, more = spool.read(0, 10_000, 1 << 40)
    assert not more
    return parcels


def hold(parcel: Parcel, **refusal: Any) -> Changes:
    why = Refusal(next_at=50.0, since=40.0, attempts=3, counted=2, reason="no", **refusal)
    return Changes(held=[parcel], refusals={parcel.owner: why})


# -- what is in it


def test_records_of_one_interception_that_come_together_are_one_parcel(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    parcels = spool.write([thought("a", "1"), tokens("a"), thought("b", "1"), end("a")])
    assert [parcel.owner for parcel in parcels] == ["a", "b", "a"]
    assert [len(parcel.records) for parcel in parcels] == [2, 1, 1]
    numbers = [spooled.seq for parcel in parcels for spooled in parcel.records]
    assert numbers == sorted(set(numbers))
    read = read_all(spool)
    assert [(p.number, p.owner, p.records, p.size) for p in read] == [
        (p.number, p.owner, p.records, p.size) for p in parcels
    ]
    assert (spool.depth, spool.stats().oldest) == (4, 100.0)
    assert spool.write() == []
    spool.close()


def test_many_records_at_once_are_several_parcels(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    parcels = spool.write([thought("a", str(n)) for n in range(PARCEL_SIZE + 1)])
    assert [len(parcel.records) for parcel in parcels] == [PARCEL_SIZE, 1]
    spool.close()


def test_reading_stops_at_a_number_and_at_a_size(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    parcels = spool.write([thought(str(n), "x" * 100) for n in range(5)])
    size = parcels[0].size
    first, more = spool.read(0, 2, 1 << 30)
    assert ([p.number for p in first], more) == ([p.number for p in parcels[:2]], True)
    # The last one may go over the size, so that any parcel can be read.
    second, more = spool.read(first[-1].number, 10, size + 1)
    assert ([p.number for p in second], more) == ([p.number for p in parcels[2:4]], True)
    third, more = spool.read(second[-1].number, 10, size + 1)
    assert ([p.number for p in third], more) == ([parcels[4].number], False)
    spool.close()


def test_changes_are_kept_over_a_restart(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    done, part, held, dead = spool.write(
        [thought("done"), thought("part", "1"), thought("part", "2"), thought("held"), end("dead")]
    )
    part.records = part.records[1:]
    changes = hold(held)
    changes.rewritten[part.number] = part
    changes.done = [done.number, dead.number]
    changes.dead = [DeadRecord(dead.records[0], 7, f"no {SURROGATE}")]
    changes.gone = 3
    assert spool.write([], changes, now=60.0) == []
    spool.close()

    spool = spool_in(tmp_path)
    (left,) = read_all(spool)
    # What is left keeps its number.
    assert left.records == part.records
    ((owner, refusal),) = spool.refusals()
    assert owner == "held"
    assert (refusal.next_at, refusal.since, refusal.attempts) == (50.0, 40.0, 3)
    assert (refusal.counted, refusal.reason, refusal.parcels) == (2, "no", 1)
    first = spool.first_held("held")
    assert first is not None
    assert first.records == held.records
    assert spool.first_held("nobody") is None
    (letter,) = spool.list_dead_letters()
    assert (letter.interception_id, letter.kind, letter.attempts) == ("dead", "ended", 7)
    assert (letter.created_at, letter.set_aside_at, letter.reason) == (100.0, 60.0, "no half ?")
    assert (spool.depth, spool.dead_letters) == (2, 1)
    first.held = True
    spool.write(
        [],
        Changes(done_held=[held.number], done=[part.number], refusals={"held": None}, gone=2),
    )
    assert (spool.depth, spool.refusals(), spool.stats().oldest) == (0, [], None)
    spool.close()


def test_a_part_of_a_held_parcel_can_go(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    (parcel,) = spool.write([thought("a", "1"), thought("a", "2")])
    spool.write([], hold(parcel))
    held = spool.first_held("a")
    assert held is not None
    held.held, held.records = True, held.records[1:]
    spool.write([], Changes(rewritten={held.number: held}, gone=1))
    left = spool.first_held("a")
    assert left is not None
    assert texts([left]) == ["a:2"]
    assert spool.depth == 1
    spool.close()


def test_a_record_that_no_encoding_takes_is_kept_as_well_as_possible(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    odd = {SURROGATE: SURROGATE, "o": object, "n": 1 << 80, "l": [(1, None, 1.5)], "b": True}
    spool.write([thought("a", "good"), thought("a", SURROGATE, metadata=odd), tokens("a")])
    (parcel,) = read_all(spool)
    good, repaired, _ = (spooled.record for spooled in parcel.records)
    assert evolve(good, record_id="") == thought("a", "good")
    assert repaired.content == "half ?"  # type: ignore[union-attr]
    assert repaired.metadata == {  # type: ignore[union-attr]
        "half ?": "half ?",
        "o": "<class 'object'>",
        "n": str(1 << 80),
        "l": [[1, None, 1.5]],
        "b": True,
    }
    spool.close()


def test_a_record_without_an_id_gets_one_that_stays(tmp_path: Path) -> None:
    """So a store that recognises records never has it twice, however often it is sent."""
    spool = spool_in(tmp_path)
    mine = evolve(thought("a", "1"), record_id="7")
    spool.write([mine, thought("a", "2"), thought("a", "3"), end("a")])
    before = [spooled.record for parcel in read_all(spool) for spooled in parcel.records]
    spool.close()
    spool = claim_spool(tmp_path)
    assert [s.record for parcel in read_all(spool) for s in parcel.records] == before
    first, *others, _ = before
    assert first == mine
    assert len({record.record_id for record in others}) == 2
    assert all(record.record_id for record in others)
    spool.close()


def test_a_record_that_cannot_be_repaired_takes_no_other_along(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    hopeless = tokens("a")
    object.__setattr__(hopeless, "input_tokens", object())
    assert spool.write([hopeless]) == []
    assert texts(spool.write([thought("a"), hopeless])) == ["a:"]
    assert spool.depth == 1
    spool.close()


@pytest.mark.parametrize("table", ["parcels", "held"])
def test_a_parcel_that_cannot_be_read_is_set_aside(tmp_path: Path, table: str) -> None:
    spool = spool_in(tmp_path)
    bad, good = spool.write([thought("a", "1"), thought("a", "2"), thought("b")])
    spool.write([], hold(good)) if table == "parcels" else spool.write([], hold(bad))
    spool._db.execute(f"UPDATE {table} SET payload = x'C1' WHERE number = ?", (bad.number,))
    if table == "parcels":
        assert read_all(spool) == []
    else:
        assert spool.first_held("a") is None
    (letter,) = spool.list_dead_letters()
    assert (letter.interception_id, letter.kind) == ("a", "unreadable")
    assert "unreadable" in letter.reason
    assert (spool.depth, spool.dead_letters) == (1, 1)
    assert spool.revive(spool.last_dead_letter()) == []
    spool.close()


# -- dead letters


def _with_dead_letters(folder: Path, count: int) -> Spool:
    spool = spool_in(folder)
    parcels = spool.write([thought("a", str(n)) for n in range(count)])
    dead = [DeadRecord(s, 1, "no") for p in parcels for s in p.records]
    spool.write([], Changes(done=[p.number for p in parcels], dead=dead, gone=count))
    return spool


def test_dead_letters_are_listed_revived_and_discarded_in_steps(tmp_path: Path) -> None:
    spool = _with_dead_letters(tmp_path, 7)
    first = spool.list_dead_letters(limit=4)
    rest = spool.list_dead_letters(after=first[-1].seq)
    assert [len(first), len(rest)] == [4, 3]
    last = spool.last_dead_letter()
    spool.write([thought("b")])
    revived = spool.revive(last, limit=5)
    assert texts(revived) == [f"a:{n}" for n in range(5)]
    # Behind all that waits.
    assert texts(read_all(spool)) == ["b:", *(f"a:{n}" for n in range(5))]
    assert (spool.depth, spool.dead_letters) == (6, 2)
    assert spool.discard_dead_letters(last, limit=1) == 1
    assert spool.discard_dead_letters(last) == 1
    assert spool.discard_dead_letters(last) == 0
    assert spool.dead_letters == 0
    assert spool.revive(last) == []
    spool.close()


def test_what_is_set_aside_later_is_not_revived(tmp_path: Path) -> None:
    spool = _with_dead_letters(tmp_path, 1)
    last = spool.last_dead_letter()
    (parcel,) = spool.revive(last)
    again = [DeadRecord(parcel.records[0], 1, "still no")]
    spool.write([], Changes(done=[parcel.number], dead=again, gone=1))
    assert spool.revive(last) == []
    assert spool.dead_letters == 1
    spool.close()


# -- whose it is


def test_a_file_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    first, second = claim_spool(tmp_path), claim_spool(tmp_path)
    assert first.path != second.path
    assert adopt_spool(tmp_path) is None
    first.write([thought("a")])
    first.close(remove=True)
    third = claim_spool(tmp_path)
    assert third.path == first.path
    assert texts(read_all(third)) == ["a:"]
    third.close()
    second.close(remove=True)
    assert not second.path.exists()


def test_a_spool_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    old = os.umask(0o022)
    try:
        spool = spool_in(tmp_path)
        spool.write([thought("a", "a secret")])
    finally:
        os.umask(old)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    spool.close()


def test_dead_letters_of_another_spool_are_moved_once(tmp_path: Path) -> None:
    other = _with_dead_letters(tmp_path, 2)
    own = claim_spool(tmp_path)
    # As a kill between the two files leaves it.
    left = other._db.execute("SELECT * FROM dead_letters").fetchall()
    own.take_dead_letters(other)
    other._db.executemany(f"INSERT INTO dead_letters VALUES ({','.join('?' * 8)})", left)
    other.dead_letters = 2
    own.take_dead_letters(other)
    assert (own.dead_letters, other.dead_letters) == (2, 0)
    assert len(own.list_dead_letters()) == 2
    own.close()
    other.close()


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    for number, sql in enumerate(("PRAGMA user_version = 99", "CREATE TABLE records (x)")):
        with sqlite3.connect(tmp_path / f"spool-{number}.sqlite") as db:
            db.execute(sql)
        db.close()
    spool = claim_spool(tmp_path)
    assert spool.path.name == "spool-2.sqlite"
    assert adopt_spool(tmp_path) is None
    spool.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SpoolError, match="set --state-dir"):
        claim_spool(file)
    (tmp_path / "spool-0.sqlite").mkdir()
    with pytest.raises(SpoolError, match="set --state-dir"):
        claim_spool(tmp_path)


_RACER = """
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from aigateway.actors.recorder.spool import claim_spool
from aigateway.actors.values.records import InterceptionEnded

folder = Path(sys.argv[1])
for turn in range(40):
    spool = claim_spool(folder)
    before = spool.depth
    spool.write([InterceptionEnded(id=sys.argv[2], ended_at=1.0)])
    assert spool.depth == before + 1
    if turn % 4 == 3:
        while (parcels := spool.read(0, 100, 1 << 30)[0]):
            from aigateway.actors.recorder.parcels import Changes
            spool.write([], Changes(done=[p.number for p in parcels],
                                    gone=sum(len(p.records) for p in parcels)))
            print(len(parcels), flush=True)
    spool.close(remove=True)
"""


def test_processes_that_race_for_files_lose_nothing(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in "abc"
    ]
    taken = 0
    for racer in racers:
        out, _ = racer.communicate(timeout=60)
        assert racer.returncode == 0
        taken += sum(int(line) for line in out.split())
    while (left := adopt_spool(tmp_path)) is not None:
        taken += left.depth
        left._db.executescript("DELETE FROM parcels; UPDATE totals SET depth = 0")
        left.depth = 0
        left.close(remove=True)
    assert taken == 3 * 40


# -- crashes


_WRITER = """
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from aigateway.actors.recorder.spool import claim_spool
from aigateway.actors.recorder.parcels import Changes
from aigateway.actors.values.records import ModelThought

spool = claim_spool(Path(sys.argv[1]))
number = 0
while True:
    parcels = spool.write([
        ModelThought(interception_id=f"i{number}", content=str(n), created_at=1.0)
        for n in range(3)
    ])
    number += 1
    print(number, flush=True)
    if number % 3 == 0:
        parcel = parcels[0]
        parcel.records = parcel.records[1:]
        spool.write([], Changes(rewritten={parcel.number: parcel}, gone=1))
"""


@pytest.mark.parametrize("lines", [1, 50, 333])
def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(lines):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    spool = claim_spool(tmp_path)
    parcels = read_all(spool)
    owners = [parcel.owner for parcel in parcels]
    assert owners[:last] == [f"i{n}" for n in range(last)]
    assert len(owners) in (last, last + 1)
    assert spool.depth == sum(len(parcel.records) for parcel in parcels)
    for number, parcel in enumerate(parcels):
        kept = [text_of(spooled).split(":")[1] for spooled in parcel.records]
        assert kept in (["0", "1", "2"], ["1", "2"]), (number, kept)
    spool.close()


# -- size


def test_space_is_given_back_after_an_outage(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    empty = spool.size()
    parcels = [p for n in range(300) for p in spool.write([thought(str(n), "x" * 20_000)])]
    full = spool.size()
    assert full - empty > 300 * 20_000
    spool.write([], Changes(done=[p.number for p in parcels], gone=300))
    # The size that counts is right at once, the file follows in steps.
    assert spool.size() - empty < 100_000
    steps = 0
    while spool.shrink():
        steps += 1
    assert steps >= full // 4096 // VACUUM_STEP - 2
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert spool.path.stat().st_size < 3 * VACUUM_STEP * 4096
    spool.close()


# -- damage


def _damage(path: Path, *, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + 2000] = b"\xa5" * 2000
    path.write_bytes(data)


def _big(folder: Path) -> Path:
    spool = spool_in(folder)
    for n in range(200):
        spool.write([thought(str(n), "x" * 3000)])
    path = spool.path
    spool.close()
    return path


def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    path = _big(tmp_path)
    _damage(path)
    spool = claim_spool(tmp_path)
    assert (spool.path, spool.depth) == (path, 0)
    (aside,) = tmp_path.glob("spool-0.damaged-*")
    assert aside.stat().st_size > 600_000
    # It is not found again.
    spool.close(remove=True)
    assert adopt_spool(tmp_path) is None


def test_damage_inside_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = _big(tmp_path)
    for page in range(60, 80):
        _damage(path, at=page * 4096)
    spool = claim_spool(tmp_path)
    with pytest.raises(SpoolCorrupt) as caught:
        spool.read(0, 10_000, 1 << 40)
    assert caught.value.path == path
    new = replace_damaged(spool, "because")
    assert (new.path, new.depth) == (path, 0)
    assert len(list(tmp_path.glob("spool-0.damaged-*"))) == 1
    # The lock was never let go of.
    assert adopt_spool(tmp_path) is None
    new.close(remove=True)


def test_a_deleted_file_is_noticed_and_begun_anew(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    assert spool.is_there()
    for path in tmp_path.glob("spool-0.sqlite*"):
        path.unlink()
    assert not spool.is_there()
    new = replace_damaged(spool, "deleted")
    assert new.is_there()
    assert list(tmp_path.glob("*.damaged-*")) == []
    new.close(remove=True)


def test_setting_aside_needs_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = spool_in(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(SpoolError, match="cannot rename the damaged spool"):
            replace_damaged(spool, "because")
    # It can be tried again: the lock is still ours.
    replace_damaged(spool, "because").close(remove=True)


# -- a disk that refuses


_FULL = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from aigateway.actors.recorder.parcels import Changes
    from aigateway.actors.values.records import ModelThought
    from aigateway.actors.recorder.spool import SpoolError, claim_spool

    spool = claim_spool(Path(sys.argv[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    kept = []
    try:
        while True:
            kept += spool.write(
                [ModelThought(interception_id="a", content="x" * 1000, created_at=1.0)]
            )
    except SpoolError as ex:
        assert "--state-dir" in str(ex), ex
    assert spool.depth == len(kept)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(spool.read(0, 10**6, 10**9)[0]) == len(kept)
    spool.write([], Changes(done=[p.number for p in kept], gone=len(kept)))
    assert spool.depth == 0
    spool.close(remove=True)
    """
)


def test_a_full_disk_is_an_error_that_passes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_error_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.write([thought("a")])
    spool._db.execute("DROP TABLE refusals")
    with pytest.raises(SpoolError):
        spool.write([thought("b")], Changes(refusals={"a": None}))
    assert (spool.depth, texts(read_all(spool))) == (1, ["a:"])
    with pytest.raises(AttributeError):
        spool.write([], Changes(dead=["no record"], gone=1))  # type: ignore[list-item]
    assert spool.depth == 1
    spool.write([thought("b")])
    spool.close()


def test_a_spool_that_another_program_has_locked_waits_until_that_is_over(tmp_path: Path) -> None:
    left = claim_spool(tmp_path)
    left.write([thought("left")])
    left.close()
    shell = sqlite3.connect(left.path, isolation_level=None)
    shell.execute("PRAGMA locking_mode = EXCLUSIVE")
    shell.execute("BEGIN EXCLUSIVE")
    with structlog.testing.capture_logs() as logs:
        own = claim_spool(tmp_path)
    assert own.path.name == "spool-1.sqlite"
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "spool-0.sqlite is in use by another program" in logs[0]["error"]
    assert adopt_spool(tmp_path) is None
    shell.close()
    adopted = adopt_spool(tmp_path)
    assert adopted is not None
    assert (adopted.path, texts(read_all(adopted))) == (left.path, ["left:"])
    own.close()
    adopted.close()


def lock_before_it_is_prepared(monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> ExitStack:
    """Have another program lock new files of these names at the worst moment."""
    prepare, locks = _spool_file._prepare, ExitStack()

    def late(db: sqlite3.Connection, path: Path) -> None:
        if path.name in names:
            lock = locks.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            lock.execute("BEGIN EXCLUSIVE")
        prepare(db, path)

    monkeypatch.setattr(_spool_file, "_prepare", late)
    return locks


def test_another_new_file_is_begun_when_one_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock_before_it_is_prepared(monkeypatch, ["spool-0.sqlite", "spool-1.sqlite"]):
        spool = claim_spool(tmp_path)
    assert spool.path.name == "spool-2.sqlite"
    spool.close()


def test_a_folder_where_every_new_file_is_busy_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"spool-{number}.sqlite" for number in range(9)]
    with (
        lock_before_it_is_prepared(monkeypatch, names),
        pytest.raises(SpoolError, match=r"spool-2\.sqlite is in use by another program"),
    ):
        claim_spool(tmp_path)
