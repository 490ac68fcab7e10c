"""Records on their way to coderd: exact, in order, and what became of each."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import evolve
from coderd_talk import Talk, eventually, interception, prompt
from fake_coderd import FakeCoderd

from aigateway.actors.actor.base import Crash, Reply, new_reply
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.coderd._calls import Calls
from aigateway.actors.control.coderd._storing import Storing, is_wrong
from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.marks import PARCEL_BITS, Fate
from aigateway.actors.control.messages import (
    Accepted,
    Begin,
    Spooled,
    Stored,
    StoreRecords,
)
from aigateway.actors.control.rpc_results import Refusal, RpcAnswer, RpcResult
from aigateway.actors.recorder.messages import Append, Flushed
from aigateway.actors.recorder.recorder import Recorder
from aigateway.actors.values.records import InterceptionEnded, TokenUsage


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture
def talk(coderd: FakeCoderd) -> Iterator[Talk]:
    with Talk(coderd, record_timeout=5.0) as talk:
        yield talk


def owner() -> str:
    return str(uuid.uuid4())


def prompts(coderd: FakeCoderd, of: str) -> list[str]:
    records = coderd.deployment.stored("RecordPromptUsage")
    return [
        record.message.prompt
        for record in records
        if isinstance(record.message, pb.RecordPromptUsageRequest) and record.interception_id == of
    ]


def test_records_of_one_interception_are_stored_in_order(talk: Talk) -> None:
    mine = owner()
    texts = [f"prompt {number}" for number in range(50)]
    seqs = talk.send(prompt(mine, text) for text in texts)
    assert talk.reports(seqs).done == seqs
    assert prompts(talk.coderd, mine) == texts


def test_the_order_holds_across_batches(talk: Talk, tmp_path: Path) -> None:
    mine = owner()
    gate = threading.Event()
    talk.coderd.faults.delay("RecordPromptUsage", gate, times=1)
    tree = ActorTree()
    tree.put("control-plane", talk.ref)
    recorder = Recorder.start("recorder", None, tree=tree, folder=tmp_path, max_size=1 << 30)
    try:
        recorder.tell(Append((prompt(mine, "1"), prompt(mine, "2"))))
        talk.coderd.wait_for_call("RecordPromptUsage")
        recorder.tell(Append((prompt(mine, "3"),)))
        # It is on disk, and waits for the others.
        reply: Reply[bool] = new_reply()
        recorder.tell(Append((prompt(owner()),), reply))
        assert reply.get(timeout=10)
        assert talk.store(prompt(owner())).done
        assert prompts(talk.coderd, mine) == ["1"]
        gate.set()
        flushed: Reply[bool] = new_reply()
        recorder.tell(Flushed(flushed))
        assert flushed.get(timeout=10)
        assert prompts(talk.coderd, mine) == ["1", "2", "3"]
    finally:
        recorder.stop()


def test_many_interceptions_are_stored_at_once(coderd: FakeCoderd) -> None:
    with Talk(coderd, parallel_records=8) as talk:
        gate = threading.Event()
        coderd.faults.delay("RecordPromptUsage", gate, times=8)
        owners = [owner() for _ in range(20)]
        seqs = talk.send(prompt(each, str(number)) for number in range(3) for each in owners)
        coderd.wait_for_call("RecordPromptUsage", 8)
        connection = coderd.connections[0]
        assert connection.streams == 8
        gate.set()
        assert sorted(talk.reports(seqs).done) == sorted(seqs)
        for each in owners:
            assert prompts(coderd, each) == ["0", "1", "2"]


def test_a_wrong_record_is_rejected_and_those_behind_it_stored(talk: Talk) -> None:
    mine = owner()
    talk.coderd.faults.fail(
        "RecordPromptUsage", 'failed to parse interception_id "x": bad', skip=1, times=1
    )
    seqs = talk.send(prompt(mine, text) for text in "abc")
    report = talk.reports(seqs)
    assert report.done == (seqs[0], seqs[2])
    assert report.rejected == {seqs[1]: 'failed to parse interception_id "x": bad'}
    assert prompts(talk.coderd, mine) == ["a", "c"]


def test_a_record_that_cannot_be_sent_is_rejected(talk: Talk) -> None:
    mine = owner()
    usage = TokenUsage(
        interception_id=mine,
        msg_id="m",
        input_tokens=1 << 70,
        output_tokens=1,
        created_at=0.0,
    )
    seqs = talk.send([usage, prompt(mine, "p" * (5 << 20)), prompt(mine, "fine")])
    report = talk.reports(seqs)
    assert report.done == (seqs[2],)
    assert report.rejected[seqs[0]].startswith("invalid record: ")
    assert "over the limit of 4194304" in report.rejected[seqs[1]]


def test_a_record_of_nearly_4_mib_is_stored(talk: Talk) -> None:
    mine = owner()
    text = "p" * (4 * 1024 * 1024 - 100)
    assert talk.store(prompt(mine, text)).done
    assert prompts(talk.coderd, mine) == [text]


def test_an_error_that_may_pass_sends_the_rest_back(talk: Talk) -> None:
    mine, other = owner(), owner()
    talk.coderd.faults.fail("RecordPromptUsage", "insert user prompt: no disk", skip=1, times=1)
    seqs = talk.send(prompt(mine, text) for text in "abcd")
    report = talk.reports(seqs)
    assert report.done == (seqs[0],)
    # Only the one that was tried has a reason.
    assert report.retry == {seqs[1]: "insert user prompt: no disk", seqs[2]: "", seqs[3]: ""}
    assert not report.away
    assert talk.store(prompt(other)).done
    assert prompts(talk.coderd, mine) == ["a"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('invalid interception ID "x": invalid UUID length: 1', True),
        ('failed to parse interception_id "x": bad', True),
        ("end interception: sql: no rows in result set", False),
        ("insert token usage: invalid input", False),
        ("", False),
    ],
)
def test_a_wrong_record_is_told_by_how_the_text_begins(text: str, wrong: bool) -> None:
    assert is_wrong(text) is wrong


def test_records_are_sent_back_at_once_while_coderd_is_away(coderd: FakeCoderd) -> None:
    coderd.refuse(503, {"message": "later"})
    with Talk(coderd, connect=False) as talk:
        coderd.wait_for(lambda: len(coderd.requests) >= 1)
        eventually(lambda: "later" in talk.status().detail)
        mine = owner()
        seqs = talk.send([prompt(mine), prompt(mine), prompt(owner())])
        report = talk.reports(seqs)
        assert report.away
        assert list(report.retry) == list(seqs)
        assert "later" in report.retry[seqs[0]]


def test_a_lost_connection_sends_records_back(talk: Talk) -> None:
    mine = owner()
    talk.coderd.faults.hang("RecordPromptUsage", times=1)
    seqs = talk.send([prompt(mine, "a"), prompt(mine, "b")])
    talk.coderd.wait_for_call("RecordPromptUsage")
    talk.coderd.cut_connections()
    report = talk.reports(seqs)
    assert report.retry == {seqs[0]: "the peer closed the connection", seqs[1]: ""}
    assert report.away
    talk.wait_connected()


def test_a_record_whose_stream_broke_is_kept_until_it_is_known_how_the_session_fares(
    talk: Talk,
) -> None:
    mine, other = owner(), owner()
    talk.coderd.faults.hang_up("RecordPromptUsage", times=1)
    # What stands behind it waits; others are stored meanwhile.
    seqs = talk.send([prompt(mine, "a"), prompt(mine, "b")])
    assert talk.store(prompt(other)).done
    assert talk.box.empty()
    report = talk.reports(seqs)
    assert list(report.retry) == list(seqs)
    assert report.retry[seqs[0]] == "the server closed the stream before it answered"
    assert report.away
    assert talk.store(prompt(mine, "a"), prompt(mine, "b")).done
    assert prompts(talk.coderd, mine) == ["a", "b"]


def test_what_is_in_doubt_when_the_actor_stops_is_sent_back_once(talk: Talk) -> None:
    talk.coderd.faults.hang_up("RecordPromptUsage", times=1)
    seqs = talk.send([prompt(owner())])
    assert talk.store(prompt(owner())).done
    talk.stop()
    assert talk.reports(seqs).away
    assert talk.box.empty()


def test_a_silent_coderd_counts_as_away(coderd: FakeCoderd) -> None:
    with Talk(coderd, record_timeout=0.2) as talk:
        coderd.faults.hang("RecordPromptUsage", times=1)
        report = talk.store(prompt(owner()))
        assert report.away
        assert list(report.retry.values()) == ["no answer within 0.2 s"]


def test_one_record_without_an_answer_among_others_counts_as_tried(coderd: FakeCoderd) -> None:
    with Talk(coderd, record_timeout=0.5) as talk:
        coderd.faults.hang("RecordPromptUsage", times=1)
        box: queue.Queue[Stored] = queue.Queue()
        silent = Spooled(1_000_001, prompt(owner()))
        talk.ref.tell(StoreRecords(((silent,),), talk.new_mailbox(box)))
        coderd.wait_for_call("RecordPromptUsage")
        assert talk.store(prompt(owner())).done
        report = box.get(timeout=10)
        assert report == Stored(retry={silent.seq: "no answer within 0.5 s"}, away=False)


def test_stopping_sends_back_what_was_not_sent_and_tells_what_becomes_of_the_rest(
    talk: Talk,
) -> None:
    mine, other = owner(), owner()
    gate = threading.Event()
    talk.coderd.faults.delay("RecordPromptUsage", gate, times=1)
    talk.coderd.faults.hang("RecordPromptUsage")
    seqs = talk.send([prompt(mine, "a"), prompt(mine, "b")])
    talk.coderd.wait_for_call("RecordPromptUsage")
    seqs += talk.send([prompt(other)])
    talk.coderd.wait_for_call("RecordPromptUsage", 2)
    talk.stop()
    report = talk.box.get(timeout=10)
    assert report == Stored(retry={seqs[1]: ""}, away=True)
    assert talk.marks.flying()
    gate.set()
    assert talk.box.get(timeout=10) == Stored(done=(seqs[0],))
    talk.coderd.cut_connections()
    assert list(talk.box.get(timeout=10).retry) == [seqs[2]]
    assert [talk.marks.fate(seq) for seq in seqs] == [Fate.STORED, Fate.HERE, Fate.DOUBTFUL]
    assert talk.box.empty()


def test_a_control_plane_that_crashes_loses_no_answer(talk: Talk) -> None:
    """Not even those that wait in its inbox behind the message that it dies of."""
    mine = [owner() for _ in range(4)]
    gate = threading.Event()
    talk.coderd.faults.delay("RecordPromptUsage", gate, times=4)
    seqs = talk.send(prompt(each) for each in mine)
    talk.coderd.wait_for_call("RecordPromptUsage", 4)
    in_hand, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        in_hand.set()
        assert go_on.wait(10)

    actor = talk.ref._actor_weakref()
    assert actor is not None
    actor._run(hold)
    assert in_hand.wait(10)
    talk.ref.tell(Crash())
    gate.set()
    # One that nobody has begun with is sent back.
    late = talk.send([prompt(owner())])
    for each in mine:
        eventually(lambda each=each: prompts(talk.coderd, each))
    go_on.set()
    report = talk.reports(seqs + late)
    assert sorted(report.done) == list(seqs)
    assert list(report.retry) == list(late)
    assert report.away


def test_the_next_control_plane_waits_for_what_the_last_one_has_in_the_air(
    coderd: FakeCoderd,
) -> None:
    mine = owner()
    gate = threading.Event()
    with Talk(coderd) as first, Talk(coderd) as second:
        second.marks = first.marks
        coderd.faults.delay("RecordPromptUsage", gate, times=1)
        (seq,) = first.send([prompt(mine, "a")])
        coderd.wait_for_call("RecordPromptUsage")
        first.stop()
        # As a recorder does that was restarted in this moment: it knows the disk only.
        batch = (Spooled(seq, prompt(mine, "a")), Spooled(seq + 1, prompt(mine, "b")))
        second.ref.tell(StoreRecords((batch,), second.mailbox, second.marks))
        assert second.store(prompt(owner())).done
        gate.set()
        assert sorted(second.reports([seq, seq + 1]).done) == [seq, seq + 1]
        assert prompts(coderd, mine) == ["a", "b"]


@pytest.mark.parametrize("lost", ["connection", "stream"])
def test_an_end_that_coderd_has_is_done_though_its_answer_was_lost(talk: Talk, lost: str) -> None:
    record = interception()
    talk.start_interception(record)
    end = InterceptionEnded(id=record.id, ended_at=1.0)
    if lost == "connection":
        talk.coderd.faults.drop("RecordInterceptionEnded", times=1)
    else:
        talk.coderd.faults.hang_up("RecordInterceptionEnded", act=True, times=1)
    (seq,) = talk.send([end])
    assert list(talk.reports([seq]).retry) == [seq]
    assert talk.marks.fate(seq) is Fate.DOUBTFUL
    if lost == "connection":
        talk.coderd.wait_for(lambda: len(talk.coderd.connections) == 2)
    talk.wait_connected()
    # A refusal for another reason leaves the doubt.
    talk.coderd.faults.fail("RecordInterceptionEnded", "end interception: no database", times=1)
    for _ in range(2):
        talk.ref.tell(StoreRecords(((Spooled(seq, end),),), talk.mailbox, talk.marks))
        report = talk.reports([seq])
    assert report.done == (seq,)
    assert len(talk.coderd.deployment.stored("RecordInterceptionEnded")) == 1


def test_an_end_that_was_never_sent_is_not_taken_for_stored(talk: Talk) -> None:
    report = talk.store(InterceptionEnded(id=owner(), ended_at=1.0))
    assert list(report.retry.values()) == ["end interception: sql: no rows in result set"]


def test_a_start_that_a_dead_control_plane_has_stored_is_accepted(talk: Talk) -> None:
    record = interception()
    talk.start_interception(record)
    reply = new_reply()
    talk.ref.tell(Begin(record, reply, again=True))
    assert reply.get(timeout=10) == Accepted()
    assert len(talk.coderd.deployment.stored("RecordInterception")) == 1


def test_few_records_are_in_the_air_while_there_is_no_queue(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        coderd.faults.hang("RecordPromptUsage")
        talk.send(prompt(owner()) for _ in range(6))
        coderd.wait_for_call("RecordPromptUsage", 4)
        assert talk.store(*[]).done == ()
        assert coderd.deployment.count_calls("RecordPromptUsage") <= 5


def test_without_room_for_a_mark_nothing_is_sent(talk: Talk) -> None:
    while talk.marks.depart(len(talk.marks.parcels()) + 1 << 8):
        pass
    report = talk.store(prompt(owner()))
    assert report.away
    assert talk.coderd.deployment.count_calls("RecordPromptUsage") == 0


def test_a_recorder_that_is_gone_does_no_harm(talk: Talk) -> None:
    gone = talk.new_mailbox(queue.Queue())
    gone.stop()
    mine = owner()
    talk.ref.tell(StoreRecords(((Spooled(1, prompt(mine)),),), gone))
    eventually(lambda: prompts(talk.coderd, mine) == ["hello"])
    assert talk.store(prompt(mine)).done


def test_what_a_dead_recorder_had_sent_is_stored_once(talk: Talk) -> None:
    mine = owner()
    gate = threading.Event()
    talk.coderd.faults.delay("RecordPromptUsage", gate, skip=1, times=1)
    records = [evolve(prompt(mine, text), record_id=text) for text in "abc"]
    end = InterceptionEnded(id=mine, ended_at=1.0)
    dying = talk.new_mailbox(queue.Queue())
    batch = tuple(Spooled(seq, record) for seq, record in enumerate(records))
    talk.ref.tell(StoreRecords((batch,), dying, talk.marks))
    # The first is stored, the second on its way, the others wait behind it.
    talk.coderd.wait_for_call("RecordPromptUsage", 2)
    dying.stop()
    late = evolve(prompt(mine, "late"), record_id="late")
    again = (*batch[:3], Spooled(4, late), Spooled(5, end))
    talk.ref.tell(StoreRecords((again,), talk.mailbox, talk.marks))
    gate.set()
    seqs = [spooled.seq for spooled in again]
    # What was stored for the dead one is not in its inbox, but in the marks.
    assert sorted(talk.reports(seqs).done) == seqs
    assert prompts(talk.coderd, mine) == ["a", "b", "c", "late"]
    assert talk.coderd.deployment.count_calls("RecordPromptUsage") == 4
    assert talk.coderd.deployment.count_calls("RecordInterceptionEnded") == 1


def test_records_without_an_id_are_stored_as_often_as_they_are_sent(talk: Talk) -> None:
    mine = owner()
    for _ in range(2):
        assert len(talk.store(prompt(mine), prompt(mine)).done) == 2
    assert len(prompts(talk.coderd, mine)) == 4


def test_the_end_follows_the_other_records(talk: Talk) -> None:
    record = interception()
    talk.start_interception(record)
    seqs = talk.send(
        [
            prompt(record.id),
            InterceptionEnded(id=record.id, ended_at=1767225601.0, error_type="timeout"),
        ]
    )
    assert talk.reports(seqs).done == seqs
    assert [stored.rpc for stored in talk.coderd.deployment.stored()] == [
        "RecordInterception",
        "RecordPromptUsage",
        "RecordInterceptionEnded",
    ]


@pytest.mark.parametrize("reuse", [True, False])
def test_calls_come_over_few_streams_or_over_one_each(coderd: FakeCoderd, reuse: bool) -> None:
    with Talk(coderd, stream_reuse=reuse) as talk:
        mine = owner()
        seqs = talk.send(prompt(mine, str(number)) for number in range(20))
        assert talk.reports(seqs).done == seqs
        connection = coderd.connections[0]
        eventually(lambda: connection.streams == (1 if reuse else 0))


def test_pipelined_calls_are_cancelled_by_a_coderd_that_is_slow(coderd: FakeCoderd) -> None:
    """Why the depth is 1: a coderd cancels the call that runs when the next one is read."""
    with Talk(coderd, pipeline_depth=2, max_streams=1, record_timeout=0.5) as talk:
        gate = threading.Event()
        coderd.faults.delay("RecordPromptUsage", gate, times=1)
        first = talk.send([prompt(owner())])
        coderd.wait_for_call("RecordPromptUsage")
        second = talk.send([prompt(owner())])
        assert talk.reports(second).done == second
        gate.set()
        assert list(talk.reports(first).retry) == list(first)


def test_records_survive_a_coderd_that_comes_and_goes(coderd: FakeCoderd) -> None:
    """Sent again until done, as the recorder does, each is there at least once, in order."""
    with Talk(coderd) as talk:
        owners = [owner() for _ in range(10)]
        todo = {each: [prompt(each, str(number)) for number in range(20)] for each in owners}
        left = {each: list(records) for each, records in todo.items()}
        cuts = 0
        while any(left.values()):
            batch = [record for records in left.values() for record in records]
            seqs = talk.send(batch)
            if cuts < 3:
                cuts += 1
                coderd.faults.drop("RecordPromptUsage", skip=20, times=1)
            report = talk.reports(seqs)
            missing = {
                id(record)
                for seq, record in zip(seqs, batch, strict=True)
                if seq not in report.done
            }
            left = {
                each: [record for record in records if id(record) in missing]
                for each, records in left.items()
            }
            talk.wait_connected()
        for each in owners:
            stored = prompts(coderd, each)
            # One that was in flight when the connection broke may be there twice.
            distinct = [text for at, text in enumerate(stored) if text not in stored[:at]]
            assert distinct == [str(number) for number in range(20)]
        total = len(coderd.deployment.stored())
        assert 200 <= total <= 200 + 3 * 32


class Told:
    """Takes what is told, as a recorder does."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []

    def tell(self, message: Stored) -> None:
        self.stored.append(message)


class HeldCalls:
    """Keeps calls until a test answers them."""

    def __init__(self) -> None:
        self.open: list[Callable[[RpcResult], None]] = []

    def send(
        self, _rpc: str, _request: bytes, _timeout: float, done: Callable[[RpcResult], None]
    ) -> None:
        self.open.append(done)

    def answer_all(self, outcome: RpcResult) -> None:
        answered, self.open = self.open, []
        for done in answered:
            done(outcome)


def held_storing() -> tuple[Storing, HeldCalls]:
    calls = HeldCalls()
    storing = Storing(
        cast(Calls, calls),
        lambda _begin, _answer: None,
        lambda action: action(),
        lambda _seconds, _action: None,
        timeout=1.0,
        start_timeout=1.0,
        parallel=4,
    )
    return storing, calls


def parcel_of_one(number: int) -> tuple[Spooled, ...]:
    return (Spooled(number << PARCEL_BITS, prompt(owner(), "hello")),)


def test_what_is_known_in_one_turn_is_told_in_one_message() -> None:
    (storing, calls), one, other = held_storing(), Told(), Told()
    storing.store(StoreRecords((parcel_of_one(1), parcel_of_one(2)), cast(Any, one), ticket="a"))
    storing.store(StoreRecords((parcel_of_one(3),), cast(Any, one), ticket="b"))
    storing.store(StoreRecords((parcel_of_one(4),), cast(Any, other), ticket="a"))
    assert len(calls.open) == 4
    calls.open.pop(1)(Refusal("invalid prompt"))
    calls.answer_all(RpcAnswer(b""))
    assert (one.stored, other.stored) == ([], [])
    storing.tell()
    storing.tell()
    assert one.stored == [
        Stored((1 << PARCEL_BITS,), {}, {2 << PARCEL_BITS: "invalid prompt"}),
        Stored((3 << PARCEL_BITS,), {}),
    ]
    assert [stored.ticket for stored in one.stored] == ["a", "b"]
    assert other.stored == [Stored((4 << PARCEL_BITS,), {})]


def test_at_the_end_what_is_known_is_told_and_what_becomes_known_at_once() -> None:
    (storing, calls), told, ended = held_storing(), Told(), list[str]()
    storing.store(StoreRecords((parcel_of_one(1), parcel_of_one(2)), cast(Any, told)))
    calls.open.pop(0)(RpcAnswer(b""))
    storing.release("stopped", lambda: ended.append("ended"), died=False)
    assert told.stored == [Stored((1 << PARCEL_BITS,), {})]
    assert ended == []
    calls.answer_all(RpcAnswer(b""))
    assert told.stored[1:] == [Stored((2 << PARCEL_BITS,), {})]
    assert ended == ["ended"]
