"""When the gateway, a worker or a provider's actor ends, what runs finishes and nobody hangs."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from typing import Any

from gateway_process import GatewayProcess, message_of, wait_until
from socket_client import open_session
from socket_provider import SocketProvider, response_events
from socket_rig import Start
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

RESTART = 1012


class Held:
    """Answers of which the second half waits."""

    def __init__(self, sockets: SocketProvider) -> None:
        self.go_on = threading.Event()
        sockets.script = self._answer

    def _answer(self, provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        for number, each in enumerate(response_events("resp_1", text="a b")):
            connection.send(json.dumps(each))
            if number == 2 and asked["input"] == "wait":
                assert self.go_on.wait(60)


def _log_has(gateway: GatewayProcess, text: str) -> None:
    wait_until(lambda: any(text in message_of(line) for line in gateway.logs()), text)


def test_a_stop_lets_what_runs_finish_and_ends_idle_sessions(
    start: Start, sockets: SocketProvider
) -> None:
    held = Held(sockets)
    gateway = start()
    with open_session(gateway) as idle, open_session(gateway) as busy:
        idle.ask()
        busy.create("wait")
        busy.next()
        gateway.process.send_signal(signal.SIGTERM)
        assert idle.closed()[0] == RESTART
        busy.create("more", stream_id="other")
        while (told := busy.next())["type"] != "error":
            pass
        assert told["status"] == 503
        held.go_on.set()
        assert busy.answer()[-1]["type"] == "response.completed"
        assert busy.closed()[0] == RESTART
        assert gateway.process.wait(30) == 0
    gateway.stop(None)
    ends = gateway.rows("SELECT ended_at, error_type FROM interceptions")
    assert [each["error_type"] for each in ends if each["ended_at"]] == [None, None]


def test_what_does_not_finish_in_time_is_cut_and_recorded(
    start: Start, sockets: SocketProvider
) -> None:
    held = Held(sockets)
    gateway = start("--shutdown-timeout", "1s")
    with open_session(gateway) as session:
        session.create("wait")
        session.next()
        gateway.process.send_signal(signal.SIGTERM)
        told = session.answer()[-1]
        assert (told["type"], told["status"]) == ("error", 502)
        assert "shutting down" in told["error"]["message"]
        assert session.closed()[0] == RESTART
        assert gateway.process.wait(30) == 0
    held.go_on.set()
    gateway.stop(None)
    [found] = gateway.rows("SELECT ended_at, error_message FROM interceptions")
    assert found["ended_at"]
    assert "shutting down" in found["error_message"]


def test_a_reload_moves_idle_sessions_to_new_workers(start: Start, sockets: SocketProvider) -> None:
    held = Held(sockets)
    gateway = start()
    with open_session(gateway) as idle, open_session(gateway) as busy:
        idle.ask()
        busy.create("wait")
        busy.next()
        gateway.process.send_signal(signal.SIGHUP)
        assert idle.closed()[0] == RESTART
        held.go_on.set()
        assert busy.answer()[-1]["type"] == "response.completed"
        assert busy.closed()[0] == RESTART
    with open_session(gateway) as again:
        assert again.ask()[-1]["type"] == "response.completed"


def test_restarting_the_provider_leaves_nobody_hanging(
    start: Start, sockets: SocketProvider
) -> None:
    held = Held(sockets)
    gateway = start()
    gateway.allowed_errors += ["CrashedOnRequest", "actor ended"]
    runtime = ["--runtime-dir", str(gateway.runtime_dir)]
    for crash in ([], ["--crash"]):
        held.go_on.clear()
        with open_session(gateway) as idle, open_session(gateway) as busy:
            idle.ask()
            busy.create("wait")
            busy.next()
            listed = gateway.command("actors", *runtime).stdout
            assert "sessions=2" in listed
            assert listed.count("session ") >= 2
            restart = ["restart", "provider/openai", *crash]
            assert gateway.command("actors", *runtime, *restart).returncode == 0
            assert idle.closed()[0] == RESTART
            held.go_on.set()
            assert busy.answer()[-1]["type"] == "response.completed"
            assert busy.closed()[0] == RESTART


def test_a_session_that_is_too_old_says_so(start: Start, sockets: SocketProvider) -> None:
    gateway = start("--websocket-max-age", "1ns")
    with open_session(gateway) as session:
        # It may be closed before it is asked.
        with contextlib.suppress(ConnectionClosed):
            session.create()
        told = session.next()
        assert told["error"]["code"] == "websocket_connection_limit_reached"
        assert session.closed() == (1001, "websocket_connection_limit_reached")
    assert sockets.received == []


def test_a_provider_that_falls_silent_is_cut(start: Start, sockets: SocketProvider) -> None:
    held = Held(sockets)
    gateway = start("--idle-timeout", "1s")
    with open_session(gateway) as session:
        session.create("wait")
        told = session.answer()[-1]
        assert (told["type"], told["status"]) == ("error", 504)
        assert session.closed()[0] == 1011
    held.go_on.set()
    wait_until(
        lambda: gateway.rows("SELECT id FROM interceptions WHERE error_type = 'timeout'"),
        "it is recorded",
    )
