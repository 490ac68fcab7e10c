"""What has not ended in time, or must end now, is cut: never silently, and never unrecorded."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, message_of, wait_until
from held import (
    APIS,
    SHUTTING_DOWN,
    HeldClients,
    HeldProvider,
    ask,
)
from imitation_provider import Stall, head, stream
from raw_client import RawClient
from stops import (
    Start,
    both,
    check_answers,
    check_records,
    port_of,
    press_ctrl_c,
    terminate,
    wait_for_drain,
    wait_until_left,
)

SOON = 8.0
"""Seconds; it takes less than one on a machine that is not busy, and must never be the five
minutes of the shutdown timeout."""


@pytest.mark.parametrize(
    ("worker_class", "workers", "streams"), [("gevent", 2, 200), ("gthread", 1, 20)]
)
def test_what_does_not_end_in_time_gets_an_error(
    start: Start, provider: HeldProvider, worker_class: str, workers: int, streams: int
) -> None:
    options = ["--worker-class", worker_class, "--shutdown-timeout", "1s"]
    gateway = start(*options, workers=workers)
    with HeldClients(gateway, streams, 6, provider=provider, apis=tuple(APIS)) as held:
        began = time.monotonic()
        terminate(gateway)
        answers = held.answers()
        assert time.monotonic() - began >= 1.0
    check_answers(answers, streams)
    gateway.stop(None)
    check_records(gateway, answers)


def _again(gateway: GatewayProcess) -> None:
    terminate(gateway)
    wait_for_drain(gateway)
    terminate(gateway)


def _ctrl_c_twice(gateway: GatewayProcess) -> None:
    press_ctrl_c(gateway)
    wait_for_drain(gateway)
    press_ctrl_c(gateway)


def _quit(gateway: GatewayProcess) -> None:
    gateway.process.send_signal(signal.SIGQUIT)


@both
@pytest.mark.parametrize("end", [_again, _ctrl_c_twice, _quit])
def test_a_second_signal_ends_it_now(
    start: Start, provider: HeldProvider, worker_class: str, end: Callable[[GatewayProcess], None]
) -> None:
    gateway = start("--worker-class", worker_class)
    with HeldClients(gateway, 20, 3, provider=provider, apis=tuple(APIS)) as held:
        began = time.monotonic()
        end(gateway)
        answers = held.answers()
    gateway.stop(None)
    assert time.monotonic() - began < SOON
    check_answers(answers, 20)
    # All is on disk; what was not in the database by then is brought there by the next start.
    gateway = start("--worker-class", worker_class, folder=gateway.folder)
    wait_until(
        lambda: not gateway.rows("SELECT 1 FROM interceptions WHERE ended_at IS NULL"),
        "all records have arrived",
    )
    check_records(gateway, answers)


@contextmanager
def _coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", "tok-alice-secret")
        yield coderd


def test_what_is_cut_without_coderd_is_delivered_by_the_next_start(
    tmp_path: Path, start: Start, provider: HeldProvider
) -> None:
    folder = tmp_path / "same"
    with _coderd() as coderd:
        more = {"local": False, "environ": {"CODER_AI_GATEWAY_KEY": "gateway-key"}}
        gateway = start("--url", coderd.url, folder=folder, **more)
        with HeldClients(gateway, 10, provider=provider, key="tok-alice-secret") as held:
            coderd.refuse(503, "away")
            coderd.cut_connections()
            wait_until(lambda: not gateway.is_ready(), "coderd is away")
            _quit(gateway)
            answers = held.answers()
            check_answers(answers, 10)
            gateway.stop(None)
        assert not coderd.deployment.stored("RecordInterceptionEnded")
        coderd.admit()
        start("--url", coderd.url, folder=folder, **more)
        coderd.wait_for(
            lambda: len(coderd.deployment.stored("RecordInterceptionEnded")) == 10, timeout=30
        )
        for rpc in ("RecordPromptUsage", "RecordTokenUsage"):
            found = {one.interception_id for one in coderd.deployment.stored(rpc)}
            assert found == {answer.interception_id for _, answer in answers}


def test_a_second_signal_does_not_wait_for_records_to_be_sent(
    tmp_path: Path, start: Start, provider: HeldProvider
) -> None:
    folder = tmp_path / "same"
    with _coderd() as coderd:
        more = {"local": False, "environ": {"CODER_AI_GATEWAY_KEY": "gateway-key"}}
        gateway = start("--url", coderd.url, folder=folder, **more)
        coderd.faults.hang("RecordInterceptionEnded")
        with RawClient(gateway, key="tok-alice-secret") as client:
            client.post(APIS["messages"], ask(model="any"))
            answered = client.answer()
        coderd.wait_for_call("RecordInterceptionEnded")
        terminate(gateway)
        wait_until(
            lambda: any(message_of(x).startswith("Worker exiting") for x in gateway.logs()),
            "the worker has only records left to send",
        )
        terminate(gateway)
        gateway.stop(None)
        assert not coderd.deployment.stored("RecordInterceptionEnded")
        coderd.faults.clear()
        start("--url", coderd.url, folder=folder, **more)
        coderd.wait_for(lambda: bool(coderd.deployment.stored("RecordInterceptionEnded")), 30)
        (ended,) = coderd.deployment.stored("RecordInterceptionEnded")
        assert ended.interception_id == answered.interception_id


@both
def test_a_request_whose_start_is_being_recorded_is_let_go(
    start: Start, provider: HeldProvider, worker_class: str
) -> None:
    with _coderd() as coderd:
        gateway = start(
            "--url", coderd.url, "--worker-class", worker_class,
            local=False, environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
        )  # fmt: skip
        coderd.faults.hang("RecordInterception")
        coderd.faults.hang("IsAuthorized", skip=1)
        with (
            RawClient(gateway, key="tok-alice-secret") as recording,
            RawClient(gateway, key="tok-unknown") as authorizing,
        ):
            recording.post(APIS["messages"], ask())
            coderd.wait_for_call("RecordInterception")
            authorizing.post(APIS["messages"], ask())
            coderd.wait_for_call("IsAuthorized", 2)
            began = time.monotonic()
            _quit(gateway)
            answers = [client.answer() for client in (recording, authorizing)]
            gateway.stop(None)
            assert time.monotonic() - began < SOON
    assert [answer.status for answer in answers] == [503, 503]
    assert all(SHUTTING_DOWN.encode() in answer.body for answer in answers)
    assert len(provider.requests) == 0


@both
def test_a_client_that_does_not_read_holds_nothing_up(
    start: Start, provider: HeldProvider, worker_class: str
) -> None:
    gateway = start("--worker-class", worker_class)
    big = b"data: " + b"x" * 1_000_000 + b"\n\n"
    provider.play(stream([b"data: {}\n\n", *[big] * 30, Stall()], end=False))
    with RawClient(gateway) as client:
        client.post(APIS["chat"], ask("chat", stream=True))
        client.read_until(b"data: ")
        provider.wait_for_request()
        wait_until(lambda: _unsent(gateway, client) > 100_000, "the gateway waits for its client")
        began = time.monotonic()
        _quit(gateway)
        gateway.stop(None)
        assert time.monotonic() - began < SOON
    (row,) = gateway.rows("SELECT error_type, ended_at FROM interceptions")
    assert row["ended_at"]
    assert row["error_type"]


def _unsent(gateway: GatewayProcess, client: RawClient) -> int:
    """Bytes that the kernel cannot send to a client."""
    ends = f":{port_of(gateway):04X}", f":{client.port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (local[-5:], remote[-5:]) == ends:
            return int(queues.split(":")[0], 16)
    return 0


@both
def test_an_answer_whose_client_has_left_ends_on_disk(
    start: Start, provider: HeldProvider, worker_class: str
) -> None:
    options = ["--worker-class", worker_class, "--shutdown-timeout", "1s"]
    gateway = start(*options, "--keepalive-ping", "100ms")
    with HeldClients(gateway, 5, provider=provider):
        pass
    wait_until_left(gateway, 5)
    began = time.monotonic()
    gateway.stop()
    assert 1.0 <= time.monotonic() - began < SOON
    rows = gateway.rows("SELECT error_type, ended_at FROM interceptions")
    assert [(row["error_type"], bool(row["ended_at"])) for row in rows] == [("unknown", True)] * 5
    usages = gateway.rows("SELECT metadata FROM token_usages")
    assert len(usages) == 5
    assert all('"usage_complete":false' in row["metadata"] for row in usages)


def test_a_head_without_a_body_does_not_become_an_answer(
    start: Start, provider: HeldProvider
) -> None:
    gateway = start("--shutdown-timeout", "1s")
    fields = [("Content-Type", "application/json"), ("Content-Length", "1000")]
    paths = [APIS["messages"], "/openai/v1/models/gpt"]
    for _ in paths:
        provider.play([head(200, fields), Stall()])
    with RawClient(gateway) as recorded, RawClient(gateway) as passed:
        recorded.post(paths[0], ask())
        passed.post(paths[1], {})
        provider.wait_for_request(2)
        terminate(gateway)
        answers = [client.answer() for client in (recorded, passed)]
        gateway.stop(None)
    assert [answer.status for answer in answers] == [503, 503]
    assert all(answer.ended and SHUTTING_DOWN.encode() in answer.body for answer in answers)
    assert answers[0].interception_id
    (row,) = gateway.rows("SELECT error_message, ended_at FROM interceptions")
    assert row["error_message"] == SHUTTING_DOWN
