"""How workers show themselves to consoles, in either database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from aigateway.actors.actor.base import Crash
from aigateway.actors.control.local import board
from aigateway.actors.control.local.reporter import Reporter
from aigateway.actors.control.local.schema import Database, open_database

ITSELF = board.Worker("w-1", "host:1", "host", "127.0.0.1:4001", 17)


class Edge:
    """Answers, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.broken = False
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(question)
        self.go_on.wait(20)
        if self.broken:
            raise RuntimeError("a fault at the edge")
        return {"said": question["command"], "number": len(self.asked)}


class Reporters:
    """Starts reporters; none may die unless it was told to."""

    def __init__(self) -> None:
        self.refs: list[Any] = []
        self.deaths: list[BaseException | None] = []

    def start(self, address: str | Path, edge: Edge, worker: board.Worker = ITSELF) -> Any:
        ref = Reporter.start(
            "reporter",
            lambda _actor, error: self.deaths.append(error),
            address=str(address),
            worker=worker,
            answer=edge,
            every=0.01,
        )
        self.refs.append(ref)
        return ref


@pytest.fixture
def reporters() -> Iterator[Reporters]:
    made = Reporters()
    yield made
    for ref in made.refs:
        ref.stop()
    assert [death for death in made.deaths if death is not None] == []


@pytest.fixture
def edge() -> Edge:
    return Edge()


def line(database: Database, subject: str = "requests") -> board.Line | None:
    """The only worker on the board."""
    found = board.reports(database, subject)
    assert len(found) <= 1
    return found[0] if found else None


def heard(database: Database, command: str) -> Callable[[], Mapping[str, Any] | None]:
    return lambda: board.answered(database, command)


def test_a_worker_that_nobody_looks_at_says_only_that_it_is_there(
    reporters: Reporters, address: str, either: Database, edge: Edge
) -> None:
    reporters.start(address, edge)
    seen = wait_until(lambda: line(either), "the worker is on the board")
    assert seen.worker == ITSELF
    assert seen.age < 10
    assert (seen.report_age, seen.report) == (None, {})
    written = either.execute("SELECT seen_at FROM gateway_workers").fetchall()
    # It goes on looking at the board meanwhile, and takes up what is for it.
    command = board.command(either, ITSELF.id, {"command": "any"}, 30)
    wait_until(heard(either, command), "the command is answered")
    assert edge.asked == [{"command": "any"}]
    assert either.execute("SELECT seen_at FROM gateway_workers").fetchall() == written


def test_what_is_looked_at_is_told_again_and_again(
    reporters: Reporters, address: str, either: Database, edge: Edge
) -> None:
    board.look(either, ["providers"], 30)
    reporters.start(address, edge)

    def number() -> int:
        seen = line(either, "providers")
        return 0 if seen is None else int(seen.report.get("number", 0))

    assert wait_until(lambda: number() > 2, "it has told several times")
    assert {each["command"] for each in edge.asked} == {"providers"}
    seen = line(either, "requests")
    assert seen is not None
    assert seen.report_age is None


def test_a_look_ends_by_itself_and_is_not_cut_short(either: Database) -> None:
    board.look(either, ["requests"], 30)
    board.look(either, ["requests", "list"], -1)
    assert board.looked_at(either) == {"requests"}


def test_a_command_is_taken_up_once_and_by_none_but_its_worker(either: Database) -> None:
    mine = board.command(either, "w-1", {"command": "restart", "role": "recorder"}, 30)
    board.command(either, "w-2", {"command": "restart", "role": "mcp"}, 30)
    late = board.command(either, "w-1", {"command": "restart", "role": "late"}, -1)
    assert board.COMMANDS in board.looked_at(either)
    taken = board.taken(either, "w-1")
    assert [(each.id, each.question["role"]) for each in taken] == [(mine, "recorder")]
    assert board.taken(either, "w-1") == []
    board.answer(either, mine, '{"done": true}')
    assert board.answered(either, mine) == {"done": True}
    assert board.answered(either, late) is None
    board.forget(either, mine)
    assert board.answered(either, mine) is None


def test_a_command_that_takes_long_keeps_nothing_from_being_told(
    reporters: Reporters, address: str, either: Database, edge: Edge
) -> None:
    reporters.start(address, edge)
    wait_until(lambda: line(either), "the worker is on the board")
    edge.go_on.clear()
    slow = board.command(either, ITSELF.id, {"command": "dial"}, 30)
    wait_until(lambda: {"command": "dial"} in edge.asked, "the command was taken up")
    held, edge.go_on = edge.go_on, threading.Event()
    edge.go_on.set()
    board.look(either, ["list"], 30)
    wait_until(lambda: (seen := line(either, "list")) and seen.report, "the list is told")
    assert board.answered(either, slow) is None
    held.set()
    assert wait_until(heard(either, slow), "the command is answered")["said"] == "dial"


def test_a_fault_at_the_edge_is_told_and_harms_nobody(
    reporters: Reporters, address: str, either: Database, edge: Edge
) -> None:
    edge.broken = True
    board.look(either, ["list"], 30)
    reporters.start(address, edge)
    wait_until(
        lambda: (seen := line(either, "list")) and "a fault" in seen.report.get("error", ""),
        "the fault is told",
    )
    command = board.command(either, ITSELF.id, {"command": "restart"}, 30)
    said = wait_until(heard(either, command), "the command is answered")
    assert "a fault at the edge" in said["error"]
    edge.broken = False
    wait_until(lambda: (seen := line(either, "list")) and "said" in seen.report, "it goes on")


def test_a_worker_that_ends_in_good_order_leaves_the_board(
    reporters: Reporters, address: str, either: Database, edge: Edge
) -> None:
    board.look(either, ["list"], 30)
    ref = reporters.start(address, edge)
    wait_until(lambda: (seen := line(either, "list")) and seen.report, "the list is told")
    ref.stop()
    assert line(either) is None
    assert either.execute("SELECT count(*) FROM gateway_reports").fetchone() == (0,)


def test_one_that_died_is_followed_by_another_that_is_the_same_worker(
    reporters: Reporters, address: str, either: Database, edge: Edge
) -> None:
    first = reporters.start(address, edge)
    wait_until(lambda: line(either), "the worker is on the board")
    first.tell(Crash())
    # Its watcher hears of it when it has let go of all that it had.
    wait_until(lambda: reporters.deaths, "it has died")
    assert isinstance(reporters.deaths.pop(), RuntimeError)
    reporters.start(address, edge)
    board.look(either, ["list"], 30)
    wait_until(lambda: (seen := line(either, "list")) and seen.report, "the successor tells")


def test_those_without_a_sign_of_life_are_gone_after_a_while(either: Database) -> None:
    board.sign(either, ITSELF)
    board.report(either, ITSELF.id, "list", "{}")
    other = board.Worker("w-2", "host:1", "host", "", 18)
    board.sign(either, other)
    old = board.command(either, ITSELF.id, {}, -2 * board.KEPT)
    for table, name in (("gateway_workers", "id"), ("gateway_reports", "worker_id")):
        either.execute(f"UPDATE {table} SET seen_at = seen_at - 1000 WHERE {name} = 'w-1'")
    assert [each.worker.id for each in board.reports(either, "list")] == ["w-2"]
    board.tidy(either)
    for table in ("gateway_reports", "console_commands"):
        assert either.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert either.execute("SELECT id FROM gateway_workers").fetchall() == [("w-2",)]
    assert board.answered(either, old) is None


def test_a_database_that_is_away_is_waited_for(
    reporters: Reporters, tmp_path: Path, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigateway.actors.control.local.reporter._TROUBLE_REST", 0.01)
    path = tmp_path / "later.db"
    ref = reporters.start(path, edge)
    database = open_database(path)
    wait_until(lambda: line(database), "the worker is on the board")
    assert ref.is_alive()
    database.close()
