"""What was answered against what is stored: each loss and each double has to be seen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from bench.chaos.command import chaos
from bench.chaos.leaks import Holdings, too_much
from bench.chaos.ledger import OUTCOMES, Answered, Balance, Book, balance
from bench.chaos.result import Result
from bench.chaos.run import Chaos, Options
from bench.control_planes import LocalPlane
from bench.ledger import StoredRecord

ANSWERS = [
    Answered("answered", "mark-1-", "one", "chat", 200),
    Answered("answered", "mark-2-", "two", "messages", 200),
]
STORED = [
    StoredRecord(kind, one, f"{mark} hello" if kind == "prompt" else "")
    for one, mark in (("one", "mark-1-"), ("two", "mark-2-"))
    for kind in ("interception", "ended", "prompt", "usage")
]


def _without(kind: str, interception: str) -> list[StoredRecord]:
    return [each for each in STORED if (each.kind, each.interception) != (kind, interception)]


def test_all_is_well_when_each_record_is_there_once() -> None:
    assert balance(ANSWERS, STORED) == Balance([], [], [], [], [])
    assert balance(ANSWERS, STORED).clean


@pytest.mark.parametrize("kind", ["interception", "ended", "prompt", "usage"])
def test_each_record_that_an_answered_request_lacks_is_a_loss(kind: str) -> None:
    found = balance(ANSWERS, _without(kind, "two"))
    assert not found.clean
    (loss,) = found.lost
    assert loss.startswith("two (mark-2-, messages")
    assert loss.endswith(f"no {kind}")


def test_an_answer_that_names_no_record_is_a_loss() -> None:
    (loss,) = balance([Answered("answered", "mark-3-")], STORED).lost
    assert loss == "mark-3-: answered without a name of its record"


@pytest.mark.parametrize("outcome", ["refused", "ended by an error event"])
def test_an_error_that_names_its_record_must_have_a_start_and_an_end(outcome: str) -> None:
    answers = [Answered(outcome, "mark-1-", "one", "chat", 502)]
    assert balance(answers, STORED[:2]).clean
    (loss,) = balance(answers, STORED[:1]).lost
    assert loss.endswith("no ended")


@pytest.mark.parametrize("outcome", ["cut", "left", "unreachable"])
def test_what_a_client_never_saw_the_end_of_owes_nothing(outcome: str) -> None:
    assert balance([Answered(outcome, "mark-9-", "nine")], []).clean


def test_a_request_whose_start_was_stored_too_late_owes_no_end() -> None:
    assert balance([Answered("refused", "mark-9-", "nine", status=503)], []).clean


def test_the_prompt_of_another_is_wrong() -> None:
    swapped = [attrs.evolve(each, text=each.text.replace("-1-", "-2-")) for each in STORED]
    found = balance(ANSWERS, swapped)
    assert not found.clean
    assert found.wrong == ["one (mark-1-) has another's prompt"]


@pytest.mark.parametrize("kind", ["prompt", "usage"])
def test_a_double_is_wrong_unless_it_is_documented(kind: str) -> None:
    (extra,) = (each for each in STORED if (each.kind, each.interception) == (kind, "one"))
    found = balance(ANSWERS, [*STORED, extra])
    assert found.doubled == [f"one: 2 x {kind}"]
    assert found.undocumented == ["1 records are doubled, 0 may be"]
    assert not found.clean
    documented = balance(ANSWERS, [*STORED, extra], permitted=32)
    assert documented.doubled == found.doubled
    assert documented.clean


def test_two_doubles_of_one_interception_are_never_documented() -> None:
    extra = [each for each in STORED if each.interception == "one" and each.kind != "ended"][1:]
    found = balance(ANSWERS, [*STORED, *extra], permitted=32)
    (reason,) = found.undocumented
    assert reason == "one: more than one record was in doubt: 2 x prompt, 2 x usage"


@pytest.mark.parametrize("kind", ["interception", "ended"])
def test_a_start_or_an_end_is_never_doubled(kind: str) -> None:
    found = balance(ANSWERS, [*STORED, StoredRecord(kind, "one")], permitted=32)
    assert not found.clean
    assert "never doubled" in found.undocumented[0]


def test_doubles_count_for_those_who_were_not_answered_too() -> None:
    extra = [StoredRecord("usage", "killed")] * 2
    assert not balance(ANSWERS, [*STORED, *extra]).clean


def test_more_doubles_than_are_documented_are_wrong() -> None:
    extra = [StoredRecord("usage", one) for one in ("one", "two")]
    assert balance(ANSWERS, [*STORED, *extra], permitted=2).clean
    found = balance(ANSWERS, [*STORED, *extra], permitted=1)
    assert found.undocumented == ["2 records are doubled, 1 may be"]


def test_a_request_without_an_end_hangs() -> None:
    book = Book()
    book.note(Answered("hung", "mark-3-", api="chat", detail="0 bytes of an answer", began=4.0))
    assert book.outcomes() == {**dict.fromkeys(OUTCOMES, 0), "hung": 1}
    found = balance(book.answers, [])
    assert found.hung == ["mark-3- (chat, at 4.0 s): 0 bytes of an answer"]
    assert not found.clean


def test_connections_that_wait_for_the_next_request_are_no_leak() -> None:
    before = Holdings(sockets=5, others=20)
    assert too_much(before, Holdings(sockets=29, others=25), connections=24) == []
    sockets, others = too_much(before, Holdings(sockets=60, others=60), connections=24)
    assert "60 sockets" in sockets
    assert "60 descriptors" in others


def _result(**changed: object) -> Result:
    usual = Result(
        seed=7,
        control_plane="local",
        worker_class="gevent",
        workers=1,
        seconds=1.0,
        faults={},
        skipped={"full-disk": "only root"},
        outcomes={"answered": 2},
        statuses={},
        provider={},
        stored={},
        permitted=0,
        balance=balance(ANSWERS, STORED),
        leaks=[],
        exits=[],
        stop_code=0,
        settle_seconds=0.1,
    )
    return attrs.evolve(usual, **changed)  # type: ignore[arg-type]


def test_only_a_result_without_any_fault_is_clean(tmp_path: Path) -> None:
    assert _result().clean
    assert "left out: full-disk: only root" in _result().text()
    lost = balance(ANSWERS, _without("usage", "one"))
    for changed in (
        {"leaks": ["a file"]},
        {"exits": ["2: the address is in use"]},
        {"stop_code": 4},
        {"balance": lost},
    ):
        assert not _result(**changed).clean
    _result(balance=lost).save(tmp_path)
    assert '"clean": false' in (tmp_path / "chaos.json").read_text()
    report = (tmp_path / "report.txt").read_text()
    assert "lost: one (mark-1-" in report
    assert report.endswith("SOMETHING IS WRONG\n")


@pytest.mark.parametrize(("kind", "code"), [("", 0), ("usage", 1)])
def test_the_exit_code_follows_the_result(
    kind: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _result(balance=balance(ANSWERS, _without(kind, "one")))
    monkeypatch.setattr(Chaos, "run", lambda _self: result)
    # It takes signals and ends all children of this process.
    monkeypatch.setattr("bench.chaos.command.in_order", nullcontext)
    done = CliRunner().invoke(chaos, ["--seed", "7", "--results", str(tmp_path)])
    assert done.exit_code == code, done.output
    assert done.output.endswith(result.text())


@pytest.mark.parametrize(
    ("tamper", "lost", "doubled"),
    [
        (lambda records, usage: records.remove(usage), 1, 0),
        (lambda records, usage: records.append(usage), 0, 1),
    ],
)
def test_a_run_sees_what_the_control_plane_lost_or_doubled(
    tamper: Callable[[list[StoredRecord], StoredRecord], None],
    lost: int,
    doubled: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = LocalPlane.stored

    def tampered(plane: LocalPlane) -> list[StoredRecord]:
        records = whole(plane)
        usages = [record for record in records if record.kind == "usage"]
        # The first two are of requests that only wait for the start.
        if len(usages) > 2:
            tamper(records, usages[2])
        return records

    monkeypatch.setattr(LocalPlane, "stored", tampered)
    options = Options(
        seed=1, seconds=2.0, workers=1, clients=4, only=("provider-stall",), settle=4.0
    )
    result = Chaos(options, tmp_path, lambda _text: None).run()
    assert not result.clean
    assert (len(result.balance.lost), len(result.balance.doubled)) == (lost, doubled)
    assert (tmp_path / "work" / "gateway.log.json").exists()
