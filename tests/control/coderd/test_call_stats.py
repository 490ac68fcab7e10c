"""How long coderd took, and who waits for it: what metrics are made of."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping

import pytest
from coderd_talk import Talk, eventually, interception, prompt
from fake_coderd import FakeCoderd

from aigateway.actors.control.call_counters import BOUNDS, CallTimes
from aigateway.actors.control.messages import CallStats, GetCallStats

TOKEN = "tok-alice-secret"


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", TOKEN)
        yield coderd


def stats(talk: Talk) -> CallStats:
    found = talk.ref.ask(GetCallStats(), timeout=10)
    assert isinstance(found, CallStats)
    return found


def counts(times: Mapping[tuple[str, str], CallTimes]) -> dict[tuple[str, str], int]:
    return {key: sum(one.counts) for key, one in times.items()}


def test_calls_are_counted_by_rpc_and_outcome(coderd: FakeCoderd) -> None:
    with Talk(coderd, record_timeout=0.2, actor={"providers": None}) as talk:
        talk.subscribe().get(timeout=10)
        talk.authorize(TOKEN)
        talk.authorize(TOKEN)
        talk.authorize("tok-nobody-secret")
        talk.start_interception(interception())
        coderd.faults.hang("RecordPromptUsage", times=1)
        talk.store(prompt(str(uuid.uuid4())))
        found = stats(talk).times
    assert counts(found) == {
        ("GetAIProviders", "answered"): 1,
        ("IsAuthorized", "answered"): 2,
        ("IsAuthorized", "refused"): 1,
        ("IsBudgetExceeded", "answered"): 2,
        ("RecordInterception", "answered"): 1,
        ("RecordPromptUsage", "failed"): 1,
    }
    failed = found["RecordPromptUsage", "failed"]
    assert failed.seconds >= 0.2
    assert failed.counts.index(1) == BOUNDS.index(0.25)


def test_waiting_for_coderd_is_counted(coderd: FakeCoderd) -> None:
    coderd.refuse(503, {"message": "later"})
    with Talk(coderd, connect=False) as talk:
        replies = [talk.begin_authorize(TOKEN), talk.begin_interception(interception())]
        eventually(lambda: stats(talk).waiting == 2)
        coderd.wait_for(lambda: len(coderd.requests) >= 2)
        coderd.admit()
        for reply in replies:
            reply.get(timeout=10)
        found = stats(talk)
    assert found.waiting == 0
    # It came with the second or third attempt: after 81 ms.
    assert found.times["IsAuthorized", "answered"].seconds > 0.08
