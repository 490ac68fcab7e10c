"""Telling gateways to stop or to reload, seeing how far they are, and what came of it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import trustme
from gateway_process import GatewayProcess, message_of, wait_until
from held import SHUTTING_DOWN, error_event_of
from raw_client import RawAnswer

__all__ = [
    "Start",
    "both",
    "certify",
    "check_answers",
    "check_records",
    "hang_up",
    "port_of",
    "press_ctrl_c",
    "ready_workers",
    "refuses",
    "replaced_workers",
    "served_by",
    "terminate",
    "trusting",
    "wait_for_drain",
    "wait_until_left",
]

Start = Callable[..., GatewayProcess]
"""The fixture ``start``."""
both = pytest.mark.parametrize("worker_class", ["gevent", "gthread"])


def certify(folder: Path, authority: trustme.CA) -> list[str]:
    """Options for a certificate of this authority, which is written to the same files again."""
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    return ["--tls-cert-file", str(folder / "tls.crt"), "--tls-key-file", str(folder / "tls.key")]


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def terminate(gateway: GatewayProcess) -> None:
    gateway.process.send_signal(signal.SIGTERM)


def press_ctrl_c(gateway: GatewayProcess) -> None:
    """A terminal sends it to all processes."""
    os.killpg(gateway.process.pid, signal.SIGINT)


def wait_for_drain(gateway: GatewayProcess) -> None:
    """Wait until requests are running on, and nobody listens any more."""

    def draining() -> bool:
        lines = [message_of(line) for line in gateway.logs()]
        return "shutting down standalone AI Gateway" in lines and any(
            line.startswith("draining") for line in lines
        )

    wait_until(lambda: draining() and refuses(gateway), "all workers drain")


def wait_until_left(gateway: GatewayProcess, count: int) -> None:
    """Wait until the gateway has noticed that so many clients have left their streams."""
    wait_until(
        lambda: sum(x["fields"].get("outcome") == "left" for x in gateway.logs()) == count,
        "answers are read on without their clients",
    )


def port_of(gateway: GatewayProcess) -> int:
    return int(gateway.url.rpartition(":")[2])


def refuses(gateway: GatewayProcess) -> bool:
    """Whether nobody listens any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port_of(gateway))) != 0


def ready_workers(gateway: GatewayProcess) -> int:
    """How many workers have had their providers, since the gateway was started."""
    return sum(message_of(line) == "providers in use" for line in gateway.logs())


def hang_up(gateway: GatewayProcess, meanwhile: Callable[[], None] = lambda: None) -> None:
    """SIGHUP, until only new workers take connections."""
    before = len(replaced_workers(gateway))
    gateway.process.send_signal(signal.SIGHUP)
    meanwhile()
    wait_until(
        lambda: len(replaced_workers(gateway)) == before + gateway.workers, "new workers serve"
    )


def replaced_workers(gateway: GatewayProcess) -> list[int]:
    """Workers that take no connections any more, because others do."""
    return [
        line["fields"]["pid"]
        for line in gateway.logs()
        if message_of(line).startswith("replaced, finishing")
    ]


def served_by(gateway: GatewayProcess) -> dict[int, int]:
    """Worker processes by the port of the client that they have a connection to."""
    return {
        one.raddr.port: pid
        for pid in gateway.worker_pids()
        # The kernel's list may leave one out while others come and go.
        for _ in range(5)
        for one in psutil.Process(pid).net_connections("tcp")
        if one.raddr
    }


def check_answers(answers: list[tuple[str, RawAnswer]], streams: int) -> None:
    """Streams end with an error event and a broken connection, others are refused."""
    for api, answer in answers[:streams]:
        assert answer.status == 200
        assert not answer.ended, "never as if it were complete"
        assert error_event_of(api, answer)["message"] == SHUTTING_DOWN
    for api, answer in answers[streams:]:
        assert answer.status == 503
        assert answer.ended
        assert answer.headers["connection"] == "close"
        assert SHUTTING_DOWN.encode() in answer.body
        assert (b'"overloaded_error"' if api == "messages" else b'"server_error"') in answer.body


def check_records(gateway: GatewayProcess, answers: list[tuple[str, RawAnswer]]) -> None:
    """Each has ended with its error, and what was known of the streams is there."""
    rows = gateway.rows("SELECT id, error_type, error_message, ended_at FROM interceptions")
    assert {row["id"] for row in rows} == {answer.interception_id for _, answer in answers}
    assert {(row["error_type"], row["error_message"]) for row in rows} == {
        ("server_error", SHUTTING_DOWN)
    }
    assert all(row["ended_at"] for row in rows)
    streams = {answer.interception_id for _, answer in answers if answer.status == 200}
    prompts = gateway.rows("SELECT interception_id FROM user_prompts")
    assert {row["interception_id"] for row in prompts} >= streams
