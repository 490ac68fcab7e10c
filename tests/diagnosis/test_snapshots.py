"""What a snapshot of this very process shows, and that it stays small."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gateway_process import wait_until

from aigateway.actors.actor.base import GatewayActor
from aigateway.actors.actor.tree import ActorHistory, ActorTree
from aigateway.http.diagnosis import snapshot
from aigateway.http.diagnosis.report import as_text
from aigateway.http.diagnosis.snapshot import Snapshot, take
from aigateway.http.diagnosis.stacks import INNER, OUTER, Process
from aigateway.http.request.inbound import Call, Inbound

PATIENCE = 10.0


class Waiter(GatewayActor):
    """Waits inside a message until it is told to go on."""

    entered: threading.Event

    def receive(self, message: Any) -> Any:
        entered, go_on = message
        entered.set()
        go_on.wait(PATIENCE)


@contextmanager
def threads(count: int, target: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """``count`` threads that wait, all in the same line, where ``target`` leads them."""
    go_on = threading.Event()
    crowd = [
        threading.Thread(target=target, args=(number, go_on), name=f"crowd-{number}")
        for number in range(count)
    ]
    for thread in crowd:
        thread.start()

    def settled() -> bool:
        frames = sys._current_frames()
        places = [frames.get(thread.ident or 0) for thread in crowd]
        return all(
            frame is not None
            and frame.f_code is threading.Condition.wait.__code__
            and frame.f_lineno == places[0].f_lineno  # type: ignore[union-attr]
            # Where it waits, a Condition has made its lock.
            and "waiter" in frame.f_locals
            for frame in places
        )

    try:
        wait_until(settled, "the threads wait")
        yield
    finally:
        go_on.set()
        for thread in crowd:
            thread.join()


def look(tree: ActorTree | None = None, calls: list[Call] | None = None) -> Snapshot:
    """A snapshot, taken as in a worker: by a thread that is not the main one."""
    process = Process()
    found = []

    def run() -> None:
        found.append(take(process, tree or ActorTree(), calls or [], server="test", since=0.0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def test_an_actor_is_shown_with_what_it_has_in_hand_and_what_waits() -> None:
    tree = ActorTree()
    entered, go_on = threading.Event(), threading.Event()
    ref = Waiter.start("recorder")
    tree.put("recorder", ref)
    tree.note("recorder", ActorHistory(2, "ValueError: x"))
    tree.note("mcp", ActorHistory(1, "OSError: y"))
    try:
        ref.tell((entered, go_on))
        ref.tell((entered, go_on))
        assert entered.wait(PATIENCE)
        seen = look(tree)
        mine = {line.role: line for line in seen.actors if line.role in ("recorder", "mcp")}
    finally:
        go_on.set()
        ref.stop()
    line = mine["recorder"]
    assert (line.state, line.message, line.inbox) == ("working", "tuple", 1)
    assert (line.restarts, line.last_error) == (2, "ValueError: x")
    assert line.stack is not None
    assert any(entry.endswith(" receive") for entry in seen.stacks[line.stack])
    # Nobody fills this role now.
    assert (mine["mcp"].state, mine["mcp"].stack) == ("restarting", None)
    assert mine["mcp"].last_error == "OSError: y"


def test_an_actor_whose_successor_works_already_is_told_apart() -> None:
    tree = ActorTree()
    old, new = Waiter.start("provider/p"), Waiter.start("provider/p")
    try:
        tree.put("provider/p", new)
        states = [line.state for line in look(tree).actors if line.role == "provider/p"]
    finally:
        old.stop()
        new.stop()
    assert sorted(states) == ["replaced", "waiting"]


def test_threads_at_the_same_place_are_one_line() -> None:
    with threads(50, lambda _number, go_on: wait_here(go_on)):
        seen = look()
    (line,) = [one for one in seen.others if one.names and one.names[0].startswith("crowd-")]
    assert line.count == 50
    assert len(line.names) == 3
    assert "50 threads (crowd-0, crowd-1, crowd-10)" in as_text(seen.as_dict())


def test_of_many_different_stacks_the_most_frequent_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot, "MOST_OTHERS", 4)

    def deep(number: int, go_on: threading.Event) -> None:
        if number <= 20:
            wait_here(go_on)
        else:
            deeper(number - 20, go_on)

    with threads(30, deep):
        seen = look()
    assert len(seen.others) == 4
    assert max(line.count for line in seen.others) >= 20
    assert seen.left_out >= 6
    assert sum(line.count for line in seen.others) + seen.left_out <= seen.executing
    text = as_text(seen.as_dict())
    assert f"{seen.left_out} more threads and greenlets" in text


def test_a_deep_stack_is_cut_in_its_middle() -> None:
    with threads(1, lambda _number, go_on: deeper(300, go_on)):
        seen = look()
    stack = max(seen.stacks, key=len)
    assert len(stack) == OUTER + INNER + 1
    assert stack[OUTER].startswith("... ")
    assert stack[-1].endswith(" wait")
    assert stack[0].startswith("threading.py:")


def test_workers_of_a_provider_that_do_the_same_are_one_line() -> None:
    refs = [Waiter.start(f"provider/p/worker-{number}") for number in range(1, 31)]
    try:
        seen = look()
    finally:
        for ref in refs:
            ref.stop()
    lines = [line for line in seen.actors if line.role.startswith("provider/p/")]
    assert [line.role for line in lines] == [f"provider/p/worker-{n}" for n in range(1, 31)]
    assert "provider/p/worker-1 and 29 like it" in as_text(seen.as_dict())


def test_requests_are_shown_by_stage_and_the_oldest_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot, "OLDEST", 2)
    calls = []
    for number, stages in enumerate([["place"], [], ["authorize"]]):
        environ = {"REQUEST_METHOD": "POST", "RAW_URI": f"/p/{number}?key=planted"}
        call = Call(Inbound.of(environ), float(number), request_id=f"id-{number}")
        for stage in stages:
            call.begin(stage)
        calls.append(call)
    seen = look(calls=calls)
    assert seen.requests == 3
    assert seen.stages == {"place": 1, "edge": 1, "authorize": 1}
    assert [(line.request_id, line.path) for line in seen.oldest] == [
        ("id-0", "/p/0"),
        ("id-1", "/p/1"),
    ]
    assert "planted" not in json.dumps(seen.as_dict())


def wait_here(go_on: threading.Event) -> None:
    go_on.wait(PATIENCE)


def deeper(levels: int, go_on: threading.Event) -> None:
    if levels:
        deeper(levels - 1, go_on)
    else:
        wait_here(go_on)
