"""Connecting, losing coderd, waiting for it, and giving up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pykka
import pytest
import structlog
from coderd_talk import Talk, eventually, interception
from fake_coderd import FakeCoderd, encode_frame

from aigateway.actors.actor.base import ActorDied
from aigateway.actors.control.coderd._alarms import Backoff
from aigateway.actors.control.coderd.connection import CoderdConnection, ConnectionSettings
from aigateway.actors.control.coderd.dial import DialSettings
from aigateway.actors.control.coderd.wire.yamux import Limits
from aigateway.actors.control.messages import Accepted, Caller, Denied, Status, Unavailable

TOKEN = "tok-alice-secret"
QUICK = Limits(keepalive_interval=0.1, keepalive_timeout=0.4)


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", TOKEN)
        yield coderd


# -- connecting


def test_the_status_says_where_and_how(coderd: FakeCoderd) -> None:
    with Talk(coderd, dial={"url": coderd.url.replace("//", "//user:hush@")}) as talk:
        assert talk.status() == Status(True, f"connected to {coderd.url}, API 1.4", None)


def test_reconnecting_is_immediate_and_goes_on(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        for number in range(1, 4):
            assert isinstance(talk.authorize(TOKEN), Caller)
            coderd.cut_connections(reset=number == 2)
            coderd.wait_for(lambda count=number: len(coderd.connections) > count)
        assert isinstance(talk.authorize(TOKEN), Caller)
    assert len(coderd.requests) == 4


@pytest.mark.parametrize("code", [1000, 1001, 1011])
def test_a_closed_websocket_is_dialled_again(coderd: FakeCoderd, code: int) -> None:
    with Talk(coderd) as talk:
        coderd.close_connections(code)
        coderd.wait_for(lambda: len(coderd.connections) == 2)
        assert isinstance(talk.authorize(TOKEN), Caller)


def test_a_transient_refusal_is_dialled_again(coderd: FakeCoderd) -> None:
    coderd.refuse(500, {"message": "starting up"}, times=2)
    with structlog.testing.capture_logs() as logs, Talk(coderd):
        pass
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["coderd client failed to dial"] * 2
    assert warnings[0]["error"] == (
        f"unexpected HTTP response dialing coderd: GET {coderd.url}"
        "/api/v2/ai-gateway/serve?version=1.4: unexpected status code 500: starting up"
    )
    assert [entry["event"] for entry in logs if entry["log_level"] == "info"] == [
        "successfully connected to coderd"
    ]


def test_a_coderd_that_is_not_there_is_dialled_until_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    first = FakeCoderd(port=port)
    first.stop()
    with structlog.testing.capture_logs() as logs, Talk(first, connect=False) as talk:
        eventually(lambda: "refused" in talk.status().detail)
        with FakeCoderd(port=port):
            talk.wait_connected()
    error = logs[1]["error"]
    assert error.startswith(f"GET {first.url}/api/v2/ai-gateway/serve?version=1.4: ")


def test_the_end_of_a_connection_is_logged(coderd: FakeCoderd) -> None:
    with structlog.testing.capture_logs() as logs, Talk(coderd) as talk:
        coderd.close_connections()
        coderd.wait_for(lambda: len(coderd.connections) == 2)
        talk.wait_connected()
    events = [entry["event"] for entry in logs]
    assert events[:5] == [
        "dialing coderd",
        "successfully connected to coderd",
        "connection to coderd closed",
        "dialing coderd",
        "successfully connected to coderd",
    ]
    assert logs[2]["context"] == "aibridged.server"


def test_coderd_is_told_to_whoever_wants_to_know(coderd: FakeCoderd) -> None:
    connected = threading.Event()
    with Talk(coderd, actor={"on_connected": connected.set}):
        assert connected.wait(10)


def test_a_coderd_that_drops_every_connection_is_not_hammered(coderd: FakeCoderd) -> None:
    coderd.send_after_upgrade(encode_frame(8, b"\x03\xe8"))
    began = time.monotonic()
    with Talk(coderd, connect=False):
        coderd.wait_for(lambda: len(coderd.requests) == 5)
        # 0 + 81 + 131 + 212 + 343 ms.
        assert time.monotonic() - began > 0.7


def test_the_waits_grow_by_the_golden_ratio_up_to_ten_seconds() -> None:
    backoff = Backoff()
    waits = [round(backoff.next() * 1000, 1) for _ in range(14)]
    assert waits[:6] == [0, 80.9, 130.9, 211.8, 342.7, 554.5]
    assert waits[-3:] == [9950.3, 10000, 10000]
    backoff.reset()
    assert backoff.next() == 0.0


# -- what will not change


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_fatal_refusal_ends_the_dialling(coderd: FakeCoderd, status: int) -> None:
    coderd.refuse(status, {"message": "go away"})
    with (
        structlog.testing.capture_logs() as logs,
        Talk(coderd, connect=False) as talk,
    ):
        waiting = talk.begin_authorize(TOKEN)
        reason = talk.fatal.get(timeout=10)
        assert reason.startswith(f"dial coderd: GET {coderd.url}/api/v2/ai-gateway/serve")
        assert reason.endswith(f"unexpected status code {status}: go away")
        assert waiting.get(timeout=10) == Unavailable(reason)
        assert talk.status() == Status(False, reason, reason)
        assert talk.authorize(TOKEN) == Unavailable(reason)
        assert talk.start_interception(interception()) == Unavailable(reason)
    (error,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert error["event"] == "fatal error dialing coderd"
    assert error["error"] == reason
    assert error["status_code"] == status
    assert error["url"].startswith(coderd.url)
    assert len(coderd.requests) == (2 if status == 404 else 1)


def test_tls_files_that_are_missing_are_fatal(coderd: FakeCoderd) -> None:
    dial = {"url": "https://127.0.0.1:1", "ca_file": "/nowhere/ca.pem"}
    with Talk(coderd, dial=dial, connect=False) as talk:
        assert "CODER_CLIENT_TLS_CA_FILE" in talk.fatal.get(timeout=10)


def test_a_deleted_gateway_key_is_fatal_at_the_next_dial(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        coderd.delete_gateway_key()
        assert "AI Gateway key invalid" in talk.fatal.get(timeout=10)
        eventually(lambda: talk.status().fatal)
        assert not talk.status().connected


def test_an_unexpected_error_is_not_the_end(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigateway.actors.control.coderd import _dialling

    real = _dialling.Dialer.dial
    failures = iter([RuntimeError("surprise")])

    def dial(self: object) -> object:
        for failure in failures:
            raise failure
        return real(self)  # type: ignore[arg-type]

    monkeypatch.setattr(_dialling.Dialer, "dial", dial)
    with structlog.testing.capture_logs() as logs, Talk(coderd) as talk:
        assert isinstance(talk.authorize(TOKEN), Caller)
    assert "dialing coderd failed" in [entry["event"] for entry in logs]


# -- waiting


def test_requests_wait_for_coderd(coderd: FakeCoderd) -> None:
    coderd.refuse(503, {"message": "later"})
    with Talk(coderd, connect=False) as talk:
        authorized = talk.begin_authorize(TOKEN)
        record = interception()
        started = talk.begin_interception(record)
        coderd.wait_for(lambda: len(coderd.requests) >= 2)
        assert not coderd.deployment.calls
        coderd.admit()
        assert isinstance(authorized.get(timeout=10), Caller)
        assert started.get(timeout=10) == Accepted()
    assert [stored.interception_id for stored in coderd.deployment.stored()] == [record.id]


def test_requests_do_not_wait_for_ever(coderd: FakeCoderd) -> None:
    coderd.refuse(503, {"message": "later"})
    with Talk(coderd, connect=False, max_wait=0.3) as talk:
        answer = talk.authorize(TOKEN)
        assert isinstance(answer, Unavailable)
        assert answer.message.startswith("coderd was away for 0.3 s: ")
        assert "later" in answer.message
        assert answer.status == 503
        assert answer.retry_after > 0
        coderd.admit()
        talk.wait_connected()
        assert not coderd.deployment.calls


def test_only_so_many_requests_wait(coderd: FakeCoderd) -> None:
    coderd.refuse(503, {"message": "later"})
    with Talk(coderd, connect=False, max_waiting=3) as talk:
        waiting = [talk.begin_authorize(TOKEN), talk.begin_authorize(TOKEN)]
        waiting.append(talk.begin_interception(interception()))
        answer = talk.authorize(TOKEN)
        assert isinstance(answer, Unavailable)
        assert answer.message.startswith("3 requests wait for coderd: ")
        assert isinstance(talk.mcp("user"), Unavailable)
        assert isinstance(talk.start_interception(interception()), Unavailable)
        coderd.admit()
        assert all(reply.get(timeout=10) for reply in waiting)
        assert isinstance(talk.authorize(TOKEN), Caller)


def test_a_request_that_was_under_way_is_asked_again(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        coderd.faults.hang("IsAuthorized", times=1)
        reply = talk.begin_authorize(TOKEN)
        coderd.wait_for_call("IsAuthorized")
        coderd.cut_connections()
        assert isinstance(reply.get(timeout=10), Caller)
    assert coderd.deployment.count_calls("IsAuthorized") == 2


def test_a_start_that_was_stored_before_the_cut_is_accepted_once(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        coderd.faults.drop("RecordInterception", times=1)
        record = interception()
        assert talk.start_interception(record) == Accepted()
    assert len(coderd.deployment.stored("RecordInterception")) == 1
    assert len(coderd.calls("RecordInterception")) == 2


def test_a_start_that_exists_already_is_not_accepted(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        record = interception()
        assert talk.start_interception(record) == Accepted()
        answer = talk.start_interception(record)
        assert isinstance(answer, Unavailable)
        assert "duplicate key" in answer.message


def test_a_start_that_is_wrong_is_denied(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        wrong = talk.start_interception(interception(initiator_id="nobody"))
        assert isinstance(wrong, Denied)
        assert wrong.status == 500
        assert wrong.message.startswith('invalid initiator ID "nobody"')
        wrong = talk.start_interception(interception(agent_firewall_sequence_number=1 << 40))
        assert isinstance(wrong, Denied)
        assert wrong.status == 500
        huge = talk.start_interception(interception(metadata={"a": "x" * (5 << 20)}))
        assert isinstance(huge, Denied)
        assert "over the limit" in huge.message
        assert talk.start_interception(interception(api_key_id="")) == Unavailable(
            "empty API key ID"
        )


# -- going away


def test_a_coderd_that_goes_away_finishes_what_it_has(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        gate = threading.Event()
        coderd.faults.delay("IsAuthorized", gate, times=1)
        reply = talk.begin_authorize(TOKEN)
        coderd.wait_for_call("IsAuthorized")
        coderd.go_away()
        coderd.wait_for(lambda: len(coderd.connections) == 2)
        old, new = coderd.connections
        assert isinstance(talk.authorize("tok-other-secret"), Denied)
        gate.set()
        assert isinstance(reply.get(timeout=10), Caller)
        assert old.closed.wait(10)
        assert not new.closed.is_set()


# -- keepalive


def test_pings_are_answered_while_answers_are_awaited() -> None:
    with FakeCoderd(limits=QUICK) as coderd, Talk(coderd, limits=QUICK) as talk:
        coderd.deployment.add_user("alice", TOKEN)
        gate = threading.Event()
        coderd.faults.delay("IsAuthorized", gate, times=1)
        reply = talk.begin_authorize(TOKEN)
        coderd.wait_for_call("IsAuthorized")
        # Both sides end the session after 0.4 s of silence; nothing but pings passes here.
        gate.wait(1.0)
        gate.set()
        assert isinstance(reply.get(timeout=10), Caller)
        assert len(coderd.connections) == 1


def test_a_coderd_that_is_silent_is_left(coderd: FakeCoderd) -> None:
    with Talk(coderd, limits=QUICK) as talk:
        assert isinstance(talk.authorize(TOKEN), Caller)
        stalled = coderd.connections[0]
        stalled.stall()
        waiting = talk.begin_authorize(TOKEN)
        coderd.wait_for(lambda: len(coderd.connections) == 2)
        assert isinstance(waiting.get(timeout=10), Caller)
        stalled.resume()
        assert stalled.closed.wait(10)


def test_a_coderd_that_reads_nothing_is_left_though_the_writer_waits(coderd: FakeCoderd) -> None:
    with Talk(coderd, limits=QUICK, max_streams=64) as talk:
        assert isinstance(talk.authorize(TOKEN), Caller)
        stalled = coderd.connections[0]
        stalled.stall()
        # More than all the buffers between here and there.
        text = "x" * 3_000_000
        waiting = [
            talk.begin_interception(interception(metadata={"text": text})) for _ in range(40)
        ]
        coderd.wait_for(lambda: len(coderd.connections) == 2)
        answers = {type(reply.get(timeout=30)) for reply in waiting}
        assert answers == {Accepted}
        stalled.resume()


# -- ending


def test_stopping_says_goodbye_and_answers_what_waits(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk:
        coderd.faults.hang("IsAuthorized")
        reply = talk.begin_authorize(TOKEN)
        coderd.wait_for_call("IsAuthorized")
        talk.stop()
        with pytest.raises(ActorDied):
            reply.get(timeout=10)
        assert coderd.connections[0].closed.wait(10)
        with pytest.raises(pykka.ActorDeadError):
            talk.status()
    assert coderd.notes == []


def test_stopping_while_coderd_is_away_answers_what_waits(coderd: FakeCoderd) -> None:
    coderd.refuse(503, {"message": "later"})
    with Talk(coderd, connect=False) as talk:
        reply = talk.begin_authorize(TOKEN)
        coderd.wait_for(lambda: len(coderd.requests) >= 1)
        talk.stop()
        with pytest.raises(ActorDied):
            reply.get(timeout=10)


def test_a_session_that_arrives_after_the_end_is_closed() -> None:
    """The upgrade is granted only after the actor has stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener, FakeCoderd() as coderd:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = ConnectionSettings(dial=DialSettings(url=url, key="gateway-key", proxy=""))
        ref = CoderdConnection.start("control-plane", None, settings)
        peer, _ = listener.accept()
        ref.stop()
        coderd._start(coderd._greet, peer)
        coderd.wait_for(lambda: len(coderd.connections) == 1)
        assert coderd.connections[0].closed.wait(10)


def test_no_threads_are_left(coderd: FakeCoderd) -> None:
    before = set(threading.enumerate())

    def ours() -> list[str]:
        left = [thread for thread in threading.enumerate() if thread not in before]
        return [thread.name for thread in left if thread.name.startswith("control-plane-")]

    with Talk(coderd) as talk:
        for count in range(2, 5):
            coderd.cut_connections()
            coderd.wait_for(lambda count=count: len(coderd.connections) == count)
        talk.wait_connected()
        eventually(lambda: len(ours()) == 4)
    eventually(lambda: not ours(), timeout=15)


def test_an_unknown_message_ends_the_actor(coderd: FakeCoderd) -> None:
    with Talk(coderd) as talk, pytest.raises(TypeError, match="unknown message str"):
        talk.ref.ask("hello", timeout=10)
