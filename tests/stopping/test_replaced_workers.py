"""Workers that are replaced, because of a reload or because they died, under many streams."""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path

import psutil
import pytest
import trustme
import yaml
from fake_coderd import FakeCoderd
from gateway_process import message_of, wait_until
from held import APIS, HeldClients, HeldProvider, ask, is_whole
from raw_client import RawClient
from stops import (
    Start,
    both,
    certify,
    hang_up,
    ready_workers,
    refuses,
    replaced_workers,
    served_by,
    terminate,
    trusting,
    wait_for_drain,
)

STREAMS = 200


def test_a_reload_and_a_renewed_certificate_disturb_no_stream(
    tmp_path: Path, start: Start, provider: HeldProvider
) -> None:
    first, second = trustme.CA(), trustme.CA()
    config = tmp_path / "gateway.yaml"
    config.write_text("ai_gateway: {max_body_size: 1MiB}")
    gateway = start("--config", str(config), *certify(tmp_path, first), workers=2, ready=False)
    gateway.url = gateway.url.replace("http:", "https:")
    wait_until(lambda: ready_workers(gateway) == 2, "both workers are there")
    old = trusting(first)
    with (
        HeldClients(gateway, STREAMS, 4, provider=provider, apis=tuple(APIS), tls=old) as held,
        RawClient(gateway, tls=old) as kept,
    ):
        kept.post(APIS["messages"], ask(model="any"))
        assert kept.answer().status == 200
        certify(tmp_path, second)
        changed = {"max_body_size": "2KiB", "worker_connections": 777}
        config.write_text(yaml.safe_dump({"ai_gateway": changed}))

        def use_kept() -> None:
            # Its client knows nothing of a reload.
            kept.post(APIS["messages"], ask(model="any"))
            assert kept.answer().status == 200

        hang_up(gateway, use_kept)
        with RawClient(gateway, tls=trusting(second)) as new:
            new.post(APIS["messages"], b"x" * 3000)
            assert new.answer().status == 413
        with pytest.raises(ssl.SSLError):
            RawClient(gateway, tls=old)
        provider.go_on()
        answers = held.answers()
    assert [answer.status for _, answer in answers] == [200] * (STREAMS + 4)
    assert all(is_whole(api, answer) for api, answer in answers[:STREAMS])
    (named,) = [
        x for x in gateway.logs() if message_of(x) == "these settings change with a restart only"
    ]
    assert named["fields"]["settings"] == ["--worker-connections"]
    gateway.stop()


@both
def test_old_workers_serve_until_new_ones_can(
    start: Start, provider: HeldProvider, worker_class: str
) -> None:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", "tok-alice-secret")
        gateway = start(
            "--url", coderd.url, "--worker-class", worker_class,
            local=False, environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
        )  # fmt: skip
        (old,) = gateway.worker_pids()
        coderd.refuse(503, "not now")
        connections = len(coderd.requests)
        gateway.process.send_signal(signal.SIGHUP)
        # The new worker has begun, and cannot ask coderd.
        coderd.wait_for(lambda: len(coderd.requests) > connections, timeout=30)
        for _ in range(10):
            with RawClient(gateway, key="tok-alice-secret") as client:
                client.post(APIS["messages"], ask(model="any"))
                # With the new one it would wait.
                assert client.answer().status == 200
        coderd.admit()
        wait_until(lambda: replaced_workers(gateway) == [old], "the new one serves")
        gateway.stop()


def test_a_worker_that_dies_is_replaced_and_costs_its_own_streams_only(
    start: Start, provider: HeldProvider
) -> None:
    gateway = start(workers=2)
    gateway.allowed_errors.append("SIGKILL")
    with HeldClients(gateway, STREAMS, provider=provider) as held:
        victim, _ = gateway.worker_pids()
        workers = served_by(gateway)
        lost = {client.port for _, client, _ in held.clients if workers[client.port] == victim}
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(gateway.worker_pids()) - {victim}) == 2, "it is replaced")
        with RawClient(gateway) as new:
            new.post(APIS["messages"], ask(model="any"))
            assert new.answer().status == 200
        provider.go_on()
        answers = held.answers()
    assert 0 < len(lost) < STREAMS
    for (_, client, _), (api, answer) in zip(held.clients, answers, strict=True):
        assert is_whole(api, answer) == (client.port not in lost)
        assert answer.ended == (client.port not in lost)
    gateway.stop()


def test_old_workers_that_drain_do_not_keep_new_ones_from_being_replaced(
    start: Start, provider: HeldProvider
) -> None:
    gateway = start(workers=2)
    gateway.allowed_errors.append("SIGKILL")
    with HeldClients(gateway, 20, provider=provider) as held:
        old = set(gateway.worker_pids())
        hang_up(gateway)
        young = set(gateway.worker_pids()) - old
        ready = ready_workers(gateway)
        for pid in young:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ready_workers(gateway) == ready + 2, "new workers serve again")
        with RawClient(gateway) as client:
            client.post(APIS["messages"], ask(model="any"))
            assert client.answer().status == 200
        # The stop reaches all of them.
        terminate(gateway)
        wait_for_drain(gateway)
        provider.go_on()
        assert all(is_whole(api, answer) for api, answer in held.answers())
    gateway.stop(None)


def test_workers_without_a_main_process_finish_what_they_serve(
    start: Start, provider: HeldProvider
) -> None:
    gateway = start(workers=2)
    with HeldClients(gateway, 20, provider=provider) as held:
        workers = [psutil.Process(pid) for pid in gateway.worker_pids()]
        gateway.process.kill()
        gateway.process.wait()
        wait_until(lambda: refuses(gateway), "the port is free")
        provider.go_on()
        answers = held.answers()
    assert all(is_whole(api, answer) for api, answer in answers)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    rows = gateway.rows("SELECT id FROM interceptions WHERE ended_at IS NOT NULL")
    assert {row["id"] for row in rows} == {answer.interception_id for _, answer in answers}
