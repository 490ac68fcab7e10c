"""Coding agents: what they send, and what is noticed of what they get."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from bench.conversations import conversation
from bench.load import AgentsSpec, Driver, LoadResult
from bench.payloads import Endpoint, raw_request
from bench.upstream import Behaviour, Upstream
from bench.upstream.answers import answer_of_agents

EVENTS = 3
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"


def test_a_conversation_grows_evenly_and_each_request_begins_as_the_one_before() -> None:
    talk = conversation(1, turns=50, first=20_000, last=600_000)
    sizes = [talk.size(turn) for turn in range(50)]
    assert sizes == [len(talk.body(turn)) for turn in range(50)]
    assert sizes[0] == pytest.approx(20_000, rel=0.05)
    assert sizes[-1] == pytest.approx(600_000, rel=0.02)
    assert all(8_000 < after - before < 16_000 for before, after in pairwise(sizes))
    for turn in range(49):
        assert talk.body(turn + 1).startswith(talk.body(turn)[:-2])


def test_a_conversation_is_what_an_agent_sends() -> None:
    talk = conversation(2, turns=50, first=20_000, last=600_000)
    request = json.loads(talk.body(49))
    assert len(request["tools"]) == 40
    assert request["stream"] is True
    messages = request["messages"]
    assert len(messages) > 100
    assert [each["role"] for each in messages] == [
        ("user", "assistant")[number % 2] for number in range(len(messages))
    ]
    blocks = [block for message in messages for block in message["content"]]
    kinds = {block["type"] for block in blocks}
    assert kinds == {"text", "thinking", "tool_use", "tool_result"}
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    results = [block for block in blocks if block["type"] == "tool_result"]
    assert calls == [block["tool_use_id"] for block in results]
    assert "image" in {part["type"] for block in results for part in block["content"]}


def test_a_turn_says_whether_a_person_has_spoken() -> None:
    talk = conversation(3, turns=14, first=20_000, last=90_000)
    for turn, person in enumerate(talk.persons):
        last = json.loads(talk.body(turn))["messages"][-1]["content"][0]["type"]
        assert last == ("text" if person else "tool_result")
    assert sum(talk.persons) == 3


def test_a_seed_gives_the_same_conversation_and_another_seed_another() -> None:
    first, again, other = (
        conversation(seed, turns=3, first=20_000, last=30_000).body(2) for seed in (1, 1, 2)
    )
    assert first == again != other


def _spec(folder: Path, port: int, **more: float) -> AgentsSpec:
    file = folder / "head.http"
    whole = raw_request(Endpoint(port, "/v1/messages", {}), b"")
    file.write_bytes(whole.removesuffix(b"Content-Length: 0\r\n\r\n"))
    told = {"agents": 3, "turns": 7, "first_kb": 20, "last_kb": 60, "think": 0.01, "classes": 2}
    told |= {"events": EVENTS, "ramp": 0.1, "seconds": 1.0, "grace": 2.0, **more}
    return AgentsSpec(port=port, head=str(file), **told)  # type: ignore[arg-type]


def _run(folder: Path, spec: AgentsSpec) -> LoadResult:
    with Driver(spec, folder, "load") as driver:
        return driver.wait()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    with Upstream(tmp_path) as imitation:
        imitation.behave(Behaviour(events=EVENTS, interval_us=1000, agents=1))
        yield imitation


def test_agents_take_turns_until_the_end_and_know_every_answer(
    upstream: Upstream, tmp_path: Path
) -> None:
    load = _run(tmp_path, _spec(tmp_path, upstream.ports[0]))
    seen, numbers = upstream.settled(), load.numbers
    assert load.errors == {}
    assert numbers["turns"] == numbers["turns_begun"] == seen.requests == seen.answers > 20
    assert seen.connections == 3
    assert numbers["persons"] == seen.prompts > 0
    assert (numbers["answers_changed"], numbers["answers_broken"]) == (0, 0)
    assert numbers["turns_unfinished"] == 0
    told = [load.histograms[name] for name in ("ttfb", "ttfb_0", "ttfb_1")]
    assert len(told[0]) == len(told[1]) + len(told[2]) > 0
    assert min(len(each) for each in told) > 0


@contextmanager
def _server(answer: Callable[[], bytes]) -> Iterator[int]:
    """Answers each request with these bytes, however large it is."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            while line := reader.readline():
                length = 0
                while line not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name == b"Content-Length" else length
                    line = reader.readline()
                reader.read(length)
                connection.sendall(answer())

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    # Closing alone does not wake who accepts.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda body: body.replace(b'"thinking":"', b'"thinking": "'), False),
        (lambda body: body.replace(b"#000001.", b"#000002."), True),
        (lambda body: body[: body.index(b"event: message_stop")], True),
    ],
)
def test_an_answer_with_other_bytes_counts_and_so_does_one_that_lacks_something(
    tmp_path: Path, change: Callable[[bytes], bytes], broken: bool
) -> None:
    body = change(answer_of_agents(EVENTS))
    with _server(lambda: HEAD % len(body) + body) as port:
        numbers = _run(tmp_path, _spec(tmp_path, port, seconds=0.3)).numbers
    assert numbers["answers_changed"] == numbers["turns"] > 0
    assert numbers["answers_broken"] == (numbers["turns"] if broken else 0)


def test_a_refused_turn_is_an_error_and_is_tried_again(tmp_path: Path) -> None:
    with _server(lambda: b"HTTP/1.1 429 Slowly\r\nContent-Length: 0\r\n\r\n") as port:
        load = _run(tmp_path, _spec(tmp_path, port, seconds=1.0))
    assert load.numbers["turns"] == 0
    assert load.errors.keys() == {"status 429"}
    assert load.errors["status 429"] == load.numbers["turns_begun"] > 3
