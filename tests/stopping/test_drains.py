"""A gateway that is told to stop: what runs runs on, what is new is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from gateway_process import GatewayProcess, message_of, wait_until
from held import APIS, SHUTTING_DOWN, HeldClients, HeldProvider, ask, is_whole
from raw_client import RawClient
from stops import (
    Start,
    both,
    certify,
    port_of,
    press_ctrl_c,
    terminate,
    trusting,
    wait_for_drain,
    wait_until_left,
)


@pytest.mark.parametrize("stop", [terminate, press_ctrl_c])
def test_two_hundred_streams_run_to_their_ends(
    start: Start, provider: HeldProvider, stop: Callable[[GatewayProcess], None]
) -> None:
    gateway = start(workers=2)
    apis = tuple(APIS)
    with HeldClients(gateway, 200, 6, provider=provider, apis=apis) as held:
        stop(gateway)
        wait_for_drain(gateway)
        line = next(x for x in gateway.logs() if message_of(x).startswith("draining"))
        assert "Ctrl-C" in message_of(line)
        assert line["fields"]["requests"] > 10
        provider.go_on()
        answers = held.answers()
    assert all(answer.status == 200 for _, answer in answers)
    assert all(is_whole(api, answer) for api, answer in answers[:200])
    gateway.stop(None)
    rows = gateway.rows("SELECT id, error_type, ended_at FROM interceptions")
    assert {row["id"] for row in rows} == {answer.interception_id for _, answer in answers}
    assert all(row["ended_at"] and row["error_type"] is None for row in rows)
    (usages,) = gateway.rows("SELECT count(DISTINCT interception_id) AS n FROM token_usages")
    assert usages["n"] == 206


@both
def test_a_stopping_gateway_refuses_new_requests_and_closes_idle_connections(
    start: Start, provider: HeldProvider, worker_class: str
) -> None:
    gateway = start("--worker-class", worker_class)
    probes = [b"GET /readyz", b"GET /healthz"]
    with (
        RawClient(gateway) as idle,
        HeldClients(gateway, 3, provider=provider) as held,
    ):
        idle.post(APIS["messages"], ask(model="any"))
        assert idle.answer().status == 200
        # One more request on each connection that is busy until then.
        for (_, client, _), probe in zip(held.clients, [*probes, None], strict=True):
            if probe is None:
                client.post(APIS["messages"], ask())
            else:
                client.send(probe + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        terminate(gateway)
        wait_for_drain(gateway)
        # It neither waits for the keep-alive timeout nor for the streams.
        assert idle.read_rest() == b""
        provider.go_on()
        assert all(is_whole(api, answer) for api, answer in held.answers())
        answers = [answer for _, answer in held.answers()]
    assert [answer.status for answer in answers] == [503, 200, 503]
    assert [answer.headers["connection"] for answer in answers] == ["close"] * 3
    assert json.loads(answers[2].body)["error"]["message"] == SHUTTING_DOWN
    assert answers[2].headers["retry-after"] == "1"
    gateway.stop(None)
    assert len(gateway.rows("SELECT id FROM interceptions")) == 4


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@both
def test_a_connection_without_a_request_holds_nothing_up(
    tmp_path: Path, start: Start, worker_class: str, tls: bool
) -> None:
    authority = trustme.CA()
    options = certify(tmp_path, authority) if tls else []
    gateway = start("--worker-class", worker_class, *options, ready=False)
    silent = [socket.create_connection(("127.0.0.1", port_of(gateway))) for _ in range(3)]
    silent[1].sendall(b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: ga")
    # All are accepted when one that came later is answered.
    with RawClient(gateway, tls=trusting(authority) if tls else None) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert client.answer().status == 200
    gateway.stop()
    for each in silent:
        each.close()


@both
def test_connections_that_nobody_has_accepted_are_answered_too(
    start: Start, provider: HeldProvider, worker_class: str
) -> None:
    gateway = start("--worker-class", worker_class, workers=2)
    workers = gateway.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    with ExitStack() as exits:
        clients = [exits.enter_context(RawClient(gateway)) for _ in range(40)]
        for client in clients:
            client.post(APIS["messages"], ask(model="any"))
        terminate(gateway)
        wait_until(
            lambda: message_of(gateway.logs()[-1]) == "shutting down standalone AI Gateway",
            "the main process stops",
        )
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        answers = [client.answer() for client in clients]
    # Those may be served that are accepted a moment before the workers heard of it.
    for answer in answers:
        assert answer.status == 200 or SHUTTING_DOWN in answer.body.decode()
    gateway.stop(None)


def test_the_answer_is_read_to_its_end_for_a_client_that_has_left(
    start: Start, provider: HeldProvider
) -> None:
    gateway = start("--keepalive-ping", "100ms")
    with HeldClients(gateway, 2, provider=provider):
        pass
    wait_until_left(gateway, 2)
    terminate(gateway)
    wait_for_drain(gateway)
    provider.go_on()
    gateway.stop(None)
    rows = gateway.rows("SELECT * FROM token_usages WHERE output_tokens > 0")
    assert len({row["interception_id"] for row in rows}) == 2
    assert not any("usage_complete" in row["metadata"] for row in rows)


def test_records_reach_coderd_before_the_gateway_is_gone(
    start: Start, provider: HeldProvider
) -> None:
    from fake_coderd import FakeCoderd

    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", "tok-alice-secret")
        gateway = start(
            "--url", coderd.url, local=False, environ={"CODER_AI_GATEWAY_KEY": "gateway-key"}
        )
        with HeldClients(gateway, 20, provider=provider, key="tok-alice-secret") as held:
            terminate(gateway)
            wait_for_drain(gateway)
            provider.go_on()
            answers = held.answers()
        assert all(is_whole(api, answer) for api, answer in answers)
        gateway.stop(None)
        ended = coderd.deployment.stored("RecordInterceptionEnded")
        assert len(ended) == 20
        assert len(coderd.deployment.stored("RecordPromptUsage")) == 20
    assert not list((gateway.folder / "state").glob("*.sqlite"))
